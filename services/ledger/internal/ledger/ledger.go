// Package ledger is double entry: what a transfer and a hold are, and which of them the books may take.
//
// It knows the rules and no storage. Amounts are integers in minor units, and every sum is checked for overflow: a sum that
// wraps around is money out of nothing.
package ledger

import (
	"crypto/sha256"
	"strings"
	"time"
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
	ID string
	// HoldID is the hold that the transfer captures; empty when it captures none.
	HoldID      string
	Postings    []Posting
	Description string
}

// Posted is what the books say of a transfer that is in them.
type Posted struct {
	// Time is when it was posted, in whole microseconds.
	Time time.Time
	// Digest is that of the transfer's content.
	Digest [sha256.Size]byte
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

// Balance is what an account has in a currency.
type Balance struct {
	Money
	// Held is how much of it active holds have set aside, in minor units. The rest is available.
	Held int64
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
