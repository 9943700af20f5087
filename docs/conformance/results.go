package main

import (
	"cmp"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"slices"
	"strings"
)

const (
	passed   = "pass"
	noResult = "it has no result"
)

// test is a test, or a part of one, that names requirements.
type test struct {
	pkg  string
	name string
	// result is the last action of go test -json: pass, fail or skip; noResult if the process ended before.
	result       string
	requirements []string
	output       strings.Builder
}

// event is one line of go test -json; see go doc test2json.
type event struct {
	Action  string
	Package string
	Test    string
	Key     string
	Value   string
	Output  string
}

// readTests returns the tests that name a requirement by an attribute, sorted by package and name. Others are of no interest, whatever came of them.
func readTests(events io.Reader, attribute string) ([]*test, error) {
	type key struct{ pkg, name string }
	all := make(map[key]*test)
	var build strings.Builder
	decoder := json.NewDecoder(events)
	for {
		var e event
		if err := decoder.Decode(&e); errors.Is(err, io.EOF) {
			break
		} else if err != nil {
			return nil, err
		}
		switch e.Action {
		case "build-output":
			build.WriteString(e.Output)
		case "build-fail":
			return nil, fmt.Errorf("the tests do not build:\n%s", build.String())
		}
		if e.Test == "" {
			continue
		}
		k := key{e.Package, e.Test}
		t, ok := all[k]
		if !ok {
			t = &test{pkg: e.Package, name: e.Test, result: noResult}
			all[k] = t
		}
		t.add(e, attribute)
	}
	var named []*test
	for _, t := range all {
		if len(t.requirements) > 0 {
			named = append(named, t)
		}
	}
	slices.SortFunc(named, func(a, b *test) int {
		return cmp.Or(strings.Compare(a.pkg, b.pkg), strings.Compare(a.name, b.name))
	})
	return named, nil
}

func (t *test) add(e event, attribute string) {
	switch e.Action {
	case "attr":
		if e.Key == attribute && !slices.Contains(t.requirements, e.Value) {
			t.requirements = append(t.requirements, e.Value)
		}
	case "output":
		t.output.WriteString(e.Output)
	case "pass", "fail", "skip":
		t.result = e.Action
	}
}

// function is the test's function.
func (t *test) function() string {
	function, _, _ := strings.Cut(t.name, "/")
	return function
}

// part is what the function calls this part of it, with the spaces that go test has taken out, and without what the reader of the
// document knows already or does not need: the section before, and the number of the attack behind.
func (t *test) part() string {
	_, part, _ := strings.Cut(t.name, "/")
	part = strings.ReplaceAll(part, "_", " ")
	if _, after, ok := strings.Cut(part, ": "); ok {
		part = after
	}
	part, _, _ = strings.Cut(part, " (ATTACKS ")
	return part
}
