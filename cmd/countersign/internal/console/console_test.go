package console_test

import (
	"bytes"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/countersign-mesh/countersign/cmd/countersign/internal/console"
)

// coloured is an environment in which even a writer that is no terminal is coloured.
var coloured = []string{"TERM=xterm-256color", "CLICOLOR_FORCE=1"}

func TestATableIsPlainTextWhereNoTerminalIs(t *testing.T) {
	t.Parallel()
	var out bytes.Buffer
	c := console.New(&out, []string{"TERM=xterm-256color"})
	c.Table([]string{"Service", "Address"}, [][]console.Cell{
		{{Text: "gateway"}, {Text: "localhost:7443"}},
		{{Text: "audit", Tone: console.Bad}, {Text: "-"}},
	})
	want := "  SERVICE  ADDRESS\n" +
		"  gateway  localhost:7443\n" +
		"  audit    -\n"
	if diff := cmp.Diff(want, out.String()); diff != "" {
		t.Errorf("the table differs (-want +got):\n%s", diff)
	}
}

func TestColoursFollowTheEnvironment(t *testing.T) {
	t.Parallel()
	for name, test := range map[string]struct {
		environ []string
		want    bool
	}{
		"forced":                 {coloured, true},
		"no terminal":            {[]string{"TERM=xterm-256color"}, false},
		"forced, but NO_COLOR":   {append([]string{"NO_COLOR=please"}, coloured...), false},
		"forced, NO_COLOR empty": {append([]string{"NO_COLOR="}, coloured...), true},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			var out bytes.Buffer
			c := console.New(&out, test.environ)
			c.Line("ledger", "ready")
			c.Printf("%s", c.Say(console.Bad, "denied"))
			if got := strings.Contains(out.String(), "\x1b["); got != test.want {
				t.Errorf("coloured: %v, want %v: %q", got, test.want, out.String())
			}
		})
	}
}

func TestLinesOfProgramsAreAligned(t *testing.T) {
	t.Parallel()
	var out bytes.Buffer
	c := console.New(&out, nil)
	c.Line("authority", "one")
	c.Line("risk", "two")
	if got, want := out.String(), "authority │ one\nrisk      │ two\n"; got != want {
		t.Errorf("got %q, want %q", got, want)
	}
}

func TestDurationsAndSizesAreForPeople(t *testing.T) {
	t.Parallel()
	for got, want := range map[string]string{
		console.Span(43 * time.Second):                      "43 s",
		console.Span(112 * time.Second):                     "1 min 52 s",
		console.Span(2*time.Hour + 5*time.Minute):           "2 h 5 min",
		console.Seconds(1234 * time.Millisecond):            "1.2 s",
		console.Mebibytes(23*(1<<20) + 419_431):             "23.4 MiB",
		console.Span(59*time.Second + 700*time.Millisecond): "1 min 0 s",
	} {
		if got != want {
			t.Errorf("got %q, want %q", got, want)
		}
	}
}
