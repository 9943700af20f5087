// Package store keeps the register of accounts in a SQL database.
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
	"github.com/countersign-mesh/countersign/services/accounts/internal/register"
)

//go:embed migrations
var files embed.FS

// Store keeps accounts in a database. It is safe for concurrent use, also by several processes on one database. It implements register.Store,
// register.Closings and register.Freezes.
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

const columns = `account_id, customer_id, display_name, currency_code, open_time, freeze_time, coalesce(closing, ''), closing_until, close_time`

// Get implements register.Store.
func (s *Store) Get(ctx context.Context, accountID string) (register.Account, error) {
	return get(ctx, s.db, accountID)
}

// querier is a database or a transaction in it.
type querier interface {
	QueryRowContext(ctx context.Context, query string, args ...any) *sql.Row
}

func get(ctx context.Context, from querier, accountID string) (register.Account, error) {
	account, err := scan(from.QueryRowContext(ctx, `SELECT `+columns+` FROM accounts WHERE account_id = $1`, accountID))
	if errors.Is(err, sql.ErrNoRows) {
		return register.Account{}, register.ErrNotFound
	}
	if err != nil {
		return register.Account{}, fmt.Errorf("read account: %w", err)
	}
	return account, nil
}

// List implements register.Store.
func (s *Store) List(ctx context.Context, customerID string, after int64, limit int) (register.Page, error) {
	// One more than asked for tells whether there is a next page.
	rows, err := s.db.QueryContext(ctx, `
		SELECT `+columns+`, position FROM accounts WHERE customer_id = $1 AND position > $2 ORDER BY position LIMIT $3`,
		customerID, after, limit+1)
	if err != nil {
		return register.Page{}, fmt.Errorf("list accounts: %w", err)
	}
	defer func() { _ = rows.Close() }() // rows.Err tells
	var page register.Page
	var last int64
	for rows.Next() {
		if len(page.Accounts) == limit {
			page.Next = last
			break
		}
		account, err := scan(rows, &last)
		if err != nil {
			return register.Page{}, fmt.Errorf("read account: %w", err)
		}
		page.Accounts = append(page.Accounts, account)
	}
	if err := rows.Err(); err != nil {
		return register.Page{}, fmt.Errorf("list accounts: %w", err)
	}
	return page, nil
}

type scanner interface{ Scan(dest ...any) error }

// scan reads columns, and more after them.
func scan(row scanner, more ...any) (register.Account, error) {
	var a register.Account
	var opened int64
	var frozen, until, closed sql.NullInt64
	dest := append([]any{&a.ID, &a.CustomerID, &a.DisplayName, &a.CurrencyCode, &opened, &frozen, &a.Closing.Name, &until, &closed}, more...)
	if err := row.Scan(dest...); err != nil {
		return register.Account{}, err
	}
	a.OpenTime = time.UnixMicro(opened).UTC()
	a.FreezeTime, a.Closing.Until, a.CloseTime = moment(frozen), moment(until), moment(closed)
	return a, nil
}

// moment returns the zero time for NULL.
func moment(micros sql.NullInt64) time.Time {
	if !micros.Valid {
		return time.Time{}
	}
	return time.UnixMicro(micros.Int64).UTC()
}
