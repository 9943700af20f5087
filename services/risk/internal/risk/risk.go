// Package risk is what the bank holds against a payment: rules, and the verdict that follows from them.
//
// It knows the rules and no storage. Every rule is asked about every payment, so that a verdict comes with all reasons for it.
package risk

import (
	"cmp"
	"errors"
	"time"
)

// ErrConflict is returned for a payment ID that was assessed with other content. A verdict is on one payment and no other.
var ErrConflict = errors.New("payment_id was assessed as another payment")

// Payment is what is assessed.
type Payment struct {
	ID       string
	Customer string // who pays
	Payer    string // the account that pays
	Payee    string // the account that is paid
	Currency string // ISO 4217
	Minor    int64  // above zero
}

// Verdict is what to do with a payment. A greater one outweighs a lesser one. The zero value is no verdict.
type Verdict int

// The verdicts.
const (
	Allow Verdict = iota + 1
	Hold
	Refuse
)

// Code says which rule spoke against a payment.
type Code string

// The codes of rules that were given none of their own: one a kind.
const (
	AmountCeiling  Code = "AMOUNT_CEILING"
	VelocityCount  Code = "VELOCITY_COUNT"
	VelocityAmount Code = "VELOCITY_AMOUNT"
	BlockedPayee   Code = "BLOCKED_PAYEE"
)

// Reason is one rule that spoke against a payment. The message may be shown to whoever pays: it says what happened and not where
// exactly the line is, which would be an invitation to stay just below it.
type Reason struct {
	Code    Code
	Message string
}

// Assessment is a verdict with every reason for it.
type Assessment struct {
	Verdict Verdict
	Reasons []Reason
	// Version is that of the rules that it follows from.
	Version string
}

// add lets a rule speak, under its own code if it has one.
func (a *Assessment) add(v Verdict, own, kind Code, message string) {
	a.Verdict = max(a.Verdict, v)
	a.Reasons = append(a.Reasons, Reason{Code: cmp.Or(own, kind), Message: message})
}

// Rules is what the bank holds against payments. It is not changed once it is made, and then safe for concurrent use. The zero value
// holds every payment.
type Rules struct {
	// Version names the rules by their text.
	Version string
	// Ceilings by currency. A payment in a currency without one is held.
	Ceilings map[string]Ceiling
	Limits   []Limit
	// Blocked payees by account.
	Blocked map[string]Block
}

// Ceiling is how much one payment may be.
type Ceiling struct {
	// Code is the rule's own; empty for AmountCeiling.
	Code                   Code
	HoldAbove, RefuseAbove int64
}

// Block is that nobody may pay an account.
type Block struct {
	// Code is the rule's own; empty for BlockedPayee.
	Code Code
	// Why is not for the payer's eyes.
	Why string
}

// Per says whose payments a limit counts together.
type Per int

// Whose payments.
const (
	PerAccount Per = iota + 1
	PerCustomer
)

// Limit is how much may be paid within a window that ends now. A payment that was refused does not count: nothing moved.
type Limit struct {
	// Code is the rule's own; empty for VelocityCount and VelocityAmount.
	Code   Code
	Per    Per
	Window time.Duration
	// MaxPayments is how many payments, in whatever currency; 0 sets no limit.
	MaxPayments int64
	// MaxAmount is how much together, by currency; a currency that is not in it has no limit.
	MaxAmount map[string]int64
	// Verdict on the payment that goes over it.
	Verdict Verdict
}
