package ledger

import (
	"crypto/sha256"
	"errors"
	"fmt"
)

var (
	// ErrInvalid is returned for a transfer or a hold that the books can never take.
	ErrInvalid = errors.New("invalid")
	// ErrConflict is returned for an ID that was used for other content. A *ConflictError tells for which.
	ErrConflict = errors.New("the ID was used before")
	// ErrInsufficientFunds is returned when a customer's account would be below zero, or below what is held of it. An
	// *InsufficientFundsError tells which account.
	ErrInsufficientFunds = errors.New("insufficient funds")
	// ErrBalanceRange is returned for a transfer after which a balance would be further from zero than MaxBalance.
	ErrBalanceRange = errors.New("balance out of range")
	// ErrNoHold is returned for a hold that is not in the books.
	ErrNoHold = errors.New("there is no such hold")
	// ErrHoldReleased is returned for the capture of a hold that was released.
	ErrHoldReleased = errors.New("the hold was released")
	// ErrHoldCaptured is returned for a hold that another transfer has captured.
	ErrHoldCaptured = errors.New("the hold was captured")
	// ErrDamaged is returned when the books contradict themselves.
	ErrDamaged = errors.New("the books are damaged")
)

// ConflictError says that an ID stands for other content, and for which. It is an ErrConflict.
type ConflictError struct {
	// Kind is what the ID is of: "transfer" or "hold".
	Kind string
	// Digest is that of the content that came first.
	Digest [sha256.Size]byte
}

// Error implements error.
func (e *ConflictError) Error() string {
	return fmt.Sprintf("%s_id was used for another %s", e.Kind, e.Kind)
}

// Unwrap makes it an ErrConflict.
func (e *ConflictError) Unwrap() error { return ErrConflict }

// InsufficientFundsError says which account lacks money, and not how much: that is for its owner to know. It is an ErrInsufficientFunds.
type InsufficientFundsError struct{ Account, Currency string }

// Error implements error.
func (e *InsufficientFundsError) Error() string {
	return fmt.Sprintf("%v: account %s in %s", ErrInsufficientFunds, e.Account, e.Currency)
}

// Unwrap makes it an ErrInsufficientFunds.
func (e *InsufficientFundsError) Unwrap() error { return ErrInsufficientFunds }
