package policy

import (
	"fmt"
	"path/filepath"
	"strings"
)

// Decide says what the policy says of a call. A method that the policy does not know is denied, and so is a caller who is nobody or revoked. A
// call that a rule without a condition allows costs no allocation.
func (p *Policy) Decide(call Call) Verdict {
	if p == nil {
		return Verdict{Reason: "there is no policy"}
	}
	if call.Peer == nil || call.Peer.ID.IsZero() {
		return Verdict{Reason: "the caller has no verified identity"}
	}
	if err := p.revoked.Check(call.Peer); err != nil {
		return Verdict{Reason: err.Error()}
	}
	if rule, ok := p.plain[plainCall{call.Method, call.Peer.ID.String()}]; ok {
		return Verdict{Allowed: true, Rule: rule}
	}
	m, ok := p.methods[call.Method]
	if !ok {
		return Verdict{Reason: fmt.Sprintf("%s has no rules for %.200q", filepath.Base(p.Name()), call.Method)}
	}
	e := m.entryOf(call.Peer.ID)
	if e == nil {
		return Verdict{Reason: p.nearestMiss(m, nil, call)}
	}
	if e.plain != nil {
		return Verdict{Allowed: true, Rule: e.plain}
	}
	return p.weigh(m, e, call)
}

// weigh decides by the rules of an entry that are more than one that allows.
func (p *Policy) weigh(m *Method, e *entry, call Call) Verdict {
	enforced := judge(e.enforced, call)
	verdict := p.verdict(m, e, enforced, call)
	if len(e.shadow) == 0 || verdict.Undecided {
		return verdict
	}
	// What is in shadow changes nothing about the verdict, not even when it is known.
	switch shadow := judge(e.shadow, call); {
	case shadow.undecided(), shadow.allows != nil && enforced.undecided():
		// What a rule in shadow would allow, one that is enforced may yet deny: it made no difference as long as nothing else allowed the call.
		verdict.Shadow = Shadow{Undecided: true}
	case shadow.denies != nil:
		verdict.Shadow = Shadow{Rule: shadow.denies}
	case shadow.allows != nil:
		verdict.Shadow = Shadow{Rule: shadow.allows, Allowed: enforced.denies == nil}
	}
	return verdict
}

// judgement is which of some rules apply to a call.
type judgement struct {
	// denies and allows are the first rules that do.
	denies, allows *Rule
	// mayDeny and mayAllow are the first rules of which only the request can tell.
	mayDeny, mayAllow *Rule
	// failed is the first rule that could not be evaluated, and failure why not.
	failed  *Rule
	failure error
}

// judge goes through rules, those that deny first.
func judge(rules []*Rule, call Call) judgement {
	var j judgement
	for _, r := range rules {
		holds, err := r.condition.holds(call)
		if err != nil {
			if j.failed == nil {
				j.failed, j.failure = r, err
			}
			if r.Effect == Deny { // what cannot be told lets nobody in
				j.denies = r
			}
		}
		switch {
		case holds == yes && r.Effect == Deny:
			j.denies = r
		case holds == yes:
			j.allows = r
		case holds == unknown && r.Effect == Deny:
			keepFirst(&j.mayDeny, r)
		case holds == unknown:
			keepFirst(&j.mayAllow, r)
		}
		if j.denies != nil || j.allows != nil {
			return j
		}
	}
	return j
}

func keepFirst(first **Rule, r *Rule) {
	if *first == nil {
		*first = r
	}
}

// undecided reports whether only the request can tell which rule applies.
func (j judgement) undecided() bool {
	return j.denies == nil && (j.mayDeny != nil || j.allows == nil && j.mayAllow != nil)
}

// verdict is what a judgement of the enforced rules comes to.
func (p *Policy) verdict(m *Method, e *entry, j judgement, call Call) Verdict {
	switch {
	case j.denies != nil:
		return Verdict{Rule: j.denies, Reason: p.denial(j, call)}
	case j.mayDeny != nil && (j.allows != nil || j.mayAllow != nil):
		return Verdict{Undecided: true, Reason: depends(j.mayDeny)}
	case j.allows != nil:
		return Verdict{Allowed: true, Rule: j.allows}
	case j.mayAllow != nil:
		return Verdict{Undecided: true, Reason: depends(j.mayAllow)}
	case j.failed != nil:
		return Verdict{Reason: fmt.Sprintf("%s: the condition could not be evaluated: %v", j.failed.place, j.failure)}
	default:
		return Verdict{Reason: p.nearestMiss(m, e.enforced, call)}
	}
}

// depends says what an undecided call depends on.
func depends(r *Rule) string {
	verb := "allows"
	if r.Effect == Deny {
		verb = "denies"
	}
	return fmt.Sprintf("%s: it depends on the request: the rule %s %s when %s", r.place, verb, r.Written, r.When)
}

// denial says which rule denies a call, and why.
func (p *Policy) denial(j judgement, call Call) string {
	text := fmt.Sprintf("%s: denied for %s; the caller is %s", j.denies.place, j.denies.Written, p.short(call.Peer.ID))
	if j.denies.Why != "" {
		text += ": " + j.denies.Why
	}
	if j.denies == j.failed {
		text += fmt.Sprintf(" (the condition could not be evaluated: %v)", j.failure)
	}
	return text
}

// maxNamed bounds how many peers a reason names: a denied call must not cost more the more rules there are.
const maxNamed = 8

// nearestMiss says what came nearest to allowing a call that no rule allows: one of the rules for its caller, whose condition did not hold, or
// else who would have been allowed instead.
func (p *Policy) nearestMiss(m *Method, own []*Rule, call Call) string {
	for _, r := range own {
		if r.Effect == Allow {
			return fmt.Sprintf("%s: allowed for %s when %s, which this call is not", r.place, r.Written, r.When)
		}
	}
	if len(m.allowing) == 0 {
		return place(m.Position) + ": nobody is allowed to call it"
	}
	var names []string
	for _, r := range m.allowing[:min(len(m.allowing), maxNamed)] {
		names = append(names, r.Written)
	}
	allowed := strings.Join(names, ", ")
	if more := len(m.allowing) - len(names); more > 0 {
		allowed += fmt.Sprintf(" and %d more", more)
	}
	return fmt.Sprintf("%s: allowed for %s; the caller is %s", place(m.Position), allowed, p.short(call.Peer.ID))
}
