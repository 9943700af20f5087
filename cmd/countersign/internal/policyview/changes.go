package policyview

import (
	"encoding/json"
	"fmt"
	"io"
	"strings"

	"github.com/countersign-mesh/countersign/cmd/countersign/internal/console"
)

// nothing is what a difference that is none comes to.
const nothing = "no peer gains or loses anything"

// WriteChanges writes changes for people, service by service.
func WriteChanges(out *console.Console, changes []Change) {
	if len(changes) == 0 {
		out.Printf("%s\n", nothing)
		return
	}
	for i, group := range byService(changes) {
		if i > 0 {
			out.Printf("\n")
		}
		out.Printf("%s\n", out.Say(console.Strong, group.title))
		for _, c := range group.changes {
			sign, tone := c.sign()
			out.Printf("  %s %s\n", out.Say(tone, sign), c.sentence(c.method(), plain))
		}
	}
}

// ChangesMarkdown returns changes in Markdown, for the description of a change that is up for review.
func ChangesMarkdown(changes []Change) string {
	if len(changes) == 0 {
		return strings.ToUpper(nothing[:1]) + nothing[1:] + ".\n"
	}
	var b strings.Builder
	for i, group := range byService(changes) {
		if i > 0 {
			b.WriteString("\n")
		}
		fmt.Fprintf(&b, "### %s\n\n", group.title)
		for _, c := range group.changes {
			fmt.Fprintf(&b, "- %s\n", c.sentence(c.method(), codeSpan))
		}
	}
	return b.String()
}

// WriteChangesJSON writes {"changes": […]}; see Change for what stands in it.
func WriteChangesJSON(w io.Writer, changes []Change) error {
	encoder := json.NewEncoder(w)
	encoder.SetEscapeHTML(false) // conditions have < and & in them, and this is no HTML
	encoder.SetIndent("", "  ")
	if changes == nil {
		changes = []Change{}
	}
	if err := encoder.Encode(map[string][]Change{"changes": changes}); err != nil {
		return fmt.Errorf("write the changes: %w", err)
	}
	return nil
}

// group is the changes of one service, or those of the whole mesh.
type group struct {
	title   string
	changes []Change
}

// byService groups changes, which are in the order of their services.
func byService(changes []Change) []group {
	var groups []group
	for _, c := range changes {
		title := c.Service
		if title == "" {
			title = "everywhere"
		}
		if len(groups) == 0 || groups[len(groups)-1].title != title {
			groups = append(groups, group{title: title})
		}
		last := &groups[len(groups)-1]
		last.changes = append(last.changes, c)
	}
	return groups
}

// method is the method without its service.
func (c Change) method() string { return strings.TrimPrefix(c.Method, c.Service+"/") }

// sign says at a glance whether somebody may do more, or less, or something else.
func (c Change) sign() (string, console.Tone) {
	switch c.Kind {
	case Gains, PeerRestored, ConditionRemoved, DenyRemoved, ServedByAdded, ServiceAdded, MethodAdded:
		return "+", console.Good
	case Loses, PeerRevoked, ConditionAdded, DenyAdded, ServedByRemoved, ServiceRemoved, MethodRemoved:
		return "-", console.Bad
	default:
		return "~", console.Wary
	}
}

// codeSpan writes text as code in Markdown. The fence is longer than any row of backticks in it (CommonMark §6.1).
func codeSpan(text string) string {
	fence := "`"
	for strings.Contains(text, fence) {
		fence += "`"
	}
	if strings.HasPrefix(text, "`") || strings.HasSuffix(text, "`") {
		text = " " + text + " "
	}
	return fence + text + fence
}
