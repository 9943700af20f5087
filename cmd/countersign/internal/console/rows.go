package console

import (
	"strings"
	"unicode"
	"unicode/utf8"
)

// Rows is a table that is written while its rows come: each column is as wide as it had to be so far. It is for one goroutine. The zero value
// is not usable; see Console.Rows.
type Rows struct {
	c      *Console
	widths []int
}

// Rows begins a table whose rows are to come. widths are how wide its columns are at least.
func (c *Console) Rows(headers []string, widths ...int) *Rows {
	r := &Rows{c: c, widths: make([]int, len(headers))}
	copy(r.widths, widths)
	cells := make([]Cell, len(headers))
	for i, h := range headers {
		cells[i] = Cell{Text: strings.ToUpper(h), Tone: Faint}
	}
	r.Add(cells)
	return r
}

// Add writes a row.
func (r *Rows) Add(cells []Cell) {
	var b strings.Builder
	for i, cell := range cells {
		r.widths[i] = max(r.widths[i], utf8.RuneCountInString(cell.Text))
		b.WriteString("  " + r.c.Say(cell.Tone, cell.Text))
		if i < len(cells)-1 {
			b.WriteString(strings.Repeat(" ", r.widths[i]-utf8.RuneCountInString(cell.Text)))
		}
	}
	r.c.Printf("%s\n", b.String())
}

// Visible returns text that came from outside with a mark for each character that cannot be seen: those that steer a terminal are among
// them.
func Visible(text string) string {
	return strings.Map(func(c rune) rune {
		if unicode.IsPrint(c) {
			return c
		}
		return unicode.ReplacementChar
	}, text)
}
