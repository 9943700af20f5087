// Package learn holds a policy against the audit log: which of its rules were used, what was denied again and again, and what the least policy is
// that would have allowed what was allowed.
//
// It reads each record once and keeps none: memory grows with the number of different callers and methods, up to a bound, and not with the log.
package learn

import (
	"time"

	"github.com/spiffe/go-spiffe/v2/spiffeid"

	"github.com/countersign-mesh/countersign/cmd/countersign/internal/headers"
	"github.com/countersign-mesh/countersign/pkg/policy"
	auditv1 "github.com/countersign-mesh/countersign/proto/gen/mesh/audit/v1"
)

// maxGroups bounds how many pairs of a peer and a method are told apart. Whoever is denied chooses the name of the method.
const maxGroups = 10_000

// Span is how often something happened, and when first and last.
type Span struct {
	Count       int
	First, Last time.Time
}

// add counts n more at a time.
func (s *Span) add(n int, at time.Time) {
	if s.Count == 0 || at.Before(s.First) {
		s.First = at
	}
	if at.After(s.Last) {
		s.Last = at
	}
	s.Count += n
}

// pair is calls of a full method by a peer.
type pair struct{ peer, method string }

// pairing is what was seen of a pair.
type pairing struct {
	Span
	// rules are those that let the calls in, with how often; of calls that an earlier policy let in, those that may have.
	rules map[*policy.Rule]*Span
	// reason is why the last one was denied.
	reason string
}

// Learner takes records, and says what they come to. It is not safe for concurrent use. The zero value is not usable; see New.
type Learner struct {
	policy *policy.Policy

	all     Span
	earlier int // decisions by other versions than the policy's
	// used has the rules that are known to have decided, maybe those that may have.
	used, maybe map[*policy.Rule]*Span
	// allowed are calls that were let in and that the policy lets in, withdrawn those that it does not.
	allowed, withdrawn, denied map[pair]*pairing
	// overflow counts what was not told apart for want of room: calls that were let in, and others.
	overflow struct{ allowed, others int }
	lost     map[string]*Span // by server
	servers  map[string]bool
}

// New returns a Learner about a policy.
func New(p *policy.Policy) *Learner {
	return &Learner{
		policy: p,
		used:   make(map[*policy.Rule]*Span), maybe: make(map[*policy.Rule]*Span),
		allowed: make(map[pair]*pairing), withdrawn: make(map[pair]*pairing), denied: make(map[pair]*pairing),
		lost: make(map[string]*Span), servers: make(map[string]bool),
	}
}

// Add takes a record. The order does not matter.
func (l *Learner) Add(record *auditv1.StoredRecord) {
	l.servers[record.GetServerId()] = true
	if gap := record.GetGap(); gap != nil {
		lost := entry(l.lost, record.GetServerId())
		lost.add(int(gap.GetLostCount()), gap.GetStartTime().AsTime())
		lost.add(0, gap.GetEndTime().AsTime())
		return
	}
	d := record.GetDecision()
	if d == nil {
		return
	}
	l.all.add(1, d.GetDecideTime().AsTime())
	if d.GetPolicyVersion() != l.policy.Version() {
		l.earlier++
	}
	id, err := spiffeid.FromString(d.GetPeerId())
	if err != nil { // nobody: only ever denied
		l.pair(l.denied, d).reason = d.GetReason()
		return
	}
	l.shadow(d, id)
	if d.GetVerdict() == auditv1.Verdict_VERDICT_ALLOWED {
		l.letIn(d, id)
	} else {
		l.keptOut(d, id)
	}
}

// entry returns the span of a key, a new one for one that is new.
func entry[K comparable](spans map[K]*Span, key K) *Span {
	if spans[key] == nil {
		spans[key] = new(Span)
	}
	return spans[key]
}

