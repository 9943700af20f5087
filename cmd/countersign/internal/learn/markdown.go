package learn

import (
	"fmt"
	"io"
	"strings"
)

// Markdown writes a report as Markdown.
func Markdown(w io.Writer, report []Section) error {
	var b strings.Builder
	for i, section := range report {
		if i > 0 {
			b.WriteByte('\n')
		}
		fmt.Fprintf(&b, "## %s\n\n", escape(section.Title))
		switch {
		case len(section.Rows) == 0:
			b.WriteString(escape(section.Else) + "\n")
		case len(section.Headers) == 1: // no more than a list
			for _, row := range section.Rows {
				b.WriteString("- " + escape(row[0]) + "\n")
			}
		default:
			writeRow(&b, section.Headers)
			b.WriteString(strings.Repeat("| --- ", len(section.Headers)) + "|\n")
			for _, row := range section.Rows {
				writeRow(&b, row)
			}
		}
	}
	_, err := io.WriteString(w, b.String())
	return err
}

func writeRow(b *strings.Builder, cells []string) {
	for _, cell := range cells {
		b.WriteString("| " + escape(cell) + " ")
	}
	b.WriteString("|\n")
}

// escape keeps a text from being anything but text: what is in it came from callers and servers.
func escape(text string) string {
	return strings.NewReplacer(`\`, `\\`, "|", `\|`, "*", `\*`, "_", `\_`, "`", "\\`", "<", "&lt;", "[", `\[`, "\n", " ").Replace(text)
}
