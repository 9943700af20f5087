package main

import (
	"bytes"
	"errors"
	"io"
	"regexp"
	"slices"
	"strings"
	"testing"
	"time"
)

func TestTheTableHasEachEngineWithEachNumberOfRules(t *testing.T) {
	t.Parallel()
	var out bytes.Buffer
	if err := run(t.Context(), []string{"-rules", "20,10", "-rounds", "1", "-batch", "1us"}, &out, io.Discard); err != nil {
		t.Fatal(err)
	}
	for _, c := range contests(t.Context()) {
		_, table, found := strings.Cut(out.String(), "\n"+c.title+"\n")
		if !found {
			t.Errorf("there is no table %q", c.title)
		}
		for _, e := range c.engines {
			for _, s := range c.shapes {
				for _, n := range []string{"10", "20"} {
					row := regexp.MustCompile(`(?m)^ *` + n + ` +` + string(s) + ` +` + regexp.QuoteMeta(e.name) + ` +[0-9.]+[mµ]?s +[0-9,.]+ `)
					if !row.MatchString(table) {
						t.Errorf("the table %q has no row %s", c.title, row)
					}
				}
			}
		}
	}
	if t.Failed() {
		t.Log(out.String())
	}
}

// What would take too long is said to, and not left out.
func TestAnEngineThatWouldTakeTooLongIsSaidTo(t *testing.T) {
	t.Parallel()
	slow := engine{name: "slow", load: func([]grant) (decider, error) {
		return func(question) decision { return func() (bool, error) { return true, nil } }, nil
	}}
	c := contest{title: "slow ones", engines: []engine{slow}, shapes: []shape{heaped}, columns: []column{{name: "allowed", questions: last, allowed: true}}}
	e := effort{rules: []int{10, 20, 40}, rounds: 1, batch: time.Microsecond, budget: 0}
	rows, err := c.measure(e)
	if err != nil {
		t.Fatal(err)
	}
	if got := []bool{rows[0].over, rows[1].over, rows[2].over}; !slices.Equal(got, []bool{false, true, true}) {
		t.Errorf("over the budget: %v; the first number of rules is measured, since nobody knows how long it takes", got)
	}
	var out bytes.Buffer
	if err := c.print(&out, rows, time.Minute); err != nil {
		t.Fatal(err)
	}
	if n := strings.Count(out.String(), "over 1m0s"); n != 2 {
		t.Errorf("%d rows say so, want 2:\n%s", n, out.String())
	}
}

// An engine that decides otherwise than it is to is no contender, however fast.
func TestAWrongAnswerIsAnError(t *testing.T) {
	t.Parallel()
	c := contest{engines: []engine{floor()}, shapes: []shape{spread}, columns: []column{{name: "denied", questions: last}}}
	_, err := c.measure(effort{rules: []int{10}, rounds: 1, batch: time.Microsecond, budget: time.Minute})
	if !errors.Is(err, errWrong) {
		t.Errorf("got %v, want %v", err, errWrong)
	}
}

func TestTheCommandLineIsChecked(t *testing.T) {
	t.Parallel()
	for name, test := range map[string]struct {
		args []string
		want string
	}{
		"a number of rules that is no multiple of ten": {[]string{"-rules", "10,15"}, `"15" is not a multiple of ten`},
		"no rules":  {[]string{"-rules", "0"}, `"0" is not a multiple of ten`},
		"no rounds": {[]string{"-rounds", "0"}, "at least one is needed"},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			if err := run(t.Context(), test.args, io.Discard, io.Discard); err == nil || !strings.Contains(err.Error(), test.want) {
				t.Errorf("got %v, want it to say %s", err, test.want)
			}
		})
	}
}

func TestTheFigureIsTheMedianOfTheRounds(t *testing.T) {
	t.Parallel()
	for name, test := range map[string]struct{ rounds, want []float64 }{
		"of one":            {[]float64{7}, []float64{7, 0}},
		"of an odd number":  {[]float64{90, 10, 20, 40, 30}, []float64{30, 20.0 / 30}},
		"of an even number": {[]float64{10, 40, 20, 30}, []float64{25, 10.0 / 25}},
	} {
		b := batch{nanos: test.rounds}
		if f := b.figure(); f.nanos != test.want[0] || f.spread != test.want[1] {
			t.Errorf("%s: got %v, spread %v, want %v", name, f.nanos, f.spread, test.want)
		}
	}
}
