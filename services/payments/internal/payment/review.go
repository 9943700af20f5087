package payment

import (
	"fmt"
	"slices"
	"time"
)

// Decision is what a person decided on a payment in review. The zero value is no decision.
type Decision int

// The decisions.
const (
	Approve Decision = iota + 1
	Reject
)

// String returns the decision's name.
func (d Decision) String() string {
	if d < Approve || d > Reject {
		return fmt.Sprintf("decision %d", int(d))
	}
	return [...]string{"approve", "refuse"}[d-Approve]
}

// Review is a decision, who took it and when.
type Review struct {
	// Version is that of the payment which the person has seen. What has changed since is not what was decided on.
	Version  int64
	Decision Decision
	// By is the SPIFFE ID of whoever called.
	By   string
	Time time.Time
}

// Step returns what a payment in review does on the decision. Approved it goes on and is not assessed again. Refused it is refused
// at once, unless money may be set aside for it: where it had a hold, or the ledger or the way to it is what put it in review, which leaves open what an earlier
// question did.
func (r Review) Step(p Payment) Step {
	switch {
	case r.Decision == Approve:
		return Step{To: Assessed, Time: r.Time}
	case p.Hold, p.Kind == Transfer && slices.ContainsFunc(p.Reasons, func(r Reason) bool { return r.Code == CodeLedgerRejected }):
		return Step{To: Releasing, Reasons: Because(CodeReviewRefused), Time: r.Time}
	default:
		return Step{To: Refused, Reasons: Because(CodeReviewRefused), Time: r.Time}
	}
}
