package console

import (
	"bytes"
	"log/slog"
	"regexp"
	"strings"
	"testing"
	"time"
)

// strip takes the colours out.
func strip(s string) string { return regexp.MustCompile("\x1b\\[[0-9;]*m").ReplaceAllString(s, "") }

// terminal is an environment that has even a buffer coloured.
func terminal() []string { return []string{"TERM=xterm-256color", "CLICOLOR_FORCE=1"} }

func TestLogLinesAreReadableAtATerminalAndUntouchedElsewhere(t *testing.T) {
	t.Parallel()
	at := time.Date(2026, 3, 4, 15, 4, 5, 678_000_000, time.Local).Format(time.RFC3339Nano)
	for name, test := range map[string]struct{ line, want string }{
		"a message": {
			`time=` + at + ` level=WARN msg="call denied" peer=spiffe://bank.test/risk reason="allowed for \"/payments\"" none=""`,
			`15:04:05.678 call denied peer=spiffe://bank.test/risk reason="allowed for \"/payments\"" none=""`,
		},
		"a message alone":     {`time=` + at + ` level=INFO msg=stopping`, `15:04:05.678 stopping`},
		"a panic":             {"panic: runtime error: a=b", "panic: runtime error: a=b"},
		"a quote left open":   {`time=` + at + ` level=INFO msg="stop`, `time=` + at + ` level=INFO msg="stop`},
		"no time":             {"time=now level=INFO msg=x", "time=now level=INFO msg=x"},
		"keys of another log": {"a=b c=d e=f", "a=b c=d e=f"},
		"nothing":             {"", ""},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			var shown, plain bytes.Buffer
			New(&shown, terminal()).Line("risk", test.line)
			New(&plain, nil).Line("risk", test.line)
			if got, want := strip(shown.String()), "risk      │ "+test.want+"\n"; got != want {
				t.Errorf("at a terminal\n%q, want\n%q", got, want)
			}
			if got, want := plain.String(), "risk      │ "+test.line+"\n"; got != want {
				t.Errorf("elsewhere\n%q, want\n%q", got, want)
			}
		})
	}
}

func FuzzParseLine(f *testing.F) {
	f.Add(`time=2026-03-04T15:04:05Z level=INFO msg="a b" c="d\ne"`)
	f.Add("=\"=")
	f.Fuzz(func(t *testing.T, line string) {
		list, ok := parseLine(line)
		if ok && (list[0].key != "time" || list[1].key != "level" || list[2].key != "msg") {
			t.Errorf("taken for a log line: %q", line)
		}
	})
}

func TestWhatSlogWritesIsTakenApartAgain(t *testing.T) {
	t.Parallel()
	for _, value := range []string{"", "a", "a b", `"`, "a=b", "\n", "é", `C:\x`, "]"} {
		var b bytes.Buffer
		slog.New(slog.NewTextHandler(&b, nil)).Info("a message", "key", value)
		list, ok := parseLine(strings.TrimSuffix(b.String(), "\n"))
		if !ok || len(list) != 4 || list[2].value != "a message" || list[3] != (attribute{"key", value}) {
			t.Errorf("%q became %q", value, list)
		}
	}
}
