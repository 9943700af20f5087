// Package register is the bank's register of accounts: who owns which one, and whether it may be used.
//
// An account is open, frozen or closed, and while an attempt to close it is under way it is out of use. All changes between these are
// compare-and-set in the store, so that several processes may serve one register.
//
// It knows no balances. Before it closes an account it asks the books; see Register.Close for what holds when money arrives
// at the same moment.
package register

import (
	"crypto/rand"
	"crypto/sha256"
	"encoding/binary"
	"errors"
	"strings"
	"time"
)

// The ways in which the register says no.
var (
	ErrNotFound      = errors.New("no such account")
	ErrRequestReused = errors.New("the request_id was used for other content; choose a new one")
	ErrNotEmpty      = errors.New("the account's balance is not zero; move the money first")
	ErrFrozen        = errors.New("the account is frozen; it has to be unfrozen first")
	ErrClosed        = errors.New("the account is closed")
	ErrBusy          = errors.New("the account is being closed by others; try again")
	ErrBooksAway     = errors.New("the ledger cannot be reached; try again")
	ErrNUL           = errors.New("a text holds a NUL character, which not every database can keep")
)

// Account is one account. It is a value; the zero value is no account.
type Account struct {
	ID           string
	CustomerID   string
	DisplayName  string
	CurrencyCode string
	OpenTime     time.Time
	// FreezeTime is since when the account is frozen; zero while it is not.
	FreezeTime time.Time
	// Closing is the attempt to close the account that is under way; zero otherwise.
	Closing Attempt
	// CloseTime is zero until the account is closed.
	CloseTime time.Time
}

// Closed reports whether the account was closed for good.
func (a Account) Closed() bool { return !a.CloseTime.IsZero() }

// Frozen reports whether the account rests until it is unfrozen.
func (a Account) Frozen() bool { return !a.FreezeTime.IsZero() }

// Usable reports whether the account may take part in new payments.
func (a Account) Usable() bool { return !a.Closed() && !a.Frozen() && a.Closing.Name == "" }

// Attempt is one attempt to close an account. While it is under way the account is out of use.
type Attempt struct {
	// Name is that of no other attempt.
	Name string
	// Until is how long those who make the attempt have. From then on everybody may give it up for them: a process that died would
	// otherwise leave the account out of use. It decides when an attempt is given up, and never whether it may still succeed; see
	// Register.Close.
	Until time.Time
}

// overdue reports whether an attempt is under way that may be given up.
func (a Attempt) overdue(now time.Time) bool { return a.Name != "" && !now.Before(a.Until) }

// Intervention is that somebody freezes or unfreezes an account.
type Intervention struct {
	// Actor is the SPIFFE ID of who did it.
	Actor string
	// Reason is why, for the next person who looks at it; it may be empty.
	Reason string
	Time   time.Time
}

// Opening is a customer's wish for an account.
type Opening struct {
	RequestID    string
	CustomerID   string
	DisplayName  string
	CurrencyCode string
}

// Digest is a fingerprint of what was asked for: all but the request ID. Each part is preceded by its length, so that no two
// openings run into each other.
func (o Opening) Digest() []byte {
	h := sha256.New()
	for _, part := range []string{"countersign open account 1", o.CustomerID, o.DisplayName, o.CurrencyCode} {
		h.Write(binary.BigEndian.AppendUint64(nil, uint64(len(part))))
		h.Write([]byte(part))
	}
	return h.Sum(nil)
}

// Page is one page of a customer's accounts.
type Page struct {
	Accounts []Account
	// Next is the position to ask for the next page with; 0 on the last.
	Next int64
}

// newID returns an ID that nobody can guess, so that a customer cannot try out others' accounts.
func newID() string { return "acc-" + strings.ToLower(rand.Text()) }
