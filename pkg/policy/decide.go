package policy

import (
	"fmt"
	"path/filepath"
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
	if len(e.shadow) > 0 && !verdict.Undecided {
		verdict.Shadow = weighShadow(enforced, judge(e.shadow, call))
	}
	// Of a call that is undecided for its request alone it is said too: a later message of it may meet a rule with a user.
	verdict.NeedsUser = e.user && call.userUnknown() && (verdict.Undecided || verdict.Shadow.Undecided)
	return verdict
}

// weighShadow is what the rules in shadow say. What is in shadow changes nothing about the verdict, not even when it is known.
func weighShadow(enforced, shadow judgement) Shadow {
	switch {
	case shadow.undecided(), shadow.allows != nil && enforced.undecided():
		// What a rule in shadow would allow, one that is enforced may yet deny: it made no difference as long as nothing else allowed the call.
		return Shadow{Undecided: true}
	case shadow.denies != nil:
		return Shadow{Rule: shadow.denies}
	case shadow.allows != nil:
		return Shadow{Rule: shadow.allows, Allowed: enforced.denies == nil}
	}
	return Shadow{}
}

// judgement is which of some rules apply to a call.
type judgement struct {
	// denies and allows are the first rules that do.
	denies, allows *Rule
	// mayDeny and mayAllow are the first rules of which only the request or the user can tell.
	mayDeny, mayAllow *Rule
	// failed is the first rule that could not be evaluated, and failure why not.
	failed  *Rule
	failure error
}

// judge goes through rules, those that deny first.
func judge(rules []*Rule, call Call) judgement {
	var j judgement
	for _, r := range rules {
		holds, err := r.holds(call)
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

// undecided reports whether only the request or the user can tell which rule applies.
func (j judgement) undecided() bool {
	return j.denies == nil && (j.mayDeny != nil || j.allows == nil && j.mayAllow != nil)
}

// verdict is what a judgement of the enforced rules comes to.
func (p *Policy) verdict(m *Method, e *entry, j judgement, call Call) Verdict {
	switch {
	case j.denies != nil:
		return Verdict{Rule: j.denies, Reason: p.denial(j, call)}
	case j.mayDeny != nil && (j.allows != nil || j.mayAllow != nil):
		return Verdict{Undecided: true, Reason: call.awaits(j.mayDeny)}
	case j.allows != nil:
		return Verdict{Allowed: true, Rule: j.allows}
	case j.mayAllow != nil:
		return Verdict{Undecided: true, Reason: call.awaits(j.mayAllow)}
	case j.failed != nil:
		return Verdict{Reason: fmt.Sprintf("%s: %v", j.failed.place, j.failure)}
	default:
		return Verdict{Reason: p.nearestMiss(m, e.enforced, call)}
	}
}

// denial says which rule denies a call, and why.
func (p *Policy) denial(j judgement, call Call) string {
	text := fmt.Sprintf("%s: denied for %s%s; the caller is %s", j.denies.place, j.denies.Written, j.denies.withUser(), p.short(call.Peer.ID))
	if j.denies.Why != "" {
		text += ": " + j.denies.Why
	}
	if j.denies == j.failed {
		text += fmt.Sprintf(" (%v)", j.failure)
	}
	return text
}
