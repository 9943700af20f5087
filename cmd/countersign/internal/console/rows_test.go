package console_test

import (
	"bytes"
	"testing"

	"github.com/google/go-cmp/cmp"

	"github.com/countersign-mesh/countersign/cmd/countersign/internal/console"
)

func TestRowsThatComeOneByOneStandBelowEachOther(t *testing.T) {
	t.Parallel()
	var out bytes.Buffer
	rows := console.New(&out, nil).Rows([]string{"position", "peer", "why"}, 0, 6)
	rows.Add([]console.Cell{{Text: "1"}, {Text: "/risk"}, {Text: "no rule"}})
	rows.Add([]console.Cell{{Text: "2"}, {Text: "/größer", Tone: console.Bad}, {Text: "-"}})
	rows.Add([]console.Cell{{Text: "3"}, {Text: "/risk"}, {Text: "-"}})
	want := "  POSITION  PEER    WHY\n" +
		"  1         /risk   no rule\n" +
		"  2         /größer  -\n" +
		"  3         /risk    -\n"
	if diff := cmp.Diff(want, out.String()); diff != "" {
		t.Errorf("the rows differ (-want +got):\n%s", diff)
	}
}

// A caller names the method that it is denied, and it ends up on the terminal of whoever looks at it.
func TestWhatSteersATerminalIsShownAndNotSent(t *testing.T) {
	t.Parallel()
	if got, want := console.Visible("/a\x1b[2Jb\u009b1mc\r\n\u202eü€"), "/a�[2Jb�1mc���ü€"; got != want {
		t.Errorf("shown as %q, want %q", got, want)
	}
}
