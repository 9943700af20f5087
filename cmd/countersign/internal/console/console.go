// Package console writes for people: tables, verdicts and the logs of many programs in one stream. It colours what it writes
// where the writer is a terminal that shows colours, and writes plain text everywhere else.
package console

import (
	"fmt"
	"hash/fnv"
	"image/color"
	"io"
	"slices"
	"strings"
	"sync"

	"charm.land/lipgloss/v2"
	"charm.land/lipgloss/v2/table"
	"github.com/charmbracelet/colorprofile"
)

// Console is one writer. It is safe for concurrent use: what one call writes stays together. The zero value is not usable; see New.
type Console struct {
	mu       sync.Mutex
	w        io.Writer
	coloured bool
}

// New returns a Console on w. Whether it colours depends on w being a terminal and on the environment: NO_COLOR
// (https://no-color.org), TERM, CLICOLOR_FORCE.
func New(w io.Writer, environ []string) *Console {
	return &Console{w: w, coloured: colorprofile.Detect(w, environ) > colorprofile.ASCII && !noColour(environ)}
}

// noColour reports whether NO_COLOR is set to anything but nothing, as its standard has it; colorprofile wants a boolean.
func noColour(environ []string) bool {
	return slices.ContainsFunc(environ, func(s string) bool {
		value, ok := strings.CutPrefix(s, "NO_COLOR=")
		return ok && value != ""
	})
}

// Printf writes formatted text. A failure to write is not reported: there is nobody left to tell.
func (c *Console) Printf(format string, args ...any) {
	c.mu.Lock()
	defer c.mu.Unlock()
	_, _ = fmt.Fprintf(c.w, format, args...)
}

// Tone is how a piece of text sounds.
type Tone int

// The tones.
const (
	Plain Tone = iota
	Strong
	Faint
	Good
	Bad
	Wary
	Accent
)

// Say returns text in a tone; the text itself when the console does not colour.
func (c *Console) Say(tone Tone, text string) string {
	if !c.coloured || text == "" {
		return text
	}
	return style(tone).Render(text)
}

func style(tone Tone) lipgloss.Style {
	s := lipgloss.NewStyle()
	switch tone {
	case Strong:
		return s.Bold(true)
	case Faint:
		return s.Faint(true)
	case Good:
		return s.Foreground(lipgloss.Green)
	case Bad:
		return s.Foreground(lipgloss.Red).Bold(true)
	case Wary:
		return s.Foreground(lipgloss.Yellow)
	case Accent:
		return s.Foreground(lipgloss.Cyan)
	default:
		return s
	}
}

// Cell is one cell of a table.
type Cell struct {
	Text string
	Tone Tone
}

// Table writes a table. Every row has as many cells as there are headers; without headers there is no line for them.
func (c *Console) Table(headers []string, rows [][]Cell) {
	upper := make([]string, len(headers))
	for i, h := range headers {
		upper[i] = c.Say(Faint, strings.ToUpper(h))
	}
	t := table.New().Border(lipgloss.HiddenBorder()).
		BorderTop(false).BorderBottom(false).BorderLeft(false).BorderRight(false).BorderHeader(false).
		StyleFunc(func(_, _ int) lipgloss.Style { return lipgloss.NewStyle().PaddingRight(1) })
	if len(headers) > 0 {
		t.Headers(upper...)
	}
	for _, row := range rows {
		texts := make([]string, len(row))
		for i, cell := range row {
			texts[i] = c.Say(cell.Tone, cell.Text)
		}
		t.Row(texts...)
	}
	var b strings.Builder
	for line := range strings.Lines(t.Render() + "\n") {
		b.WriteString("  " + strings.TrimRight(line, " \n") + "\n")
	}
	c.Printf("%s", b.String())
}

// Line writes one line of a program's log behind the program's name. A terminal shows it for people; anything else gets the line as
// it is, for programs.
func (c *Console) Line(program, line string) {
	const width = 10 // the longest name of the bank's programs, "authority", and a space
	name := fmt.Sprintf("%-*s", width, program)
	if c.coloured {
		name = lipgloss.NewStyle().Foreground(colourOf(program)).Render(name)
		line = c.readable(line)
	}
	c.Printf("%s%s %s\n", name, c.Say(Faint, "│"), line)
}

// colourOf gives a program its colour: the bank's are told apart at a glance, any other has one by its name.
func colourOf(program string) color.Color {
	palette := map[string]color.Color{
		"authority": lipgloss.BrightWhite, "gateway": lipgloss.BrightBlue, "accounts": lipgloss.BrightMagenta,
		"payments": lipgloss.BrightGreen, "ledger": lipgloss.BrightYellow, "risk": lipgloss.BrightRed, "audit": lipgloss.BrightCyan,
	}
	if colour, ok := palette[program]; ok {
		return colour
	}
	hash := fnv.New32a()
	_, _ = hash.Write([]byte(program)) // never fails
	return lipgloss.ANSIColor(uint8(1 + hash.Sum32()%6))
}
