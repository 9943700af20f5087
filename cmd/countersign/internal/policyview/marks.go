package policyview

import (
	"path/filepath"
	"slices"
	"strconv"
	"strings"
)

// The marks of the states.
const (
	markAllowed = "✓"
	markDenied  = "✗"
	markRevoked = "⊘"
	markNothing = "·"
	markShadow  = "~"
)

func (s State) mark() string {
	switch s {
	case Allowed, Conditional:
		return markAllowed
	case Denied:
		return markDenied
	case Revoked:
		return markRevoked
	default:
		return markNothing
	}
}

// enforced shows what holds: "✓", "(✓) [2]".
func (c cell) enforced() string {
	mark := c.state.mark()
	if c.wider {
		mark = "(" + mark + ")"
	}
	return mark + reference(c.note)
}

// shadowed shows what would hold if the rules in shadow were enforced, where that is something else: "~✗".
func (c cell) shadowed() string {
	if c.planned == "" {
		return ""
	}
	return markShadow + c.planned.mark() + reference(c.plannedNote)
}

// String shows all that is in the cell.
func (c cell) String() string { return strings.TrimSpace(c.enforced() + " " + c.shadowed()) }

func reference(note int) string {
	if note == 0 {
		return ""
	}
	return " [" + strconv.Itoa(note) + "]"
}

// meaning is one line of a legend.
type meaning struct{ mark, text string }

// legend explains the marks that are in the matrix.
func (m *Matrix) legend() []meaning {
	all := []struct {
		meaning
		stands func(cell) bool
	}{
		{meaning{markAllowed, "allowed"}, func(c cell) bool { return c.state == Allowed }},
		{meaning{markAllowed + " [1]", "allowed under a condition, which the note has"}, func(c cell) bool { return c.state == Conditional }},
		{meaning{markDenied, "denied by a rule, whatever allows it"}, func(c cell) bool { return c.state == Denied }},
		{meaning{markRevoked, "the caller is revoked: refused everywhere"}, func(c cell) bool { return c.state == Revoked }},
		{meaning{markNothing, "not allowed"}, func(c cell) bool { return c.state == NotAllowed }},
		{meaning{"(" + markAllowed + ")", "by a rule for more than this caller"}, func(c cell) bool { return c.wider }},
		{meaning{markShadow + markAllowed, "what would be if the rules in shadow were enforced"}, func(c cell) bool { return c.planned != "" }},
	}
	var legend []meaning
	for _, line := range all {
		if m.has(line.stands) {
			legend = append(legend, line.meaning)
		}
	}
	return legend
}

func (m *Matrix) has(what func(cell) bool) bool {
	for _, s := range m.sections {
		for _, r := range s.rows {
			if slices.ContainsFunc(r.cells, what) {
				return true
			}
		}
	}
	return false
}

// title is the heading of the matrix.
func (m *Matrix) title() string { return "Who may call what: " + filepath.Base(m.policy.Name()) }

// closing is what holds for everybody who has no column.
const closing = "Whoever has no column may call nothing."
