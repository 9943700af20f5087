package policyview

import (
	"fmt"
	"strconv"
	"strings"
	"unicode/utf8"

	"github.com/countersign-mesh/countersign/cmd/countersign/internal/console"
)

const (
	// maxWidth is what a line may take: two files side by side on a wide screen, or one on paper.
	maxWidth = 120
	// margin and gap are what a console's table has before a line and behind a cell.
	margin = 2
	gap    = 2
	// forNobody stands behind a method that nobody may call.
	forNobody = " (nobody)"
)

// WriteText writes the matrix for people, a table for each service. Where the names of the callers are too wide for a line, their columns have
// numbers, and where those are too many, a service has several tables.
func (m *Matrix) WriteText(out *console.Console) {
	out.Printf("%s, %s\n", out.Say(console.Strong, m.title()), out.Say(console.Faint, "version "+m.policy.Version()))
	headers, numbered := m.headers()
	if numbered {
		out.Printf("\nThe callers:\n")
		var rows [][]console.Cell
		for i, caller := range m.callers {
			rows = append(rows, []console.Cell{{Text: headers[i]}, {Text: caller, Tone: console.Strong}})
		}
		out.Table(nil, rows)
	}
	for _, s := range m.sections {
		for start := 0; start == 0 || start < len(headers); {
			end := m.fits(headers, start)
			out.Printf("\n%s\n", s.heading(func(text string) string { return out.Say(console.Strong, text) }))
			out.Table(nil, m.table(s, headers, start, end))
			start = max(end, 1)
		}
	}
	m.writeNotes(out)
}

func (m *Matrix) writeNotes(out *console.Console) {
	if len(m.notes) > 0 {
		out.Printf("\n")
	}
	for i, note := range m.notes {
		out.Printf(" %s %s\n", reference(i+1), note.words(plain))
	}
	out.Printf("\n")
	var rows [][]console.Cell
	for _, line := range m.legend() {
		rows = append(rows, []console.Cell{{Text: line.mark}, {Text: line.text, Tone: console.Faint}})
	}
	if len(rows) > 0 {
		out.Table(nil, rows)
	}
	out.Printf("\n%s\n", closing)
}

// heading names a service and who serves it.
func (s section) heading(name func(string) string) string {
	heading := name(s.service)
	if len(s.servedBy) > 0 {
		heading += ", served by " + strings.Join(s.servedBy, ", ")
	}
	return heading
}

// table has the callers from start to end. The columns of all services are in line.
func (m *Matrix) table(s section, headers []string, start, end int) [][]console.Cell {
	methods := m.methodWidth()
	first := []console.Cell{{}}
	for _, header := range headers[start:end] {
		first = append(first, console.Cell{Text: header, Tone: console.Faint})
	}
	rows := [][]console.Cell{first}
	for _, r := range s.rows {
		line := []console.Cell{{Text: fmt.Sprintf("%-*s", methods, r.label())}}
		for _, c := range r.cells[start:end] {
			line = append(line, console.Cell{Text: c.String(), Tone: c.tone()})
		}
		rows = append(rows, line)
	}
	return rows
}

func (r row) label() string {
	if r.nobody() {
		return r.method + forNobody
	}
	return r.method
}

func (c cell) tone() console.Tone {
	switch {
	case c.planned != "" || c.state == Conditional:
		return console.Wary
	case c.state == Allowed:
		return console.Good
	case c.state == NotAllowed:
		return console.Faint
	default:
		return console.Bad
	}
}

// headers returns what stands above the columns: the callers, or their numbers when the callers do not fit on a line.
func (m *Matrix) headers() (headers []string, numbered bool) {
	if m.fits(m.callers, 0) == len(m.callers) {
		return m.callers, false
	}
	for i := range m.callers {
		headers = append(headers, strconv.Itoa(i+1))
	}
	return headers, true
}

// fits returns the end of the columns, from start on, that fit on a line of every service. It is one column at least.
func (m *Matrix) fits(headers []string, start int) int {
	width := margin + m.methodWidth() + gap
	end := start
	for end < len(headers) {
		width += m.width(headers, end) + gap
		if width > maxWidth && end > start {
			break
		}
		end++
	}
	return end
}

// methodWidth is that of the column of methods.
func (m *Matrix) methodWidth() int {
	width := 0
	for _, s := range m.sections {
		for _, r := range s.rows {
			width = max(width, len(r.label()))
		}
	}
	return width
}

// width is that of a column.
func (m *Matrix) width(headers []string, column int) int {
	width := utf8.RuneCountInString(headers[column])
	for _, s := range m.sections {
		for _, r := range s.rows {
			width = max(width, utf8.RuneCountInString(r.cells[column].String()))
		}
	}
	return width
}
