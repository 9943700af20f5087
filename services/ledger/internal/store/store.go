// Package store keeps the books in a SQL database.
package store

import (
	"context"
	"database/sql"
	"errors"
	"fmt"
	"runtime/debug"
	"time"

	"github.com/countersign-mesh/countersign/pkg/database"
	"github.com/countersign-mesh/countersign/services/ledger/internal/ledger"
	"github.com/countersign-mesh/countersign/services/ledger/internal/store/migrations"
)

// Store is the books. It is safe for concurrent use. The zero value is not usable; see Open.
type Store struct {
	db         *sql.DB
	now        func() time.Time
	statements statements
	committer  *committer
}

// Option changes a default of Open.
type Option func(*Store)

// WithClock sets the clock; time.Now by default.
func WithClock(now func() time.Time) Option { return func(s *Store) { s.now = now } }

// Open opens the books in the database at dsn, sqlite:PATH or postgres://…, and brings their schema up to date. Several processes may have
// the same books open. ctx bounds the opening alone.
func Open(ctx context.Context, dsn string, opts ...Option) (*Store, error) {
	db, err := database.Open(ctx, dsn, migrations.FS)
	if err != nil {
		return nil, err
	}
	s := &Store{db: db, now: time.Now}
	for _, opt := range opts {
		opt(s)
	}
	if s.statements, err = prepare(ctx, db); err != nil {
		return nil, errors.Join(fmt.Errorf("open the books: %w", err), db.Close())
	}
	s.committer = newCommitter(s.write) //nolint:contextcheck // it lives until Close, and ctx until the books are open
	return s, nil
}

// Close waits for the batch that is being written and closes the books. Requests that wait behind it are answered with ErrClosed.
func (s *Store) Close() error {
	s.committer.close()
	return errors.Join(s.statements.close(), s.db.Close())
}

// Ping reports whether the database can be reached.
func (s *Store) Ping(ctx context.Context) error { return s.db.PingContext(ctx) }

// Post writes a transfer, whole or not at all, and captures the hold that it names, if any. A transfer that is in the books already is not
// written again: the answer is the first one's. So a caller that does not know how a call ended, for whatever reason, posts the same
// transfer again and knows.
//
// Errors: ledger.ErrInvalid, ErrConflict (a *ledger.ConflictError), ErrInsufficientFunds (a *ledger.InsufficientFundsError), ErrBalanceRange,
// ErrNoHold, ErrHoldReleased, ErrHoldCaptured. An error that wraps database.ErrOutcomeUnknown leaves open whether the transfer was written;
// after any other it was not.
func (s *Store) Post(ctx context.Context, t ledger.Transfer) (ledger.Posted, error) {
	if err := t.Validate(); err != nil {
		return ledger.Posted{}, err
	}
	r := &request{transfer: t.ID, hold: t.HoldID}
	for _, p := range t.Postings {
		r.accounts = append(r.accounts, p.Account)
	}
	var posted ledger.Posted
	r.apply = func(d *ledger.Draft, now time.Time) (err error) {
		posted, err = d.Post(t, now)
		return err
	}
	if err := s.committer.do(ctx, r); err != nil {
		return ledger.Posted{}, fmt.Errorf("post transfer %s: %w", t.ID, err)
	}
	return posted, nil
}

// Reserve sets money aside: ID, Account and Amount of h say which. A hold that is in the books already is not made again: the answer is
// that hold in its present state.
//
// Errors: as for Post, those of holds that end excepted.
func (s *Store) Reserve(ctx context.Context, h ledger.Hold) (ledger.Hold, error) {
	if err := h.Validate(); err != nil {
		return ledger.Hold{}, err
	}
	var made ledger.Hold
	err := s.committer.do(ctx, &request{hold: h.ID, accounts: []string{h.Account}, apply: func(d *ledger.Draft, now time.Time) (err error) {
		made, err = d.Reserve(h, now)
		return err
	}})
	if err != nil {
		return ledger.Hold{}, fmt.Errorf("reserve hold %s: %w", h.ID, err)
	}
	return made, nil
}

// Release makes what a hold has set aside available again. Releasing a released hold changes nothing.
//
// Errors: ledger.ErrNoHold, ErrHoldCaptured, and as for Post an unknown outcome.
func (s *Store) Release(ctx context.Context, holdID string) (ledger.Hold, error) {
	var released ledger.Hold
	err := s.committer.do(ctx, &request{hold: holdID, apply: func(d *ledger.Draft, now time.Time) (err error) {
		released, err = d.Release(holdID, now)
		return err
	}})
	if err != nil {
		return ledger.Hold{}, fmt.Errorf("release hold %s: %w", holdID, err)
	}
	return released, nil
}

// write applies a batch of requests in one transaction. Its error is that of the transaction; what became of each request is in the
// request.
func (s *Store) write(ctx context.Context, batch []*request) error {
	return database.InTx(ctx, s.db, func(tx *sql.Tx) (err error) {
		// A panic in here must not take the process down with everybody's requests. Nothing of this transaction is written after it.
		defer func() {
			if p := recover(); p != nil {
				err = fmt.Errorf("panic: %v\n%s", p, debug.Stack())
			}
		}()
		now := s.now().UTC().Truncate(time.Microsecond)
		in := s.statements.in(ctx, tx)
		draft, err := in.load(batch)
		if err != nil {
			return err
		}
		for _, r := range batch {
			r.err = r.apply(draft, now)
		}
		return in.save(draft.Changes())
	})
}
