package register

import (
	"context"
	"strings"
	"time"
)

// Store keeps accounts.
type Store interface {
	// Open stores the account and the opening that it answers. When the opening's request ID is known, it returns the account
	// that was opened then, or ErrRequestReused when the content differs.
	Open(ctx context.Context, account Account, opening Opening) (Account, error)
	// Get returns one account, or ErrNotFound.
	Get(ctx context.Context, accountID string) (Account, error)
	// List returns at most limit accounts of a customer, oldest first, after a position; 0 is before the first. What is opened later
	// comes after every position that any list has returned.
	List(ctx context.Context, customerID string, after int64, limit int) (Page, error)
}

// Books knows balances.
type Books interface {
	// Empty reports whether an account's balance is zero, and nothing of it held, in every currency. When it cannot tell, the error
	// wraps ErrBooksAway.
	Empty(ctx context.Context, accountID string) (bool, error)
}

// Register opens, finds, freezes and closes accounts. It is safe for concurrent use, also by several processes on one database.
type Register struct {
	store    Store
	closings Closings
	freezes  Freezes
	books    Books
	now      func() time.Time
}

// Option changes a default of New.
type Option func(*Register)

// WithClock sets the clock; time.Now by default.
func WithClock(now func() time.Time) Option { return func(r *Register) { r.now = now } }

// New returns a Register.
func New(store Store, closings Closings, freezes Freezes, books Books, opts ...Option) *Register {
	r := &Register{store: store, closings: closings, freezes: freezes, books: books, now: time.Now}
	for _, opt := range opts {
		opt(r)
	}
	return r
}

// Open opens an account, once for each request ID.
func (r *Register) Open(ctx context.Context, opening Opening) (Account, error) {
	if strings.Contains(opening.DisplayName, "\x00") {
		return Account{}, ErrNUL
	}
	account := Account{
		ID:           newID(),
		CustomerID:   opening.CustomerID,
		DisplayName:  opening.DisplayName,
		CurrencyCode: opening.CurrencyCode,
		OpenTime:     r.now(),
	}
	return r.store.Open(ctx, account, opening)
}

// Get returns one account, or ErrNotFound.
func (r *Register) Get(ctx context.Context, accountID string) (Account, error) {
	account, err := r.store.Get(ctx, accountID)
	if err != nil {
		return Account{}, err
	}
	return r.settle(ctx, account)
}

// List returns a page of a customer's accounts, oldest first.
func (r *Register) List(ctx context.Context, customerID string, after int64, limit int) (Page, error) {
	page, err := r.store.List(ctx, customerID, after, limit)
	if err != nil {
		return Page{}, err
	}
	for i, account := range page.Accounts {
		if page.Accounts[i], err = r.settle(ctx, account); err != nil {
			return Page{}, err
		}
	}
	return page, nil
}
