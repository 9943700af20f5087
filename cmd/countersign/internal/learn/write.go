package learn

import (
	"encoding/json"
	"fmt"
	"strings"
	"time"
	"unicode"

	"github.com/spiffe/go-spiffe/v2/spiffeid"
	"go.yaml.in/yaml/v3"

	"github.com/countersign-mesh/countersign/pkg/policy"
	policyv1 "github.com/countersign-mesh/countersign/proto/gen/mesh/policy/v1"
)

// writer writes a policy file.
type writer struct {
	strings.Builder
	own spiffeid.TrustDomain
}

// line writes a line at a depth of the file.
func (w *writer) line(depth int, format string, args ...any) {
	if format != "" {
		w.WriteString(strings.Repeat("  ", depth))
	}
	fmt.Fprintf(w, format, args...)
	w.WriteByte('\n')
}

func (w *writer) service(s *policy.Service) {
	w.line(1, "%s:", s.Name)
	if len(s.ServedBy) > 0 {
		var servers []string
		for _, p := range s.ServedBy {
			servers = append(servers, scalar(p.Short(w.own)))
		}
		w.line(2, "served_by: [%s]", strings.Join(servers, ", "))
	}
	w.line(2, "methods:")
}

// list writes the rules of a method that allow or deny.
func (w *writer) list(name string, items []item) {
	if len(items) == 0 {
		w.line(4, "%s: []", name)
		return
	}
	w.line(4, "%s:", name)
	for _, i := range items {
		w.line(5, "- peer: %s", scalar(i.peer))
		if i.user != "" {
			w.line(6, "user: %s", scalar(i.user))
		}
		if i.when != "" {
			w.line(6, "when: %s", scalar(i.when))
		}
		if i.shadow {
			w.line(6, "shadow: true")
		}
		if i.why != "" {
			w.line(6, "why: %s", scalar(i.why))
		}
	}
}

// comment writes a rule that is not one, for a person to look at.
func (w *writer) comment(peer, about string) {
	name := peer
	if id, err := spiffeid.FromString(peer); err == nil {
		name = w.short(id)
	}
	w.line(5, "# - peer: %s # %s", plain(name), plain(about))
}

func (w *writer) revoked(entries []*policyv1.Revocation) {
	if len(entries) == 0 {
		return
	}
	w.line(0, "")
	w.line(0, "revoked:")
	for _, r := range entries {
		switch {
		case r.GetId() != "":
			w.line(1, "- id: %s", scalar(r.GetId()))
		case r.GetSerial() != "":
			w.line(1, "- serial: %s", quoted(r.GetSerial())) // 123 and 1e5 are numbers to YAML
		default:
			w.line(1, "- authority: %s", quoted(r.GetAuthority()))
		}
		if r.GetWhy() != "" {
			w.line(2, "why: %s", scalar(r.GetWhy()))
		}
	}
}

// short writes an ID as a rule does.
func (w *writer) short(id spiffeid.ID) string {
	if id.MemberOf(w.own) {
		return id.Path()
	}
	return id.String()
}

// scalar writes a text so that YAML reads it as the same text, in one line.
func scalar(text string) string {
	written, err := yaml.Marshal(text)
	if line := strings.TrimSuffix(string(written), "\n"); err == nil && !strings.Contains(line, "\n") {
		return line
	}
	return quoted(text)
}

// quoted writes a text in the form that JSON and YAML have in common.
func quoted(text string) string {
	written, err := json.Marshal(text)
	if err != nil { // never of a string
		return `""`
	}
	return string(written)
}

// plain makes a text that came from elsewhere one line of visible characters: what a server says of a call must not become a line of a
// policy, nor an order to a terminal.
func plain(text string) string {
	return strings.Map(func(r rune) rune {
		if unicode.IsGraphic(r) && r != '\u2028' && r != '\u2029' {
			return r
		}
		return ' '
	}, text)
}

// stamp writes a moment to the second.
func stamp(at time.Time) string { return at.UTC().Format(time.RFC3339) }
