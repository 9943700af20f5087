// Package payment says what a payment is and which ways it may take.
//
// A transfer goes created → assessed → held → posted: risk agrees, the ledger sets the money aside, and posts it out of that. A cash
// deposit needs nobody's consent and no money of a customer's, and goes created → posted. Everything else is a way around a trouble: in
// review when a person has to look, unknown when the ledger was asked to post and has not answered, releasing on the way to refused when
// money is set aside. Each state is stored before the step that follows from it is taken, so that whatever happens in between, what is
// stored says what may have been sent, and what to do next. The whole table is in package machine.
package payment

import (
	"crypto/rand"
	"crypto/sha256"
	"encoding/binary"
	"fmt"
	"strings"
	"time"
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
	// Mandate is the customer's; the zero value for a cash deposit, which no customer asks for, and for a transfer that an older version of the
	// service has left behind.
	Mandate Mandate
}

// Mandate is what the transaction token of an order proves: that a customer has asked for this very payment. The token itself is never stored.
type Mandate struct {
	// CustomerID is the customer.
	CustomerID string
	// PaymentID is the ID that the payment is to have. The token has it, so that the ledger can tell what the customer asked for from anything else.
	PaymentID string
	// Transaction names what the token was issued for, by which it can be renewed.
	Transaction string
}

// Digest is a fingerprint of what was asked for: all but the caller, the request ID and the mandate. Each part is preceded by its length, so
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
	// Version grows with every change. Who changes a payment names the version that he has seen, since a payment may be in the same state
	// again.
	Version int64
	// Hold says that money was set aside for it under its ID. What has none is posted without.
	Hold       bool
	CreateTime time.Time
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

// LateHold says that money may be set aside for a payment that was refused, and when it is to be released.
type LateHold struct {
	PaymentID string
	Due       time.Time
}

// Change is one change of state, seen from one account.
type Change struct {
	// Sequence grows with every change of the account's payments, in the order in which they can be seen.
	Sequence int64
	// Payment is the payment in the state that it changed to, without its version and whether it had a hold.
	Payment Payment
}
