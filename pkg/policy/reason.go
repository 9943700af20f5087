package policy

import (
	"fmt"
	"slices"
	"strings"
)

// awaits says what an undecided call depends on.
func (c Call) awaits(r *Rule) string {
	if r.User != "" && c.userUnknown() {
		return r.awaits
	}
	return r.depends("the request")
}

// depends says what whether a rule applies depends on.
func (r *Rule) depends(on string) string {
	verb := "allows"
	if r.Effect == Deny {
		verb = "denies"
	}
	text := fmt.Sprintf("%s: it depends on %s: the rule %s %s%s", r.place, on, verb, r.Written, r.withUser())
	if r.When != "" {
		text += " when " + r.When
	}
	return text
}

// withUser is the user that a rule asks for, as reasons have it after the peer.
func (r *Rule) withUser() string {
	if r.User == "" {
		return ""
	}
	return " with a user's token for " + r.User
}

// maxNamed bounds how many peers a reason names: a denied call must not cost more the more rules there are.
const maxNamed = 8

// nearest returns the rule of a caller that came nearest to allowing a call, which has a user where rules ask for one: the first that asks for the user's scope or for none, or
// else the first.
func nearest(own []*Rule, call Call) *Rule {
	var first *Rule
	for _, r := range own {
		if r.Effect != Allow {
			continue
		}
		if r.User == "" || call.User.has(r.User) {
			return r
		}
		keepFirst(&first, r)
	}
	return first
}

// nearestMiss says what came nearest to allowing a call that no rule allows: one of the rules for its caller, whose condition did not hold, or
// else who would have been allowed instead.
func (p *Policy) nearestMiss(m *Method, own []*Rule, call Call) string {
	if r := nearest(own, call); r != nil {
		if r.User != "" && !call.User.has(r.User) {
			return fmt.Sprintf("%s: allowed for %s%s; the token is for %q", r.place, r.Written, r.withUser(), call.User.Scope)
		}
		return fmt.Sprintf("%s: allowed for %s%s when %s, which this call is not", r.place, r.Written, r.withUser(), r.When)
	}
	if len(m.allowing) == 0 {
		return place(m.Position) + ": nobody is allowed to call it"
	}
	looked := m.allowing[:min(len(m.allowing), maxNamed)]
	var names []string
	for _, r := range looked {
		if !slices.Contains(names, r.Written) { // of one peer there may be several rules
			names = append(names, r.Written)
		}
	}
	allowed := strings.Join(names, ", ")
	if more := len(m.allowing) - len(looked); more > 0 {
		allowed += fmt.Sprintf(" and %d more", more)
	}
	return fmt.Sprintf("%s: allowed for %s; the caller is %s", place(m.Position), allowed, p.short(call.Peer.ID))
}
