package policycheck

import "github.com/countersign-mesh/countersign/pkg/policy"

// idle warns of the rules of a method that change nothing, whatever is called: an enforced rule without a condition is before them. A rule in
// shadow can be idle too: enforced, it would change nothing either.
func idle(m *policy.Method) []error {
	var warnings []error
	for _, r := range m.Rules {
		for _, over := range m.Rules {
			if over == r || over.Shadow || over.Condition() != "" || !over.Peer.Covers(r.Peer) {
				continue
			}
			if text := inVain(r, over); text != "" {
				warnings = append(warnings, warning(r.Position, "the rule for %s %s: %s %s whatever is called (%s)",
					r.Written, text, verbs[over.Effect], over.Written, over.Place()))
				break
			}
		}
	}
	return warnings
}

var verbs = [...]string{policy.Allow: "another one allows", policy.Deny: "another one denies"} //nolint:gochecknoglobals // a table

// inVain says why r changes nothing beside over, a rule without a condition whose peers include those of r; empty when it does change something.
func inVain(r, over *policy.Rule) string {
	switch {
	case r.Effect == policy.Allow && over.Effect == policy.Deny:
		return "never lets anybody in"
	case r.Effect == policy.Allow && r.Condition() != "":
		return "holds nobody to its condition" // an allow without a condition, beside a wider one, at least says why
	case r.Effect == policy.Deny && over.Effect == policy.Deny && r.Peer == over.Peer:
		return "changes nothing" // one for fewer peers says more exactly why, and decides
	}
	return ""
}
