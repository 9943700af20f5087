// Package payment says what a payment is and which ways it may take.
//
// A transfer goes created → assessed → posted; risk may refuse or hold it instead of agreeing, and so may the ledger: it refuses for
// want of money or of room, and what it can never take is held for a person. A cash deposit needs nobody's consent and goes created →
// posted. Each state is stored before the step that follows from it is taken, so that whatever happens in between, what is stored
// says what to do next.
package payment

import (
	"crypto/rand"
	"crypto/sha256"
	"encoding/binary"
	"errors"
	"fmt"
	"strings"
	"time"
)

// The ways in which payments says no.
var (
	ErrNotFound      = errors.New("no such payment")
	ErrRequestReused = errors.New("the request_id was used for other content; choose a new one")
	// ErrOutcomeUnknown means that the payment is stored or may be, and goes on by itself.
	ErrOutcomeUnknown = errors.New("the outcome is not yet known; send the same request again")
	// ErrAway means that nothing was stored, because a neighbour that has to be asked first gave no answer.
	ErrAway = errors.New("a service that has to be asked first cannot be reached; send the same request again")
	// ErrInsufficientFunds is the ledger's refusal of a transfer for want of money.
	ErrInsufficientFunds = errors.New("insufficient funds")
	// ErrBalanceOutOfRange is the ledger's refusal of a payment after which a balance would be larger than the books can hold.
	ErrBalanceOutOfRange = errors.New("balance out of range")
	// ErrLedgerRejected means that the ledger has posted nothing and never will: what it was sent is wrong in itself, or something
	// else is in the books under the payment's ID. Trying again changes nothing.
	ErrLedgerRejected = errors.New("the ledger rejects the payment")
)

// The codes of the reasons that come from the ledger's answer.
const (
	CodeInsufficientFunds = "INSUFFICIENT_FUNDS"
	CodeBalanceOutOfRange = "BALANCE_OUT_OF_RANGE"
	CodeLedgerRejected    = "LEDGER_REJECTED"
)

// Kind says where a payment's money comes from. The zero value is no kind.
type Kind int

// The kinds of payments.
const (
	Transfer Kind = iota + 1
	CashDeposit
)

// String returns the kind's name.
func (k Kind) String() string {
	if k < Transfer || k > CashDeposit {
		return fmt.Sprintf("kind %d", int(k))
	}
	return [...]string{"transfer", "cash_deposit"}[k-Transfer]
}

// State is how far a payment has come. The zero value is no state.
type State int

// The states of a payment.
const (
	Created State = iota + 1
	Assessed
	Posted
	Refused
	Held
)

// Unfinished reports whether there is a next step that needs no person.
func (s State) Unfinished() bool { return s == Created || s == Assessed }

// String returns the state's name.
func (s State) String() string {
	if s < Created || s > Held {
		return fmt.Sprintf("state %d", int(s))
	}
	return [...]string{"created", "assessed", "posted", "refused", "held"}[s-Created]
}

// MayBecome reports whether a payment of the kind may change from one state to another.
func (k Kind) MayBecome(from, to State) bool {
	switch {
	case k == Transfer && from == Created:
		return to == Assessed || to == Refused || to == Held
	case k == Transfer && from == Assessed, k == CashDeposit && from == Created:
		return to == Posted || to == Refused || to == Held
	default:
		return false
	}
}

// Verdict is what risk thinks of a payment. The zero value is no verdict and allows nothing.
type Verdict int

// The verdicts.
const (
	Allow Verdict = iota + 1
	Refuse
	Hold
)

// Amount is a sum of money.
type Amount struct {
	CurrencyCode string
	MinorUnits   int64
}

// Reason says why a payment was refused or held.
type Reason struct {
	Code    string `json:"code"`
	Message string `json:"message"`
}

// Order is the wish for a payment, as a caller sends it.
type Order struct {
	// Caller is the SPIFFE ID of the calling service; request IDs of different callers are different requests.
	Caller    string
	RequestID string
	Kind      Kind
	// PayerAccountID is empty for a cash deposit.
	PayerAccountID string
	PayeeAccountID string
	Amount         Amount
	Reference      string
}

// Digest is a fingerprint of what was asked for: all but the caller and the request ID. Each part is preceded by its length, so
// that no two orders run into each other.
func (o Order) Digest() []byte {
	h := sha256.New()
	for _, part := range []string{
		"countersign payment order 1", o.Kind.String(), o.PayerAccountID, o.PayeeAccountID,
		o.Amount.CurrencyCode, fmt.Sprint(o.Amount.MinorUnits), o.Reference,
	} {
		h.Write(binary.BigEndian.AppendUint64(nil, uint64(len(part))))
		h.Write([]byte(part))
	}
	return h.Sum(nil)
}

// Payment is one payment. It is a value.
type Payment struct {
	Order
	ID string
	// PayerCustomerID owns the paying account; empty for a cash deposit.
	PayerCustomerID string
	State           State
	Reasons         []Reason
	CreateTime      time.Time
	// UpdateTime is when the state last changed.
	UpdateTime time.Time
}

// Accounts returns the customers' accounts that the payment touches.
func (p Payment) Accounts() []string {
	if p.PayerAccountID == "" {
		return []string{p.PayeeAccountID}
	}
	return []string{p.PayerAccountID, p.PayeeAccountID}
}

// NewID returns an ID that nobody can guess.
func NewID() string { return "pay-" + strings.ToLower(rand.Text()) }

// Page is one page of an account's payments.
type Page struct {
	Payments []Payment
	// Next is the position to ask for the next page with; 0 on the last.
	Next int64
}

// Change is one change of state, seen from one account.
type Change struct {
	// Sequence grows with every change.
	Sequence int64
	// Payment is the payment in the state that it changed to.
	Payment Payment
}
