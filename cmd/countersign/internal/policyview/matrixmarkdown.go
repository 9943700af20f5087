package policyview

import (
	"fmt"
	"path/filepath"
	"strings"
)

// Markdown returns the matrix in Markdown, a table for each service. It names no version and no line of the policy, so that it can be committed
// beside it and changes when what it says does.
func (m *Matrix) Markdown() string {
	var b strings.Builder
	fmt.Fprintf(&b, "# %s\n\n", m.title())
	fmt.Fprintf(&b, "Made by `countersign policy matrix --policy %s --format markdown`; not written by hand.\n", filepath.ToSlash(m.policy.Name()))
	b.WriteString("Rows are methods, columns are callers. " + closing + "\n\n")
	for _, line := range m.legend() {
		fmt.Fprintf(&b, "- %s %s\n", line.mark, line.text)
	}
	for _, s := range m.sections {
		fmt.Fprintf(&b, "\n## %s\n\n", s.service)
		if len(s.servedBy) > 0 {
			fmt.Fprintf(&b, "Served by %s.\n\n", spans(s.servedBy, ", "))
		}
		m.markdownTable(&b, s)
	}
	if len(m.notes) > 0 {
		b.WriteString("\n## Notes\n\n")
	}
	for i, note := range m.notes {
		fmt.Fprintf(&b, "%d. %s\n", i+1, note.words(codeSpan))
	}
	return b.String()
}

func (m *Matrix) markdownTable(b *strings.Builder, s section) {
	b.WriteString("| method |")
	if len(m.callers) > 0 {
		b.WriteString(" " + spans(m.callers, " | ") + " |")
	}
	b.WriteString("\n| --- |" + strings.Repeat(" :---: |", len(m.callers)) + "\n")
	for _, r := range s.rows {
		b.WriteString("| " + r.label() + " |")
		for _, c := range r.cells {
			b.WriteString(" " + c.String() + " |")
		}
		b.WriteString("\n")
	}
}

// spans writes each text as code.
func spans(texts []string, between string) string {
	all := make([]string, len(texts))
	for i, text := range texts {
		all[i] = codeSpan(text)
	}
	return strings.Join(all, between)
}
