// Package store keeps the register of accounts in a SQL database.
package store

import (
	"bytes"
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

// Store keeps accounts in a database. It is safe for concurrent use. It implements register.Store and register.Closings.
type Store struct {
	db *sql.DB
}

// Open opens the database at dsn and brings its schema up to date. Accounts that an earlier process was closing when it ended
// are given free: nobody was told that they are closed.
func Open(ctx context.Context, dsn string) (*Store, error) {
	migrations, err := fs.Sub(files, "migrations")
	if err != nil {
		return nil, fmt.Errorf("read embedded migrations: %w", err)
	}
	db, err := database.Open(ctx, dsn, migrations)
	if err != nil {
		return nil, err
	}
	_, err = db.ExecContext(ctx, `UPDATE accounts SET closing = NULL WHERE closing IS NOT NULL AND close_time IS NULL`)
	if err != nil {
		return nil, errors.Join(fmt.Errorf("give accounts free that were being closed: %w", err), db.Close())
	}
	return &Store{db: db}, nil
}

// Close closes the database.
func (s *Store) Close() error { return s.db.Close() }

// Ping reports whether the database answers.
func (s *Store) Ping(ctx context.Context) error { return s.db.PingContext(ctx) }

// Open implements register.Store.
func (s *Store) Open(ctx context.Context, account register.Account, opening register.Opening) (register.Account, error) {
	opened := account
	err := database.InTx(ctx, s.db, func(tx *sql.Tx) error {
		earlier, digest, err := openedBy(ctx, tx, opening.RequestID)
		switch {
		case err == nil && !bytes.Equal(digest, opening.Digest()):
			return register.ErrRequestReused
		case err == nil:
			opened = earlier
			return nil
		case !errors.Is(err, sql.ErrNoRows):
			return err
		}
		_, err = tx.ExecContext(ctx, `
			INSERT INTO accounts (account_id, customer_id, display_name, currency_code, request_id, request_digest, open_time)
			VALUES (?, ?, ?, ?, ?, ?, ?)`,
			account.ID, account.CustomerID, account.DisplayName, account.CurrencyCode,
			opening.RequestID, opening.Digest(), account.OpenTime.UnixMicro())
		return err
	})
	if err != nil {
		return register.Account{}, fmt.Errorf("store account: %w", err)
	}
	return s.Get(ctx, opened.ID)
}

func openedBy(ctx context.Context, tx *sql.Tx, requestID string) (account register.Account, digest []byte, err error) {
	err = tx.QueryRowContext(ctx, `SELECT account_id, request_digest FROM accounts WHERE request_id = ?`, requestID).
		Scan(&account.ID, &digest)
	return account, digest, err
}

const columns = `account_id, customer_id, display_name, currency_code, open_time, coalesce(closing, ''), close_time`

// Get implements register.Store.
func (s *Store) Get(ctx context.Context, accountID string) (register.Account, error) {
	return one(s.db.QueryRowContext(ctx, `SELECT `+columns+` FROM accounts WHERE account_id = ?`, accountID))
}

// List implements register.Store.
func (s *Store) List(ctx context.Context, customerID string, after int64, limit int) (register.Page, error) {
	// One more than asked for tells whether there is a next page.
	rows, err := s.db.QueryContext(ctx, `
		SELECT `+columns+`, position FROM accounts WHERE customer_id = ? AND position > ? ORDER BY position LIMIT ?`,
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

func one(row scanner) (register.Account, error) {
	account, err := scan(row)
	if errors.Is(err, sql.ErrNoRows) {
		return register.Account{}, register.ErrNotFound
	}
	if err != nil {
		return register.Account{}, fmt.Errorf("read account: %w", err)
	}
	return account, nil
}

// scan reads columns, and more after them.
func scan(row scanner, more ...any) (register.Account, error) {
	var a register.Account
	var opened int64
	var closed sql.NullInt64
	dest := append([]any{&a.ID, &a.CustomerID, &a.DisplayName, &a.CurrencyCode, &opened, &a.Closing, &closed}, more...)
	if err := row.Scan(dest...); err != nil {
		return register.Account{}, err
	}
	a.OpenTime = time.UnixMicro(opened).UTC()
	if closed.Valid {
		a.CloseTime = time.UnixMicro(closed.Int64).UTC()
	}
	return a, nil
}
