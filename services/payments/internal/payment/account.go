package payment

import "errors"

// Why an account cannot take part in a payment; always inside an AccountError.
var (
	ErrNoAccount     = errors.New("does not exist")
	ErrAccountClosed = errors.New("is closed")
	ErrAccountFrozen = errors.New("is frozen")
	ErrOtherCurrency = errors.New("is of another currency")
)

// AccountStatus says what an account may be used for. The zero value is for nothing, like Closed.
type AccountStatus int

// The statuses of an account.
const (
	Open AccountStatus = iota + 1
	Frozen
	Closed
)

// Account is what payments has to know of an account.
type Account struct {
	CustomerID   string
	CurrencyCode string
	Status       AccountStatus
}

// Accepts returns why the account cannot take part in a payment of an amount, nil when it can.
func (a Account) Accepts(amount Amount) error {
	switch {
	case a.Status == Frozen:
		return ErrAccountFrozen
	case a.Status != Open:
		return ErrAccountClosed
	case a.CurrencyCode != amount.CurrencyCode:
		return ErrOtherCurrency
	default:
		return nil
	}
}

// AccountError says which of a payment's accounts cannot take part, and why. Its text is fit for callers.
type AccountError struct {
	// Side is "paying" or "paid".
	Side string
	// Err is one of the sentinels.
	Err error
}

// Error implements error.
func (e *AccountError) Error() string { return "the " + e.Side + " account " + e.Err.Error() }

// Unwrap returns the sentinel.
func (e *AccountError) Unwrap() error { return e.Err }

// Code returns the code of the reason with which a payment is refused whose account went out of use on the way.
func (e *AccountError) Code() string {
	if errors.Is(e.Err, ErrAccountFrozen) {
		return CodeAccountFrozen
	}
	return CodeAccountClosed // one that is gone, or of another currency, is not the account any more that it was
}
