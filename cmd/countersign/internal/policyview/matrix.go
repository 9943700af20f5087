package policyview

import (
	"maps"
	"slices"

	"github.com/spiffe/go-spiffe/v2/spiffeid"

	"github.com/countersign-mesh/countersign/pkg/identity"
	"github.com/countersign-mesh/countersign/pkg/policy"
)

// Matrix is who may call what, by callers and methods: all whom a rule names, and all methods that have rules. It is immutable.
type Matrix struct {
	policy *policy.Policy
	// callers are short; whole has the same written whole.
	callers, whole []string
	sections       []section
	// notes are the footnotes, the first of which has the number 1.
	notes []Access
}

// section is one service.
type section struct {
	service  string
	servedBy []string
	rows     []row
}

// row is one method. It has a cell for each caller.
type row struct {
	method string
	cells  []cell
}

// cell is what the policy says of the calls that a caller makes of a method.
type cell struct {
	state State
	// wider says that the rule is not for this caller by name, but for a pattern that means it too.
	wider bool
	// note is the number of the footnote with the conditions; 0 for none.
	note int
	// planned is what it would be if the rules in shadow were enforced; empty when that is the same. plannedNote is its footnote.
	planned     State
	plannedNote int
	// reason is where the rule stands, and why it is there.
	reason string
}

// nobody reports whether nobody may call the method.
func (r row) nobody() bool {
	return !slices.ContainsFunc(r.cells, func(c cell) bool { return c.state == Allowed || c.state == Conditional })
}

// NewMatrix returns the matrix of a policy. A cell is what the policy decides for a call of that caller; in the column of a pattern, for
// a workload that only the pattern names.
func NewMatrix(p *policy.Policy) *Matrix {
	b := &matrixBuilder{
		Matrix: &Matrix{policy: p}, named: inOrder(p.TrustDomain(), named(p)),
		revoked: revoked(p), conditions: newConditions(), numbers: make(map[string]int),
	}
	everybody := slices.Concat(b.named, slices.Collect(maps.Keys(b.revoked)))
	for _, caller := range b.named {
		b.callers = append(b.callers, caller.Short(p.TrustDomain()))
		b.whole = append(b.whole, caller.String())
		b.peers = append(b.peers, somebody(caller, everybody))
	}
	for service := range p.Services() {
		s := section{service: service.Name}
		for _, server := range service.ServedBy {
			s.servedBy = append(s.servedBy, server.Short(p.TrustDomain()))
		}
		for _, m := range service.Methods {
			r := row{method: m.Name}
			for i := range b.named {
				r.cells = append(r.cells, b.cell(m, i))
			}
			s.rows = append(s.rows, r)
		}
		b.sections = append(b.sections, s)
	}
	return b.Matrix
}

// matrixBuilder makes a Matrix.
type matrixBuilder struct {
	*Matrix
	named []policy.Pattern
	// peers has a workload for each that is named, whom no rule names more closely.
	peers      []spiffeid.ID
	revoked    map[policy.Pattern]bool
	conditions *conditions
	// numbers are those of the footnotes, by what they say.
	numbers map[string]int
}

// cell asks the policy about the calls of one caller.
func (b *matrixBuilder) cell(m *policy.Method, caller int) cell {
	named := b.named[caller]
	if b.revoked[named] {
		return cell{state: Revoked}
	}
	rules := applying(m, named)
	stands := standingOf(rules, false, b.conditions)
	verdict := b.policy.Decide(policy.Call{Method: m.Full, Peer: &identity.Peer{ID: b.peers[caller]}})
	_, one := named.ID()
	c := cell{state: stateOf(verdict)}
	if !one && stands.enforced.State == Conditional {
		// A condition over the peer alone was decided for one workload, and not for all whom the pattern means.
		c.state = Conditional
	}
	switch c.state {
	case Conditional:
		c.note = b.note(stands.enforced)
		c.wider = !slices.ContainsFunc(rules, func(r *policy.Rule) bool { return r.Peer == named && !r.Shadow })
	case Allowed, Denied:
		c.wider = verdict.Rule.Peer != named
		c.reason = reasonOf(verdict.Rule)
	default:
	}
	if !stands.enforced.equal(stands.planned, b.conditions) {
		b.plan(&c, verdict, stands.planned, one)
	}
	return c
}

// stateOf is the state of a peer of whom a call was decided in a certain way.
func stateOf(v policy.Verdict) State {
	switch {
	case v.Undecided:
		return Conditional
	case v.Allowed:
		return Allowed
	case v.Rule != nil:
		return Denied
	default:
		return NotAllowed
	}
}

// plan puts into a cell what would be if the rules in shadow were enforced.
func (b *matrixBuilder) plan(c *cell, v policy.Verdict, planned Access, one bool) {
	switch {
	case !one || v.Undecided || v.Shadow.Undecided: // nothing was decided yet
		c.planned = planned.State
	case v.Shadow.Rule == nil:
	case v.Shadow.Allowed:
		c.planned = Allowed
	default:
		c.planned = Denied
	}
	switch c.planned {
	case Conditional:
		c.plannedNote = b.note(planned)
	case c.state:
		c.planned = ""
	default:
	}
}

// note returns the number of the footnote with the conditions of an access.
func (b *matrixBuilder) note(a Access) int {
	text := a.words(plain)
	if number, ok := b.numbers[text]; ok {
		return number
	}
	b.notes = append(b.notes, a)
	b.numbers[text] = len(b.notes)
	return len(b.notes)
}

func reasonOf(r *policy.Rule) string {
	if r.Why == "" {
		return r.Place()
	}
	return r.Place() + ": " + r.Why
}
