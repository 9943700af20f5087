// Package store keeps the books in a SQL database.
package store

import (
	"bytes"
	"context"
	"database/sql"
	"errors"
	"fmt"
	"time"

	"github.com/countersign-mesh/countersign/pkg/database"
	"github.com/countersign-mesh/countersign/services/ledger/internal/ledger"
)

// Store is the books. It is safe for concurrent use. The zero value is not usable; see New.
type Store struct {
	db  *sql.DB
	now func() time.Time
}

// Option changes a default of New.
type Option func(*Store)

// WithClock sets the clock; time.Now by default.
func WithClock(now func() time.Time) Option { return func(s *Store) { s.now = now } }

// New returns the books in db, whose schema is that of package migrations.
func New(db *sql.DB, opts ...Option) *Store {
	s := &Store{db: db, now: time.Now}
	for _, opt := range opts {
		opt(s)
	}
	return s
}

// Post writes a transfer, whole or not at all, and returns when it was posted. A transfer that is in the books already is not
// written again: the answer is the first one's. So a caller that does not know how a call ended, for whatever reason, posts the same
// transfer again and knows.
//
// Errors: ledger.ErrInvalid, ErrConflict, ErrInsufficientFunds (an *InsufficientFundsError says where), ErrBalanceRange.
func (s *Store) Post(ctx context.Context, t ledger.Transfer) (time.Time, error) {
	if err := t.Validate(); err != nil {
		return time.Time{}, err
	}
	var posted time.Time
	err := database.InTx(ctx, s.db, func(tx *sql.Tx) error {
		first, found, err := find(ctx, tx, t)
		if err != nil || found {
			posted = first
			return err
		}
		posted, err = s.write(ctx, tx, t)
		return err
	})
	if err != nil {
		return time.Time{}, fmt.Errorf("post transfer %s: %w", t.ID, err)
	}
	return posted, nil
}

// find returns when the transfer was posted, if it was.
func find(ctx context.Context, tx *sql.Tx, t ledger.Transfer) (time.Time, bool, error) {
	var (
		digest []byte
		micros int64
	)
	row := tx.QueryRowContext(ctx, "SELECT digest, post_time FROM transfers WHERE transfer_id = ?", t.ID)
	switch err := row.Scan(&digest, &micros); {
	case errors.Is(err, sql.ErrNoRows):
		return time.Time{}, false, nil
	case err != nil:
		return time.Time{}, false, fmt.Errorf("look for the transfer: %w", err)
	}
	if want := t.Digest(); !bytes.Equal(digest, want[:]) {
		return time.Time{}, false, ledger.ErrConflict
	}
	return time.UnixMicro(micros).UTC(), true, nil
}

// write adds a transfer that is not in the books.
func (s *Store) write(ctx context.Context, tx *sql.Tx, t ledger.Transfer) (time.Time, error) {
	now := s.now().UTC().Truncate(time.Microsecond)
	digest := t.Digest()
	if _, err := tx.ExecContext(ctx, "INSERT INTO transfers (transfer_id, digest, description, post_time) VALUES (?, ?, ?, ?)",
		t.ID, digest[:], t.Description, now.UnixMicro()); err != nil {
		return time.Time{}, fmt.Errorf("add transfer: %w", err)
	}
	for _, p := range t.Postings {
		if err := addEntry(ctx, tx, t.ID, p); err != nil {
			return time.Time{}, err
		}
	}
	return now, nil
}

// addEntry adds one posting and brings the account's balance up to date.
func addEntry(ctx context.Context, tx *sql.Tx, transferID string, p ledger.Posting) error {
	var before int64
	row := tx.QueryRowContext(ctx, "SELECT minor_units FROM balances WHERE account_id = ? AND currency_code = ?", p.Account, p.Amount.Currency)
	if err := row.Scan(&before); err != nil && !errors.Is(err, sql.ErrNoRows) {
		return fmt.Errorf("read balance: %w", err)
	}
	after, err := balanceAfter(before, p)
	if err != nil {
		return err
	}
	if _, err := tx.ExecContext(ctx,
		"INSERT INTO entries (transfer_id, account_id, currency_code, minor_units, balance_after) VALUES (?, ?, ?, ?, ?)",
		transferID, p.Account, p.Amount.Currency, p.Amount.Minor, after); err != nil {
		return fmt.Errorf("add entry: %w", err)
	}
	if _, err := tx.ExecContext(ctx, `INSERT INTO balances (account_id, currency_code, minor_units) VALUES (?, ?, ?)
		ON CONFLICT (account_id, currency_code) DO UPDATE SET minor_units = excluded.minor_units`,
		p.Account, p.Amount.Currency, after); err != nil {
		return fmt.Errorf("write balance: %w", err)
	}
	return nil
}

// balanceAfter returns an account's balance after a posting, if the account may have it.
func balanceAfter(before int64, p ledger.Posting) (int64, error) {
	after, ok := ledger.Add(before, p.Amount.Minor)
	if ok && after < 0 && !ledger.MayOverdraw(p.Account) {
		return 0, &InsufficientFundsError{Account: p.Account, Currency: p.Amount.Currency}
	}
	if !ok || after < -ledger.MaxBalance || after > ledger.MaxBalance {
		return 0, fmt.Errorf("%w: account %s in %s", ledger.ErrBalanceRange, p.Account, p.Amount.Currency)
	}
	return after, nil
}

// InsufficientFundsError says which account lacks money for a transfer, and not how much: that is for its owner to know. It is a
// ledger.ErrInsufficientFunds.
type InsufficientFundsError struct{ Account, Currency string }

// Error implements error.
func (e *InsufficientFundsError) Error() string {
	return fmt.Sprintf("%v: account %s in %s", ledger.ErrInsufficientFunds, e.Account, e.Currency)
}

// Unwrap makes it a ledger.ErrInsufficientFunds.
func (e *InsufficientFundsError) Unwrap() error { return ledger.ErrInsufficientFunds }
