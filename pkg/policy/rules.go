package policy

import (
	"fmt"
	"iter"
	"maps"
	"slices"
	"strings"

	"github.com/spiffe/go-spiffe/v2/spiffeid"
	"google.golang.org/protobuf/reflect/protoreflect"

	"github.com/countersign-mesh/countersign/pkg/yamlfile"
)

// Effect is what a rule does to the calls that it applies to.
type Effect int

// The effects. Deny wins over Allow.
const (
	Allow Effect = iota
	Deny
)

// String returns the name of the list that a rule with the effect stands in.
func (e Effect) String() string {
	if e == Deny {
		return "deny"
	}
	return "allow"
}

// Rule is one rule of a method. It is immutable.
type Rule struct {
	Effect Effect
	// Peer is whose calls it is for.
	Peer Pattern
	// Written is Peer as the file has it.
	Written string
	// User is the scope that the user's token must have; empty when the rule asks for no user.
	User string
	// When is the condition in CEL; empty when there is none.
	When string
	// Why is the reason that the file gives.
	Why string
	// Shadow is set when the rule is not enforced.
	Shadow bool
	// Position is where it stands.
	Position yamlfile.Position

	place     string
	condition *condition
	// awaits is what is said of a call of whose user nothing is known yet, made once: each call that the rule may allow is one of those at first.
	awaits string
}

// Place returns where the rule stands, as "bank.yaml:12".
func (r *Rule) Place() string {
	if r == nil {
		return ""
	}
	return r.place
}

// Condition returns what a rule asks of a call beside its peer, in CEL, for people and tools that compare rules: When, and the user. It is empty when nothing is
// asked. What it does not say is that a call without a user's token is not let in, and is kept out (see mesh.policy.v1.Rule).
func (r *Rule) Condition() string {
	if r.User == "" {
		return r.When
	}
	text := fmt.Sprintf("%s.scope == %q", userVariable, r.User)
	switch when := strings.TrimSpace(r.When); {
	case when == "":
		return text
	case strings.Contains(when, "//"): // what ends a comment must not be in it
		return text + " && (" + when + "\n)"
	case strings.Contains(when, "||"), strings.Contains(when, "?"):
		return text + " && (" + when + ")"
	default:
		return text + " && " + when
	}
}

// Method is the rules of one method. It is immutable.
type Method struct {
	// Full is the full method, "/package.Service/Method"; Name its last part.
	Full, Name string
	// Rules are all of them, those that deny first, each kind as the file has it.
	Rules []*Rule
	// Position is where the method stands.
	Position yamlfile.Position

	// input is what requests are; nil when nobody knows here.
	input protoreflect.MessageDescriptor
	// allowing are the rules that allow and are enforced, as the file has them.
	allowing []*Rule
	// exact is keyed by the SPIFFE IDs that rules name, and trees by the roots of their subtrees. Each has all the rules for its peers.
	exact, trees map[string]*entry
}

// Service is the rules of one gRPC service. It is immutable.
type Service struct {
	// Name is the full name, "package.Service".
	Name string
	// Methods are ordered by name.
	Methods []*Method
	// ServedBy is who serves it.
	ServedBy []Pattern
	// Position is where the service stands.
	Position yamlfile.Position
}

// Method returns the rules of a method by its last name, and false when the policy has none.
func (s *Service) Method(name string) (*Method, bool) {
	i, ok := slices.BinarySearchFunc(s.Methods, name, func(m *Method, name string) int {
		switch {
		case m.Name < name:
			return -1
		case m.Name > name:
			return 1
		}
		return 0
	})
	if !ok {
		return nil, false
	}
	return s.Methods[i], true
}

// Services yields the services of the policy, ordered by name.
func (p *Policy) Services() iter.Seq[*Service] {
	return func(yield func(*Service) bool) {
		if p == nil {
			return
		}
		for _, name := range slices.Sorted(maps.Keys(p.services)) {
			if !yield(p.services[name]) {
				return
			}
		}
	}
}

