package payment

import "errors"

// Why an account cannot take part in a payment; always inside an AccountError.
var (
	ErrNoAccount     = errors.New("does not exist")
	ErrAccountClosed = errors.New("is closed")
	ErrOtherCurrency = errors.New("is of another currency")
)

// Account is what payments has to know of an account.
type Account struct {
	CustomerID   string
	CurrencyCode string
	Open         bool
}

// Accepts returns why the account cannot take part in a payment of an amount, nil when it can.
func (a Account) Accepts(amount Amount) error {
	switch {
	case !a.Open:
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
