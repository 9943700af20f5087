package faults_test

import (
	"fmt"
	"strings"

	"github.com/countersign-mesh/countersign/services/ledger/internal/ledger"
)

// kind is what an operation does.
type kind uint8

const (
	post    kind = iota + 1 // a transfer; out of a hold when the operation has one
	reserve                 // a hold
	release                 // a hold's end
	balance                 // of one account
	check                   // of all the books; no part of histories
	limit                   // no write makes a file longer than so many bytes, 0 for any number; of a process alone
)

const (
	// accounts is how many accounts a group has. The last one is the bank's, which may go below zero.
	accounts = 4
	bank     = accounts - 1
)

// moves is what a transfer does to each account of a group; zero where it does nothing.
type moves [accounts]int64

// op is one operation on the books. Groups are worlds of their own: no operation touches two of them, so that their histories are checked
// apart. IDs count from 1. It is comparable: two with the same ID and other content differ.
type op struct {
	Kind  kind
	Group int
	ID    int   // of the transfer or the hold
	Hold  int   // that the transfer captures; 0 for none
	Moves moves // of the transfer
	Whose int   // account of the hold, or of the balance
	Minor int64 // amount of the hold
}

// transferID and holdID are unique in the books.
func transferID(group, id int) string { return fmt.Sprintf("transfer-%d-%d", group, id) }

func holdID(group, id int) string { return fmt.Sprintf("hold-%d-%d", group, id) }

// account returns the ID of a group's account, of the form that the contract asks for.
func account(group, n int) string {
	if n == bank {
		return fmt.Sprintf("bank-%d", group)
	}
	digits := fmt.Sprintf("%d", group*accounts+n)
	letters := strings.Map(func(digit rune) rune { return 'b' + digit - '0' }, digits)
	return "acc-" + strings.Repeat("a", 26-len(letters)) + letters
}

func eur(minor int64) ledger.Money { return ledger.Money{Currency: "EUR", Minor: minor} }

// transfer is the operation as the books know it.
func (o op) transfer() ledger.Transfer {
	t := ledger.Transfer{ID: transferID(o.Group, o.ID), Description: "a fault is near"}
	if o.Hold != 0 {
		t.HoldID = holdID(o.Group, o.Hold)
	}
	for n, minor := range o.Moves {
		if minor != 0 {
			t.Postings = append(t.Postings, ledger.Posting{Account: account(o.Group, n), Amount: eur(minor)})
		}
	}
	return t
}

// hold is the operation as the books know it.
func (o op) hold() ledger.Hold {
	return ledger.Hold{ID: holdID(o.Group, o.ID), Account: account(o.Group, o.Whose), Amount: eur(o.Minor)}
}

// String implements fmt.Stringer, for the picture of a history.
func (o op) String() string {
	switch o.Kind {
	case post:
		if o.Hold != 0 {
			return fmt.Sprintf("capture %d by %d %v", o.Hold, o.ID, o.Moves)
		}
		return fmt.Sprintf("post %d %v", o.ID, o.Moves)
	case reserve:
		return fmt.Sprintf("reserve %d: %d of %d", o.ID, o.Minor, o.Whose)
	case release:
		return fmt.Sprintf("release %d", o.ID)
	case balance:
		return fmt.Sprintf("balance of %d", o.Whose)
	default:
		return fmt.Sprintf("operation %d", o.Kind)
	}
}

// code is what an answer says.
type code uint8

const (
	done code = iota + 1
	invalid
	conflict
	insufficient
	noHold
	holdReleased
	holdCaptured
	refused // the books are away, and nothing took place
	unknown // the books are away, and nobody knows what took place
	failed  // anything else, which no books should say
)

// String implements fmt.Stringer.
func (c code) String() string {
	return []string{"?", "done", "invalid", "conflict", "insufficient", "no hold", "released", "captured", "refused", "unknown", "failed"}[c]
}

// final reports whether an answer says what became of the operation.
func (c code) final() bool { return c != refused && c != unknown }

// state is what has become of a hold.
type state uint8

const (
	active state = iota + 1
	captured
	released
)

// answer is what the books said to an operation.
type answer struct {
	Code     code
	Text     string // of the error
	Time     int64  // of posting, or of making the hold; microseconds
	State    state  // of the hold
	Balance  int64
	Held     int64
	Sums     ledger.TrialBalance // of a check
	Attempts int                 // how often the operation was sent; only the last time was there an answer
}

// String implements fmt.Stringer, for the picture of a history.
func (a answer) String() string {
	switch {
	case a.Code != done:
		return a.Code.String()
	case a.State != 0:
		return fmt.Sprintf("state %d at %d", a.State, a.Time)
	case a.Time != 0:
		return fmt.Sprintf("posted at %d", a.Time)
	default:
		return fmt.Sprintf("%d, %d held", a.Balance, a.Held)
	}
}
