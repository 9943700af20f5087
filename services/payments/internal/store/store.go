// Package store keeps payments and their changes of state in a SQL database, a SQLite file or a PostgreSQL server.
//
// An error wraps payment.ErrOutcomeUnknown when the database does not serve, or does not say whether it has stored something.
package store

import (
	"context"
	"database/sql"
	"embed"
	"fmt"
	"io/fs"

	"github.com/countersign-mesh/countersign/pkg/database"
	"github.com/countersign-mesh/countersign/services/payments/internal/payment"
)

//go:embed migrations
var files embed.FS

// Store keeps payments in a database. It is safe for concurrent use, also with Stores of other processes on the same database.
type Store struct {
	db    *sql.DB
	turns *turns
}

// Open opens the database at dsn and brings its schema up to date.
func Open(ctx context.Context, dsn string) (*Store, error) {
	migrations, err := fs.Sub(files, "migrations")
	if err != nil {
		return nil, fmt.Errorf("read embedded migrations: %w", err)
	}
	db, err := database.Open(ctx, dsn, migrations)
	if err != nil {
		return nil, err
	}
	return &Store{db: db, turns: newTurns()}, nil
}

// Close closes the database.
func (s *Store) Close() error { return s.db.Close() }

// Ping reports whether the database answers.
func (s *Store) Ping(ctx context.Context) error { return s.db.PingContext(ctx) }

// change runs f in a transaction that changes payments of accounts.
func (s *Store) change(ctx context.Context, accounts []string, f func(tx *sql.Tx) error) error {
	leave, err := s.turns.take(ctx, accounts)
	if err != nil {
		return err
	}
	defer leave()
	return away(database.InTx(ctx, s.db, f))
}

// away adds to an error of the database that it is for the moment, where it is.
func away(err error) error {
	if database.Unavailable(err) || isOutcomeUnknown(err) {
		return fmt.Errorf("%w: %w", payment.ErrOutcomeUnknown, err)
	}
	return err
}
