// Package store keeps payments and their changes of state in a SQL database.
package store

import (
	"bytes"
	"context"
	"database/sql"
	"embed"
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"time"

	"github.com/countersign-mesh/countersign/pkg/database"
	"github.com/countersign-mesh/countersign/services/payments/internal/payment"
)

//go:embed migrations
var files embed.FS

// Store keeps payments in a database. It is safe for concurrent use.
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

// ByRequest returns the payment that the order's caller made with the order's request ID. It returns payment.ErrNotFound when
// there is none, and payment.ErrRequestReused when that was for other content.
func (s *Store) ByRequest(ctx context.Context, order payment.Order) (payment.Payment, error) {
	return byRequest(ctx, s.db, order)
}

// Create stores a payment as created, with the change that this is. When the order's request ID is known, it stores nothing and
// answers like ByRequest.
func (s *Store) Create(ctx context.Context, p payment.Payment) (payment.Payment, error) {
	stored := p
	err := database.InTx(ctx, s.db, func(tx *sql.Tx) error {
		earlier, err := byRequest(ctx, tx, p.Order)
		if !errors.Is(err, payment.ErrNotFound) {
			stored = earlier
			return err
		}
		if err := insert(ctx, tx, p); err != nil {
			return err
		}
		return appendChanges(ctx, tx, p)
	})
	if err != nil {
		return payment.Payment{}, fmt.Errorf("store payment: %w", err)
	}
	return stored, nil
}

// Advance moves a payment from one state to the next and stores the change that this is. When the payment is no longer in the
// first state, it changes nothing. It returns the payment as it then is.
func (s *Store) Advance(ctx context.Context, id string, from, to payment.State, reasons []payment.Reason, at time.Time) (payment.Payment, error) {
	var stored payment.Payment
	err := database.InTx(ctx, s.db, func(tx *sql.Tx) error {
		p, err := get(ctx, tx, id)
		if err != nil || p.State != from {
			stored = p
			return err
		}
		if !p.Kind.MayBecome(from, to) {
			return fmt.Errorf("payment %s must not become %s after %s", id, to, from)
		}
		p.State, p.Reasons, p.UpdateTime = to, reasons, at.UTC().Truncate(time.Microsecond)
		stored = p
		_, err = tx.ExecContext(ctx, `UPDATE payments SET state = ?, reasons = ?, update_time = ? WHERE payment_id = ?`,
			to.String(), encodeReasons(reasons), at.UnixMicro(), id)
		if err != nil {
			return err
		}
		return appendChanges(ctx, tx, p)
	})
	if err != nil {
		return payment.Payment{}, fmt.Errorf("store state %s: %w", to, err)
	}
	return stored, nil
}

// Get returns one payment, or payment.ErrNotFound.
func (s *Store) Get(ctx context.Context, id string) (payment.Payment, error) {
	return get(ctx, s.db, id)
}

type querier interface {
	QueryRowContext(ctx context.Context, query string, args ...any) *sql.Row
}

func get(ctx context.Context, q querier, id string) (payment.Payment, error) {
	p, err := scan(q.QueryRowContext(ctx, `SELECT `+columns+` FROM payments p WHERE payment_id = ?`, id))
	if errors.Is(err, sql.ErrNoRows) {
		return payment.Payment{}, payment.ErrNotFound
	}
	if err != nil {
		return payment.Payment{}, fmt.Errorf("read payment: %w", err)
	}
	return p, nil
}

func byRequest(ctx context.Context, q querier, order payment.Order) (payment.Payment, error) {
	var digest []byte
	p, err := scan(q.QueryRowContext(ctx, `SELECT `+columns+`, request_digest FROM payments p WHERE caller = ? AND request_id = ?`,
		order.Caller, order.RequestID), &digest)
	switch {
	case errors.Is(err, sql.ErrNoRows):
		return payment.Payment{}, payment.ErrNotFound
	case err != nil:
		return payment.Payment{}, fmt.Errorf("read payment by its request: %w", err)
	case !bytes.Equal(digest, order.Digest()):
		return payment.Payment{}, payment.ErrRequestReused
	default:
		return p, nil
	}
}

func insert(ctx context.Context, tx *sql.Tx, p payment.Payment) error {
	_, err := tx.ExecContext(ctx, `
		INSERT INTO payments (payment_id, caller, request_id, request_digest, kind, payer_account_id, payer_customer_id,
			payee_account_id, currency_code, minor_units, reference, state, reasons, create_time, update_time)
		VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?)`,
		p.ID, p.Caller, p.RequestID, p.Digest(), p.Kind.String(), p.PayerAccountID, p.PayerCustomerID,
		p.PayeeAccountID, p.Amount.CurrencyCode, p.Amount.MinorUnits, p.Reference, p.State.String(), encodeReasons(p.Reasons),
		p.CreateTime.UnixMicro(), p.UpdateTime.UnixMicro())
	return err
}

func appendChanges(ctx context.Context, tx *sql.Tx, p payment.Payment) error {
	for _, account := range p.Accounts() {
		_, err := tx.ExecContext(ctx,
			`INSERT INTO changes (account_id, payment_id, state, reasons, change_time) VALUES (?, ?, ?, ?, ?)`,
			account, p.ID, p.State.String(), encodeReasons(p.Reasons), p.UpdateTime.UnixMicro())
		if err != nil {
			return fmt.Errorf("append change: %w", err)
		}
	}
	return nil
}

func encodeReasons(reasons []payment.Reason) string {
	if len(reasons) == 0 {
		return "[]"
	}
	text, err := json.Marshal(reasons)
	if err != nil {
		panic(err) // two strings are always valid JSON
	}
	return string(text)
}
