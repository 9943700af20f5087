package payment

import (
	"fmt"
	"slices"
	"time"
)

// State is how far a payment has come, and with that what may have been sent to others for it. The zero value is no state.
type State int

// The states of a payment.
const (
	// Created: risk may have been asked; for a deposit, the ledger may have been asked to post it.
	Created State = iota + 1
	// Assessed: the ledger may have been asked to set the money aside.
	Assessed
	// Posted is final: it is in the books.
	Posted
	// Refused is final: it is not in the books and will not be, and nothing stays set aside for it.
	Refused
	// Held: the money is set aside, and the ledger may have been asked to post it.
	Held
	// InReview: nobody but a person, or risk where it could not be asked, lets it go on.
	InReview
	// Unknown: the ledger was asked to post it and has not said whether it did.
	Unknown
	// Releasing: the ledger may have been asked to make what is set aside available again.
	Releasing
)

// Final reports whether the state never changes again.
func (s State) Final() bool { return s == Posted || s == Refused }

// String returns the state's name.
func (s State) String() string {
	if s < Created || s > Releasing {
		return fmt.Sprintf("state %d", int(s))
	}
	return [...]string{"created", "assessed", "posted", "refused", "held", "in_review", "unknown", "releasing"}[s-Created]
}

// MayBecome reports whether a payment of the kind may change from one state to another. InReview follows itself when it becomes known
// why it is in review.
func (k Kind) MayBecome(from, to State) bool { return slices.Contains(k.after(from), to) }

func (k Kind) after(from State) []State {
	switch {
	case from == InReview:
		return []State{InReview, Assessed, Refused, Releasing}
	case k == CashDeposit && (from == Created || from == Assessed):
		return []State{Posted, Unknown, Refused, InReview}
	case from == Created:
		return []State{Assessed, Refused, InReview}
	case from == Assessed:
		return []State{Held, Refused, InReview}
	case from == Held:
		return []State{Posted, Unknown, Releasing, Refused, InReview}
	case from == Unknown:
		return []State{Posted, Releasing, Refused, InReview}
	case from == Releasing:
		return []State{Refused, Posted, InReview}
	default:
		return nil
	}
}

// Step is a change of state.
type Step struct {
	To      State
	Reasons []Reason
	// Time is when it is taken, in whole microseconds.
	Time time.Time
}

// After returns the payment after a step, or an error when its kind may not take it.
func (p Payment) After(step Step) (Payment, error) {
	if !p.Kind.MayBecome(p.State, step.To) {
		return Payment{}, fmt.Errorf("payment %s must not become %s after %s", p.ID, step.To, p.State)
	}
	p.State, p.Reasons, p.UpdateTime = step.To, step.Reasons, step.Time
	p.Version++
	p.Hold = p.Hold || step.To == Held
	return p, nil
}

// Unfinished reports whether there is a next step that needs no person.
func (p Payment) Unfinished() bool {
	if p.State == InReview {
		return slices.ContainsFunc(p.Reasons, func(r Reason) bool { return r.Code == CodeRiskUnavailable })
	}
	return p.State != 0 && !p.State.Final()
}
