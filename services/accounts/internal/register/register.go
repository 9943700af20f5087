package register

import (
	"context"
	"crypto/rand"
	"errors"
	"fmt"
	"time"
)

const (
	// closeAttempts bounds how often Close starts over because another attempt on the same account got in between.
	closeAttempts = 3
	// thawTimeout bounds the write that gives an account free again after its caller has gone.
	thawTimeout = 5 * time.Second
)

// Store keeps accounts.
type Store interface {
	// Open stores the account and the opening that it answers. When the opening's request ID is known, it returns the account
	// that was opened then, or ErrRequestReused when the content differs.
	Open(ctx context.Context, account Account, opening Opening) (Account, error)
	// Get returns one account, or ErrNotFound.
	Get(ctx context.Context, accountID string) (Account, error)
	// List returns at most limit accounts of a customer, oldest first, after a position; 0 is before the first.
	List(ctx context.Context, customerID string, after int64, limit int) (Page, error)
}

// Closings keeps how far the closing of an account has come.
type Closings interface {
	// Freeze takes an account out of use under the name of an attempt. When one is under way already, it joins that one. It
	// returns the account as it then is; a closed one stays as it is.
	Freeze(ctx context.Context, accountID, attempt string) (Account, error)
	// Thaw gives an account that the attempt has frozen free again; otherwise it changes nothing.
	Thaw(ctx context.Context, accountID, attempt string) error
	// Finish closes an account that the attempt has frozen. It returns the account when it is closed then, and ErrBusy when the
	// attempt is no longer the one under way.
	Finish(ctx context.Context, accountID, attempt string, at time.Time) (Account, error)
}

// Books knows balances.
type Books interface {
	// Empty reports whether an account's balance is zero in every currency. When it cannot tell, the error wraps ErrBooksAway.
	Empty(ctx context.Context, accountID string) (bool, error)
}

// Register opens, finds and closes accounts. It is safe for concurrent use.
type Register struct {
	store    Store
	closings Closings
	books    Books
	now      func() time.Time
}

// Option changes a default of New.
type Option func(*Register)

// WithClock sets the clock; time.Now by default.
func WithClock(now func() time.Time) Option { return func(r *Register) { r.now = now } }

// New returns a Register.
func New(store Store, closings Closings, books Books, opts ...Option) *Register {
	r := &Register{store: store, closings: closings, books: books, now: time.Now}
	for _, opt := range opts {
		opt(r)
	}
	return r
}

// Open opens an account, once for each request ID.
func (r *Register) Open(ctx context.Context, opening Opening) (Account, error) {
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
	return r.store.Get(ctx, accountID)
}

// List returns a page of a customer's accounts, oldest first.
func (r *Register) List(ctx context.Context, customerID string, after int64, limit int) (Page, error) {
	return r.store.List(ctx, customerID, after, limit)
}

// Close closes an account whose balance is zero. Closing a closed account changes nothing.
//
// The balance is the ledger's, and money may arrive while it is being asked for. So the account is first frozen: whoever asks from
// that commit on is told that it is no longer usable. Only then the balance is asked for, and what is closed was zero after the
// freeze. If it was not, the account is usable again, as if nothing
// had been tried; a first look at the balance, before freezing, keeps that from being noticed in all but a real race.
//
// What holds: nobody who asks for the account after the freeze finds it usable; and every payment that the ledger had posted when it was
// asked was seen. What does not: payments may have been told that the account was usable just before the freeze, and stores and posts
// its payment after Close has returned: mostly within the moment that a payment takes, but much later when payments was restarted or
// risk or the ledger was away for a while. Such a payment still arrives. It is not lost, since the ledger keeps it and GetBalance and
// ListEntries show it on the closed account; paying it out is for a person. One that the closed account was to pay is refused for
// want of money, unless another has so arrived. To refuse all, the ledger would have to know which accounts are closed.
func (r *Register) Close(ctx context.Context, accountID string) (Account, error) {
	for range closeAttempts {
		account, err := r.closeOnce(ctx, accountID)
		if !errors.Is(err, ErrBusy) {
			return account, err
		}
	}
	return Account{}, ErrBusy
}

func (r *Register) closeOnce(ctx context.Context, accountID string) (Account, error) {
	account, err := r.store.Get(ctx, accountID)
	if err != nil || account.Closed() {
		return account, err
	}
	if err := r.requireEmpty(ctx, accountID); err != nil {
		return Account{}, err
	}
	account, err = r.closings.Freeze(ctx, accountID, rand.Text())
	if err != nil || account.Closed() {
		return account, err
	}
	if err := r.requireEmpty(ctx, accountID); err != nil {
		return Account{}, r.thaw(ctx, account, err)
	}
	closed, err := r.closings.Finish(ctx, accountID, account.Closing, r.now())
	if err != nil && !errors.Is(err, ErrBusy) {
		return Account{}, r.thaw(ctx, account, err)
	}
	return closed, err
}

func (r *Register) requireEmpty(ctx context.Context, accountID string) error {
	empty, err := r.books.Empty(ctx, accountID)
	if err != nil {
		return fmt.Errorf("ask for the balance: %w", err)
	}
	if !empty {
		return ErrNotEmpty
	}
	return nil
}

// thaw gives the account free again, also when the caller has gone, and returns why. Where even that fails, the next attempt to
// close the account joins this one, and the next start of the process gives it free.
func (r *Register) thaw(ctx context.Context, account Account, cause error) error {
	ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), thawTimeout)
	defer cancel()
	if err := r.closings.Thaw(ctx, account.ID, account.Closing); err != nil {
		return errors.Join(cause, fmt.Errorf("give account %s free again: %w", account.ID, err))
	}
	return cause
}
