package policy

import (
	"errors"
	"slices"

	"google.golang.org/protobuf/reflect/protoreflect"

	policyv1 "github.com/countersign-mesh/countersign/proto/gen/mesh/policy/v1"
)

// addRules adds the rules of the method that stands at path.
func (p *parser) addRules(f part, m *Method, rules *policyv1.Method, path ...any) error {
	seen := make(map[sameRule]*Rule)
	var errs []error
	for _, list := range []struct {
		effect Effect
		rules  []*policyv1.Rule
	}{{Deny, rules.GetDeny()}, {Allow, rules.GetAllow()}} {
		for i, written := range list.rules {
			r, err := p.rule(f, m.input, list.effect, written, at(path, list.effect.String(), i))
			if err != nil {
				errs = append(errs, err)
				continue
			}
			same := sameRule{r.Effect, r.Peer, r.User, r.When, r.Shadow}
			if first, ok := seen[same]; ok {
				errs = append(errs, r.Position.Errorf("peer %q stands already under %s at %s", r.Written, r.Effect, first.place))
				continue
			}
			seen[same] = r
			m.Rules = append(m.Rules, r)
		}
	}
	return errors.Join(errs...)
}

// sameRule is what two rules of a method must not have in common.
type sameRule struct {
	effect     Effect
	peer       Pattern
	user, when string
	shadow     bool
}

// at returns a longer path.
func at(path []any, steps ...any) []any { return append(slices.Clip(path), steps...) }

// rule compiles the rule that stands at path.
func (p *parser) rule(f part, input protoreflect.MessageDescriptor, effect Effect, written *policyv1.Rule, path []any) (*Rule, error) {
	pos := f.At(at(path, "peer")...)
	r := &Rule{
		Effect:   effect,
		Written:  written.GetPeer(),
		User:     written.GetUser(),
		When:     written.GetWhen(),
		Why:      written.GetWhy(),
		Shadow:   written.GetShadow() || f.GetShadow(),
		Position: pos,
		place:    place(pos),
	}
	var errs []error
	var err error
	if r.Peer, err = ParsePattern(p.policy.trustDomain, written.GetPeer()); err != nil {
		errs = append(errs, pos.Errorf("peer %q: %w", written.GetPeer(), err))
	}
	if r.When != "" {
		var wrong []problem
		r.condition, wrong = p.conditions.compile(r.When, input, r.User != "")
		for _, w := range wrong {
			errs = append(errs, f.Within(w.line, w.column, at(path, "when")...).Errorf("when: %s", w.text))
		}
	}
	if r.User != "" {
		r.awaits = r.depends("the user's token")
	}
	return r, errors.Join(errs...)
}
