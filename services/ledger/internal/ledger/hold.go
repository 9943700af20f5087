package ledger

import (
	"crypto/sha256"
	"errors"
	"fmt"
	"strconv"
	"strings"
	"time"
)

// HoldState says what has become of a hold. The zero value is none of them.
type HoldState int

// The states of a hold. It begins as active, and changes once at most.
const (
	HoldActive HoldState = iota + 1
	HoldCaptured
	HoldReleased
)

// String returns the state's name, by which the books keep it.
func (s HoldState) String() string {
	switch s {
	case HoldActive:
		return "active"
	case HoldCaptured:
		return "captured"
	case HoldReleased:
		return "released"
	default:
		return "HoldState(" + strconv.Itoa(int(s)) + ")"
	}
}

// ParseHoldState returns the state with a name that String gave.
func ParseHoldState(name string) (HoldState, error) {
	for _, s := range []HoldState{HoldActive, HoldCaptured, HoldReleased} {
		if s.String() == name {
			return s, nil
		}
	}
	return 0, fmt.Errorf("%w: a hold's state is %q", ErrDamaged, name)
}

// Hold is money of a customer's account that is set aside for one transfer. ID, Account and Amount are its content and never change; they
// are all that a caller gives.
type Hold struct {
	// ID is chosen by the caller and unique among the holds of the books.
	ID      string
	Account string
	// Amount is above zero.
	Amount Money
	State  HoldState
	// TransferID is the transfer that captured it; empty otherwise.
	TransferID string
	CreateTime time.Time
	// EndTime is when it was captured or released; zero while it is active.
	EndTime time.Time
}

// Validate reports everything that is wrong with a hold's content by itself, whatever the books hold. The error is ErrInvalid.
func (h Hold) Validate() error {
	var errs []error
	if h.ID == "" {
		errs = append(errs, errors.New("it has no ID"))
	}
	if !strings.HasPrefix(h.Account, customerPrefix) {
		errs = append(errs, fmt.Errorf("account %q is not a customer's (%s…)", h.Account, customerPrefix))
	}
	if h.Amount.Minor <= 0 {
		errs = append(errs, errors.New("the amount is not above zero"))
	}
	errs = append(errs, checkTexts(h.ID, h.Account, h.Amount.Currency)...)
	if len(errs) > 0 {
		return fmt.Errorf("the hold is %w: %w", ErrInvalid, errors.Join(errs...))
	}
	return nil
}

// Digest identifies the content of a hold: two that mean the same have the same.
func (h Hold) Digest() [sha256.Size]byte {
	var c content
	c.text("bank.ledger hold 1")
	c.text(h.ID)
	c.text(h.Account)
	c.money(h.Amount)
	return sha256.Sum256(c)
}
