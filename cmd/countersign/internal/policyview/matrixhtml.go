package policyview

import (
	_ "embed" // matrix.html
	"fmt"
	"html/template"
	"io"
	"strings"
)

// wide is how many callers there may be before their names stand upright.
const wide = 9

//go:embed matrix.html
var page string

// WriteHTML writes the matrix as a page that needs nothing else: no script, no other file, no network.
func (m *Matrix) WriteHTML(w io.Writer) error {
	parsed, err := template.New("matrix.html").Parse(page)
	if err != nil {
		return fmt.Errorf("read the template of the matrix: %w", err)
	}
	view := struct {
		Title, Version, Closing string
		Upright                 bool
		Span                    int
		Callers                 []htmlCaller
		Sections                []htmlSection
		Notes                   []string
		Legend                  []htmlMeaning
	}{
		Title: m.title(), Version: m.policy.Version(), Closing: closing, Upright: len(m.callers) > wide, Span: len(m.callers) + 1,
	}
	for i, caller := range m.callers {
		view.Callers = append(view.Callers, htmlCaller{Short: caller, Whole: m.whole[i]})
	}
	for _, s := range m.sections {
		view.Sections = append(view.Sections, m.htmlSection(s))
	}
	for _, note := range m.notes {
		view.Notes = append(view.Notes, note.words(plain))
	}
	for _, line := range m.legend() {
		view.Legend = append(view.Legend, htmlMeaning{Mark: line.mark, Text: line.text})
	}
	if err := parsed.Execute(w, view); err != nil {
		return fmt.Errorf("write the matrix: %w", err)
	}
	return nil
}

type (
	htmlCaller  struct{ Short, Whole string }
	htmlMeaning struct{ Mark, Text string }
	htmlSection struct {
		Service, ServedBy string
		Rows              []htmlRow
	}
	htmlRow struct {
		Method string
		Nobody bool
		Cells  []htmlCell
	}
	htmlCell struct{ State, Enforced, Shadowed, Title string }
)

func (m *Matrix) htmlSection(s section) htmlSection {
	out := htmlSection{Service: s.service, ServedBy: strings.Join(s.servedBy, ", ")}
	for _, r := range s.rows {
		line := htmlRow{Method: r.method, Nobody: r.nobody()}
		for i, c := range r.cells {
			line.Cells = append(line.Cells, htmlCell{State: string(c.state), Enforced: c.enforced(), Shadowed: c.shadowed(), Title: m.htmlTitle(r, c, i)})
		}
		out.Rows = append(out.Rows, line)
	}
	return out
}

// htmlTitle is what a browser shows above a cell.
func (m *Matrix) htmlTitle(r row, c cell, caller int) string {
	state := strings.ReplaceAll(string(c.state), "_", " ")
	if c.note > 0 {
		state = m.notes[c.note-1].words(plain)
	}
	title := fmt.Sprintf("%s, %s: %s", m.callers[caller], r.method, state)
	if c.reason != "" {
		title += " (" + c.reason + ")"
	}
	return title
}
