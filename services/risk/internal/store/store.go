// Package store remembers assessed payments in a SQL database.
package store

import (
	"context"
	"database/sql"
	"errors"
	"fmt"
	"time"

	"github.com/countersign-mesh/countersign/pkg/database"
	"github.com/countersign-mesh/countersign/services/risk/internal/risk"
)

// Store is the memory of risk. It is safe for concurrent use. The zero value is not usable; see New.
type Store struct {
	db  *sql.DB
	now func() time.Time
}

// Option changes a default of New.
type Option func(*Store)

// WithClock sets the clock; time.Now by default.
func WithClock(now func() time.Time) Option { return func(s *Store) { s.now = now } }

// New returns the memory in db, whose schema is that of package migrations.
func New(db *sql.DB, opts ...Option) *Store {
	s := &Store{db: db, now: time.Now}
	for _, opt := range opts {
		opt(s)
	}
	return s
}

// Assess asks the rules about a payment and remembers the answer. A payment that was assessed before gets the answer that it got then
// and is not counted again, whatever the rules are now. Payments are assessed as if one
// after the other, by all processes on one database: two at once would each not see the other, and together go over a limit. On SQLite they are,
// and PostgreSQL rolls one of two back that did not see each other, as the transaction is serializable.
//
// The error is risk.ErrConflict when the payment's ID was assessed with other content.
func (s *Store) Assess(ctx context.Context, rules risk.Rules, p risk.Payment) (risk.Assessment, error) {
	var assessment risk.Assessment
	err := database.InTx(ctx, s.db, func(tx *sql.Tx) (err error) {
		assessment, err = assess(ctx, tx, rules, p, s.now())
		return err
	})
	if err != nil {
		return risk.Assessment{}, fmt.Errorf("assess payment %s: %w", p.ID, err)
	}
	return assessment, nil
}

// assess is one transaction.
func assess(ctx context.Context, tx *sql.Tx, rules risk.Rules, p risk.Payment, now time.Time) (risk.Assessment, error) {
	first, found, err := find(ctx, tx, p)
	if err != nil || found {
		return first, err
	}
	a, err := rules.Assess(ctx, p, now, history{tx})
	if err != nil {
		return risk.Assessment{}, err
	}
	return a, remember(ctx, tx, p, a, now)
}

// find returns the assessment that the payment got, if it was assessed.
func find(ctx context.Context, tx *sql.Tx, p risk.Payment) (a risk.Assessment, found bool, err error) {
	first := risk.Payment{ID: p.ID}
	var verdict, version string
	row := tx.QueryRowContext(ctx, `
		SELECT payer_customer_id, payer_account_id, payee_account_id, currency_code, minor_units, verdict, rules_version
		FROM assessments WHERE payment_id = $1`, p.ID)
	err = row.Scan(&first.Customer, &first.Payer, &first.Payee, &first.Currency, &first.Minor, &verdict, &version)
	switch {
	case errors.Is(err, sql.ErrNoRows):
		return a, false, nil
	case err != nil:
		return a, false, fmt.Errorf("look for the assessment: %w", err)
	case first != p:
		return a, false, risk.ErrConflict
	}
	if a.Verdict, err = parseVerdict(verdict); err != nil {
		return a, false, err
	}
	a.Version = version
	a.Reasons, err = findReasons(ctx, tx, p.ID)
	return a, true, err
}

func findReasons(ctx context.Context, tx *sql.Tx, paymentID string) (reasons []risk.Reason, err error) {
	rows, err := tx.QueryContext(ctx, "SELECT code, message FROM reasons WHERE payment_id = $1 ORDER BY position", paymentID)
	if err != nil {
		return nil, fmt.Errorf("read reasons: %w", err)
	}
	defer func() { err = errors.Join(err, rows.Close()) }()
	for rows.Next() {
		var r risk.Reason
		if err := rows.Scan(&r.Code, &r.Message); err != nil {
			return nil, fmt.Errorf("read reasons: %w", err)
		}
		reasons = append(reasons, r)
	}
	return reasons, rows.Err()
}

func remember(ctx context.Context, tx *sql.Tx, p risk.Payment, a risk.Assessment, now time.Time) error {
	verdict, err := formatVerdict(a.Verdict)
	if err != nil {
		return err
	}
	if _, err := tx.ExecContext(ctx, `
		INSERT INTO assessments (payment_id, payer_customer_id, payer_account_id, payee_account_id, currency_code, minor_units,
			verdict, assess_time, rules_version)
		VALUES ($1, $2, $3, $4, $5, $6, $7, $8, $9)`,
		p.ID, p.Customer, p.Payer, p.Payee, p.Currency, p.Minor, verdict, now.UnixMicro(), a.Version); err != nil {
		return fmt.Errorf("remember the assessment: %w", err)
	}
	for i, r := range a.Reasons {
		if _, err := tx.ExecContext(ctx, "INSERT INTO reasons (payment_id, position, code, message) VALUES ($1, $2, $3, $4)", p.ID, i+1, r.Code, r.Message); err != nil {
			return fmt.Errorf("remember a reason: %w", err)
		}
	}
	return nil
}

func formatVerdict(v risk.Verdict) (string, error) {
	switch v {
	case risk.Allow:
		return "allow", nil
	case risk.Hold:
		return "hold", nil
	case risk.Refuse:
		return "refuse", nil
	default:
		return "", fmt.Errorf("%d is no verdict", v)
	}
}

func parseVerdict(text string) (risk.Verdict, error) {
	for v := risk.Allow; v <= risk.Refuse; v++ {
		if t, err := formatVerdict(v); err == nil && t == text {
			return v, nil
		}
	}
	return 0, fmt.Errorf("the database holds the verdict %q, which is none", text)
}
