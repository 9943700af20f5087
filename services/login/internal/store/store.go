// Package store keeps what the authorization server knows in a SQL database.
package store

import (
	"context"
	"database/sql"
	"embed"
	"errors"
	"fmt"
	"io/fs"
	"time"

	"github.com/countersign-mesh/countersign/pkg/database"
	"github.com/countersign-mesh/countersign/services/login/internal/customer"
)

//go:embed migrations
var files embed.FS

// Store keeps customers, devices, sessions, keys, transactions and revocations in a database. It is safe for concurrent use, also by several processes on one
// database. It implements the Store of each package of this service.
type Store struct {
	db *sql.DB
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
	return &Store{db: db}, nil
}

// Close closes the database.
func (s *Store) Close() error { return s.db.Close() }

// Ping reports whether the database answers.
func (s *Store) Ping(ctx context.Context) error { return s.db.PingContext(ctx) }

// AddCustomer implements customer.Store.
func (s *Store) AddCustomer(ctx context.Context, c customer.Customer, at time.Time) error {
	return database.InTx(ctx, s.db, func(tx *sql.Tx) error {
		var there int
		err := tx.QueryRowContext(ctx, `SELECT count(*) FROM customers WHERE customer_id = $1 OR username = $2`, c.ID, c.Username).Scan(&there)
		if err != nil {
			return fmt.Errorf("look for a customer: %w", err)
		}
		if there > 0 {
			return customer.ErrTaken
		}
		_, err = tx.ExecContext(ctx, `
			INSERT INTO customers (customer_id, username, password_hash, otp_secret, create_time) VALUES ($1, $2, $3, $4, $5)`,
			c.ID, c.Username, c.PasswordHash, c.Secret, micros(at))
		return wrap("store a customer", err)
	})
}

// CustomerByName implements customer.Store.
func (s *Store) CustomerByName(ctx context.Context, username string) (customer.Customer, error) {
	c := customer.Customer{Username: username}
	err := s.db.QueryRowContext(ctx, `SELECT customer_id, password_hash, otp_secret, otp_step FROM customers WHERE username = $1`, username).
		Scan(&c.ID, &c.PasswordHash, &c.Secret, &c.Step)
	if errors.Is(err, sql.ErrNoRows) {
		return customer.Customer{}, customer.ErrUnknown
	}
	if err != nil {
		return customer.Customer{}, fmt.Errorf("read a customer: %w", err)
	}
	return c, nil
}

// useUp uses up the one-time code of a proof. Of two who have proven the same one, the second has proven nothing.
func useUp(ctx context.Context, tx *sql.Tx, proof customer.Proof) error {
	if proof.Step == 0 {
		return nil
	}
	result, err := tx.ExecContext(ctx, `UPDATE customers SET otp_step = $1 WHERE customer_id = $2 AND otp_step < $1`, proof.Step, proof.CustomerID)
	if err != nil {
		return fmt.Errorf("use up a one-time code: %w", err)
	}
	if n, err := result.RowsAffected(); err != nil || n != 1 {
		return errors.Join(customer.ErrWrong, err)
	}
	return nil
}

type scanner interface{ Scan(dest ...any) error }

// querier is a database or a transaction in it.
type querier interface {
	QueryRowContext(ctx context.Context, query string, args ...any) *sql.Row
	QueryContext(ctx context.Context, query string, args ...any) (*sql.Rows, error)
}

// collect reads all rows of a query.
func collect[T any](ctx context.Context, from querier, scan func(scanner) (T, error), query string, args ...any) (all []T, err error) {
	rows, err := from.QueryContext(ctx, query, args...)
	if err != nil {
		return nil, err
	}
	defer func() { _ = rows.Close() }() // rows.Err tells
	for rows.Next() {
		one, err := scan(rows)
		if err != nil {
			return nil, err
		}
		all = append(all, one)
	}
	return all, rows.Err()
}

// micros is NULL for the zero time.
func micros(t time.Time) sql.NullInt64 {
	return sql.NullInt64{Int64: t.UnixMicro(), Valid: !t.IsZero()}
}

// moment returns the zero time for NULL.
func moment(micros sql.NullInt64) time.Time {
	if !micros.Valid {
		return time.Time{}
	}
	return time.UnixMicro(micros.Int64).UTC()
}

func number(b bool) int {
	if b {
		return 1
	}
	return 0
}

func wrap(what string, err error) error {
	if err == nil {
		return nil
	}
	return fmt.Errorf("%s: %w", what, err)
}