// pair counts a decision among those of its peer and method. Methods that the policy does not have are one.
func (l *Learner) pair(pairs map[pair]*pairing, d *auditv1.Decision) *pairing {
	key := pair{peer: d.GetPeerId(), method: d.GetMethod()}
	if _, ok := l.policy.Method(key.method); !ok {
		key.method = ""
	}
	found := pairs[key]
	if found == nil {
		found = &pairing{rules: make(map[*policy.Rule]*Span)}
		switch {
		case len(l.allowed)+len(l.withdrawn)+len(l.denied) < maxGroups:
			pairs[key] = found
		case d.GetVerdict() == auditv1.Verdict_VERDICT_ALLOWED:
			l.overflow.allowed++
		default:
			l.overflow.others++
		}
	}
	found.add(1, d.GetDecideTime().AsTime())
	return found
}

// letIn takes a call that was let in.
func (l *Learner) letIn(d *auditv1.Decision, id spiffeid.ID) {
	at := d.GetDecideTime().AsTime()
	verdict := headers.Decide(l.policy, d.GetMethod(), id, d.GetPeerSerial())
	rules := l.deciders(d, id, d.GetRule(), policy.Allow, false)
	known := len(rules) == 1 // the record says which
	switch {
	case verdict.Allowed:
		rules, known = []*policy.Rule{verdict.Rule}, true
	case !verdict.Undecided:
		l.pair(l.withdrawn, d)
		return
	case len(rules) == 0:
		rules = l.may(d, id, policy.Allow)
	}
	l.decided(rules, known, at)
	found := l.pair(l.allowed, d)
	for _, r := range rules {
		entry(found.rules, r).add(1, at)
	}
}

// keptOut takes a call that was denied.
func (l *Learner) keptOut(d *auditv1.Decision, id spiffeid.ID) {
	l.pair(l.denied, d).reason = d.GetReason()
	at := d.GetDecideTime().AsTime()
	if d.GetPolicyVersion() == l.policy.Version() {
		rules := l.deciders(d, id, d.GetRule(), policy.Deny, false)
		l.decided(rules, len(rules) == 1, at)
		return
	}
	switch verdict := headers.Decide(l.policy, d.GetMethod(), id, d.GetPeerSerial()); {
	case verdict.Undecided:
		l.decided(l.may(d, id, policy.Deny), false, at)
	case !verdict.Allowed && verdict.Rule != nil:
		l.decided([]*policy.Rule{verdict.Rule}, true, at)
	}
}

// shadow takes what the rules in shadow said, which only a record of the same version tells.
func (l *Learner) shadow(d *auditv1.Decision, id spiffeid.ID) {
	for _, effect := range []policy.Effect{policy.Allow, policy.Deny} {
		rules := l.deciders(d, id, d.GetShadowRule(), effect, true)
		l.decided(rules, len(rules) == 1, d.GetDecideTime().AsTime())
	}
}

// deciders are the rules at the place that a record of the same version names. There are more than one where several stand in one line.
func (l *Learner) deciders(d *auditv1.Decision, id spiffeid.ID, place string, effect policy.Effect, shadow bool) []*policy.Rule {
	if d.GetPolicyVersion() != l.policy.Version() {
		return nil
	}
	m, ok := l.policy.Method(d.GetMethod())
	if !ok {
		return nil
	}
	var rules []*policy.Rule
	for _, r := range m.Rules {
		if r.Place() == place && r.Effect == effect && r.Shadow == shadow && r.Peer.Matches(id) {
			rules = append(rules, r)
		}
	}
	return rules
}

// may are the rules of the policy that may have decided.
func (l *Learner) may(d *auditv1.Decision, id spiffeid.ID, effect policy.Effect) []*policy.Rule {
	var rules []*policy.Rule
	for _, r := range headers.Rules(l.policy, d.GetMethod(), id) {
		if r.Effect == effect {
			rules = append(rules, r)
		}
	}
	return rules
}

// decided counts a decision for the rules that made it, or of which one may have.
func (l *Learner) decided(rules []*policy.Rule, known bool, at time.Time) {
	spans := l.maybe
	if known {
		spans = l.used
	}
	for _, r := range rules {
		entry(spans, r).add(1, at)
	}
}
