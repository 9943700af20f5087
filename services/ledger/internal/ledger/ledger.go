// Package ledger is double entry: what a transfer is, and which transfers the books may take.
//
// It knows the rules and no storage. Amounts are integers in minor units, and every sum is checked for overflow: a sum that
// wraps around is money out of nothing.
package ledger

import (
	"errors"
	"strings"
	"time"
)

var (
	// ErrInvalid is returned for a transfer that the books can never take.
	ErrInvalid = errors.New("transfer is invalid")
	// ErrConflict is returned for a transfer ID that was used for other content.
	ErrConflict = errors.New("transfer_id was used for another transfer")
	// ErrInsufficientFunds is returned for a transfer after which a customer's account would be below zero.
	ErrInsufficientFunds = errors.New("insufficient funds")
	// ErrBalanceRange is returned for a transfer after which a balance would be further from zero than MaxBalance.
	ErrBalanceRange = errors.New("balance out of range")
	// ErrDamaged is returned when the books contradict themselves.
	ErrDamaged = errors.New("the books are damaged")
)

// MaxBalance is how far a balance may be from zero, in minor units, on either side: what bank.money.v1.Money can say. It is so far
// below the range of int64 that sums of many balances hold too.
const MaxBalance = 1_000_000_000_000_000

// Money is an amount in the minor units of a currency.
type Money struct {
	// Currency is an ISO 4217 code.
	Currency string
	Minor    int64
}

// Posting is one side of a transfer: what an account gains, or gives when the amount is below zero.
type Posting struct {
	Account string
	Amount  Money
}

// Transfer is what a caller wants written in the books.
type Transfer struct {
	// ID is chosen by the caller and unique in the books.
	ID          string
	Postings    []Posting
	Description string
}

// Entry is a posting as the books hold it.
type Entry struct {
	// Sequence grows in the order of posting.
	Sequence     int64
	TransferID   string
	Account      string
	Amount       Money
	BalanceAfter Money
	Description  string
	PostTime     time.Time
}

// TrialBalance is the sum of the whole books. Books in order sum to zero in each currency.
type TrialBalance struct {
	// Sums has one amount a currency, ordered by currency.
	Sums      []Money
	Transfers int64
	Entries   int64
}

// Balanced reports whether every sum is zero.
func (t TrialBalance) Balanced() bool {
	for _, sum := range t.Sums {
		if sum.Minor != 0 {
			return false
		}
	}
	return true
}

// The two kinds of accounts, told apart by how their IDs begin.
const (
	customerPrefix = "acc-"
	bankPrefix     = "bank-"
)

// MayOverdraw reports whether an account may go below zero: the bank's own may, because the cash in its vault is, seen from the
// books, a debt to the world. Every other may not.
func MayOverdraw(account string) bool { return strings.HasPrefix(account, bankPrefix) }