// Method returns the rules of a full method, "/package.Service/Method", and false when the policy has none.
func (p *Policy) Method(full string) (*Method, bool) {
	if p == nil {
		return nil, false
	}
	m, ok := p.methods[full]
	return m, ok
}

// Allows yields each full method with each peer that a rule lets call it, whatever else is asked of the call, ordered by method and then as the
// file has it.
func (p *Policy) Allows() iter.Seq2[string, Pattern] {
	return func(yield func(string, Pattern) bool) {
		for service := range p.Services() {
			for _, m := range service.Methods {
				for _, r := range m.Rules {
					if r.Effect == Allow && !r.Shadow && !yield(m.Full, r.Peer) {
						return
					}
				}
			}
		}
	}
}

// entry is all the rules that apply to a peer, the most specific first: those that name the peer, then those of the smallest subtree
// that it is in, and so on; among them as the file has it.
type entry struct {
	// plain is the rule that allows whatever is called, when nothing else is to be asked: no rule denies, none is in shadow, and it has
	// no condition and asks for no user.
	plain *Rule
	// enforced and shadow have the rules, those that deny first.
	enforced, shadow []*Rule
	// user is whether one of them asks for a user.
	user bool
}

// index makes exact and trees of the rules.
func (m *Method) index() {
	exact, trees := make(map[string][]*Rule), make(map[string][]*Rule)
	for _, r := range m.Rules {
		if r.Effect == Allow && !r.Shadow {
			m.allowing = append(m.allowing, r)
		}
		if r.Peer.subtree {
			trees[r.Peer.root.String()] = append(trees[r.Peer.root.String()], r)
		} else {
			exact[r.Peer.root.String()] = append(exact[r.Peer.root.String()], r)
		}
	}
	m.exact, m.trees = make(map[string]*entry, len(exact)), make(map[string]*entry, len(trees))
	for id, rules := range exact {
		m.exact[id] = newEntry(slices.Concat(rules, above(trees, id)))
	}
	for root, rules := range trees {
		m.trees[root] = newEntry(slices.Concat(rules, above(trees, root)))
	}
}

// above returns the rules of the subtrees that id is in, the smallest first.
func above(trees map[string][]*Rule, id string) []*Rule {
	var rules []*Rule
	for root, ok := parent(id); ok; root, ok = parent(root) {
		rules = append(rules, trees[root]...)
	}
	return rules
}

// scheme is how each SPIFFE ID begins.
const scheme = "spiffe://"

// parent returns an ID without its last segment, and false for a trust domain.
func parent(id string) (string, bool) {
	for i := len(id) - 1; i >= len(scheme); i-- {
		if id[i] == '/' {
			return id[:i], true
		}
	}
	return "", false
}

func newEntry(rules []*Rule) *entry {
	e := &entry{}
	slices.SortStableFunc(rules, func(a, b *Rule) int { return int(b.Effect) - int(a.Effect) })
	for _, r := range rules {
		e.user = e.user || r.User != ""
		if r.Shadow {
			e.shadow = append(e.shadow, r)
		} else {
			e.enforced = append(e.enforced, r)
		}
	}
	if len(e.shadow) > 0 || len(e.enforced) > 0 && e.enforced[0].Effect == Deny {
		return e
	}
	for _, r := range e.enforced {
		if r.condition == nil && r.User == "" {
			e.plain = r
			break
		}
	}
	return e
}

// plainCall is a call of a full method by a SPIFFE ID.
type plainCall struct{ method, peer string }

// indexPlain adds a method to plain.
func (p *Policy) indexPlain(m *Method) {
	for id, e := range m.exact {
		if e.plain != nil {
			p.plain[plainCall{m.Full, id}] = e.plain
		}
	}
}

// entryOf returns the rules for a peer; nil when there are none.
func (m *Method) entryOf(id spiffeid.ID) *entry {
	if e, ok := m.exact[id.String()]; ok {
		return e
	}
	if len(m.trees) == 0 {
		return nil
	}
	for root, ok := parent(id.String()); ok; root, ok = parent(root) {
		if e, ok := m.trees[root]; ok {
			return e
		}
	}
	return nil
}
