package policyview

import (
	"cmp"
	"slices"
	"strings"

	"cel.dev/cel-go/cel"
	"google.golang.org/protobuf/proto"

	"github.com/countersign-mesh/countersign/pkg/policy"
)

// State is how far a peer gets with a method.
type State string

// The states.
const (
	// NotAllowed is that of whom no rule allows.
	NotAllowed State = "not_allowed"
	// Denied is that of whom a rule denies, whatever else allows them.
	Denied State = "denied"
	// Revoked is that of whom the policy revokes.
	Revoked State = "revoked"
	// Conditional is that of whose calls some are allowed; see Access.
	Conditional State = "conditional"
	// Allowed is that of whose calls are all allowed.
	Allowed State = "allowed"
)

// Access is what the rules of a method come to for a peer.
type Access struct {
	State State `json:"state"`
	// When are the conditions of which one must hold for a call to be allowed. There is none when that is not asked.
	When []string `json:"when,omitempty"`
	// Unless are the conditions of which each denies a call, whatever allows it.
	Unless []string `json:"unless,omitempty"`
}

// can reports whether some call is allowed.
func (a Access) can() bool { return a.State == Allowed || a.State == Conditional }

// equal reports whether two accesses are the same, however their conditions are written.
func (a Access) equal(b Access, c *conditions) bool {
	return a.State == b.State && c.equal(a.When, b.When) && c.equal(a.Unless, b.Unless)
}

// words says what may be called. code marks what is no word of ours, such as a condition.
func (a Access) words(code func(string) string) string {
	text := strings.ReplaceAll(string(a.State), "_", " ")
	if a.State == Conditional {
		text = string(Allowed)
	}
	if len(a.When) > 0 {
		text += " when " + list(a.When, code)
	}
	switch {
	case len(a.Unless) > 0 && a.can():
		text += ", but denied when " + list(a.Unless, code)
	case len(a.Unless) > 0:
		text += ", and denied when " + list(a.Unless, code)
	}
	return text
}

func list(conditions []string, code func(string) string) string {
	texts := make([]string, len(conditions))
	for i, condition := range conditions {
		texts[i] = code(oneLine(condition))
	}
	return strings.Join(texts, " or ")
}

// oneLine writes a condition that the file has on several lines on one. Where it has a comment, the ends of the lines show: what stands behind them
// must not look like a part of it.
func oneLine(condition string) string {
	lines := strings.Split(strings.TrimSpace(condition), "\n")
	for i, line := range lines {
		lines[i] = strings.TrimSpace(line)
	}
	if strings.Contains(condition, "//") {
		return strings.Join(lines, " ⏎ ")
	}
	return strings.Join(lines, " ")
}

// accessBy is what some rules come to. Where one of them has no condition, the others of its kind change nothing.
func accessBy(rules []*policy.Rule, c *conditions) Access {
	var when, unless []string
	allowed := false
	for _, r := range rules {
		switch {
		case r.Effect == policy.Deny && r.Condition() == "":
			return Access{State: Denied}
		case r.Effect == policy.Deny:
			unless = append(unless, r.Condition())
		case r.Condition() == "":
			allowed = true
		default:
			when = append(when, r.Condition())
		}
	}
	if allowed {
		when = nil
	}
	a := Access{State: Conditional, When: c.inOrder(when), Unless: c.inOrder(unless)}
	switch {
	case !allowed && len(when) == 0:
		a.State = NotAllowed
	case allowed && len(unless) == 0:
		a.State = Allowed
	}
	return a
}

// standing is how a class of peers stands with a method.
type standing struct {
	// enforced is what holds, and planned what would if the rules in shadow were enforced.
	enforced, planned Access
}

// standingOf is how the peers of a class stand that are named by no rule but those that hold for all of the class.
func standingOf(rules []*policy.Rule, isRevoked bool, c *conditions) standing {
	if isRevoked {
		return standing{enforced: Access{State: Revoked}, planned: Access{State: Revoked}}
	}
	enforced := slices.DeleteFunc(slices.Clone(rules), func(r *policy.Rule) bool { return r.Shadow })
	return standing{enforced: accessBy(enforced, c), planned: accessBy(rules, c)}
}

// conditions tells whether two conditions are the same but for how they are written: spaces, comments and brackets that change nothing.
type conditions struct {
	env  *cel.Env // nil when CEL could not be set up; then texts are compared
	keys map[string]string
}

func newConditions() *conditions {
	env, err := cel.NewEnv()
	if err != nil {
		env = nil
	}
	return &conditions{env: env, keys: make(map[string]string)}
}

// key is the same for conditions that are the same.
func (c *conditions) key(condition string) string {
	key, ok := c.keys[condition]
	if !ok {
		key = c.parse(condition)
		c.keys[condition] = key
	}
	return key
}

// parse returns the syntax tree of a condition in bytes. The numbers of its nodes follow from its structure alone.
func (c *conditions) parse(condition string) string {
	if c.env == nil {
		return condition
	}
	parsed, issues := c.env.Parse(condition)
	if issues.Err() != nil {
		return condition // what does not parse is in no policy
	}
	expression, err := cel.AstToParsedExpr(parsed)
	if err != nil {
		return condition
	}
	tree, err := proto.MarshalOptions{Deterministic: true}.Marshal(expression.GetExpr())
	if err != nil {
		return condition
	}
	return string(tree)
}

// inOrder returns each condition once, ordered by what it says.
func (c *conditions) inOrder(list []string) []string {
	slices.SortFunc(list, func(a, b string) int {
		return cmp.Or(cmp.Compare(oneLine(a), oneLine(b)), cmp.Compare(a, b))
	})
	var once []string
	for _, condition := range list {
		if !c.covers(once, condition) {
			once = append(once, condition)
		}
	}
	return once
}

// covers reports whether a condition is among others.
func (c *conditions) covers(others []string, condition string) bool {
	return slices.ContainsFunc(others, func(other string) bool { return c.key(other) == c.key(condition) })
}

// within reports whether all conditions are among others.
func (c *conditions) within(list, others []string) bool {
	return !slices.ContainsFunc(list, func(condition string) bool { return !c.covers(others, condition) })
}

// equal reports whether two lists have the same conditions.
func (c *conditions) equal(a, b []string) bool {
	return len(a) == len(b) && c.within(a, b) && c.within(b, a)
}
