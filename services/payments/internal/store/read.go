package store

import (
	"bytes"
	"context"
	"database/sql"
	"encoding/json"
	"errors"
	"fmt"
	"math"
	"slices"
	"strings"
	"time"

	"github.com/countersign-mesh/countersign/services/payments/internal/payment"
)

// Get returns one payment, or payment.ErrNotFound.
func (s *Store) Get(ctx context.Context, id string) (payment.Payment, error) {
	return get(ctx, s.db, id)
}

// ByRequest returns the payment that the order's caller made with the order's request ID. It returns payment.ErrNotFound when
// there is none, and payment.ErrRequestReused when that was for other content.
func (s *Store) ByRequest(ctx context.Context, order payment.Order) (payment.Payment, error) {
	return byRequest(ctx, s.db, order)
}

type querier interface {
	QueryRowContext(ctx context.Context, query string, args ...any) *sql.Row
}

func get(ctx context.Context, q querier, id string) (payment.Payment, error) {
	p, err := scan(q.QueryRowContext(ctx, `SELECT `+columns+` FROM payments p WHERE payment_id = $1`, id))
	if errors.Is(err, sql.ErrNoRows) {
		return payment.Payment{}, payment.ErrNotFound
	}
	if err != nil {
		return payment.Payment{}, fmt.Errorf("read payment: %w", away(err))
	}
	return p, nil
}

func byRequest(ctx context.Context, q querier, order payment.Order) (payment.Payment, error) {
	var digest []byte
	p, err := scan(q.QueryRowContext(ctx, `SELECT `+columns+`, request_digest FROM payments p WHERE caller = $1 AND request_id = $2`,
		order.Caller, order.RequestID), &digest)
	switch {
	case errors.Is(err, sql.ErrNoRows):
		return payment.Payment{}, payment.ErrNotFound
	case err != nil:
		return payment.Payment{}, fmt.Errorf("read payment by its request: %w", away(err))
	case !bytes.Equal(digest, order.Digest()) || p.Mandate.PaymentID != "" && p.ID != order.Mandate.PaymentID:
		return payment.Payment{}, payment.ErrRequestReused
	default:
		return p, nil
	}
}

// List returns at most limit payments from or to an account, newest first, before a position; 0 is after the newest.
func (s *Store) List(ctx context.Context, accountID string, before int64, limit int) (payment.Page, error) {
	if before == 0 {
		before = math.MaxInt64
	}
	// Each side by its own index; an OR would read and sort all of the account's payments. One row more than asked for tells whether
	// there is a next page.
	rows, err := s.db.QueryContext(ctx, `
		SELECT `+columns+`, position FROM payments p WHERE position IN (
			SELECT * FROM (SELECT position FROM payments WHERE payer_account_id = $1 AND position < $2 ORDER BY position DESC LIMIT $3) AS paid
			UNION
			SELECT * FROM (SELECT position FROM payments WHERE payee_account_id = $1 AND position < $2 ORDER BY position DESC LIMIT $3) AS received
		) ORDER BY position DESC LIMIT $3`, accountID, before, limit+1)
	if err != nil {
		return payment.Page{}, fmt.Errorf("list payments: %w", away(err))
	}
	defer func() { _ = rows.Close() }() // rows.Err tells
	var page payment.Page
	var last int64
	for rows.Next() {
		if len(page.Payments) == limit {
			page.Next = last
			break
		}
		p, err := scan(rows, &last)
		if err != nil {
			return payment.Page{}, fmt.Errorf("read payment: %w", err)
		}
		page.Payments = append(page.Payments, p)
	}
	if err := rows.Err(); err != nil {
		return payment.Page{}, fmt.Errorf("list payments: %w", away(err))
	}
	return page, nil
}

// Changes returns at most limit changes of an account's payments after a sequence, in order. It holds nothing open when it has
// returned.
func (s *Store) Changes(ctx context.Context, accountID string, after int64, limit int) ([]payment.Change, error) {
	rows, err := s.db.QueryContext(ctx, `
		SELECT `+changeColumns+`, c.sequence FROM changes c JOIN payments p ON p.payment_id = c.payment_id
		WHERE c.account_id = $1 AND c.sequence > $2 ORDER BY c.sequence LIMIT $3`, accountID, after, limit)
	if err != nil {
		return nil, fmt.Errorf("read changes: %w", away(err))
	}
	defer func() { _ = rows.Close() }() // rows.Err tells
	var changes []payment.Change
	for rows.Next() {
		var c payment.Change
		if c.Payment, err = scan(rows, &c.Sequence); err != nil {
			return nil, fmt.Errorf("read change: %w", err)
		}
		changes = append(changes, c)
	}
	if err := rows.Err(); err != nil {
		return nil, fmt.Errorf("read changes: %w", away(err))
	}
	return changes, nil
}

// HasChange reports whether a sequence is that of a change of an account's payments.
func (s *Store) HasChange(ctx context.Context, accountID string, sequence int64) (bool, error) {
	var found bool
	err := s.db.QueryRowContext(ctx, `SELECT EXISTS (SELECT 1 FROM changes WHERE account_id = $1 AND sequence = $2)`, accountID, sequence).
		Scan(&found)
	if err != nil {
		return false, fmt.Errorf("look up change: %w", away(err))
	}
	return found, nil
}

// Latest returns the sequence of the last change of each account's payments; accounts without changes are not in it.
func (s *Store) Latest(ctx context.Context, accountIDs []string) (map[string]int64, error) {
	latest := map[string]int64{}
	for ids := range slices.Chunk(accountIDs, latestChunk) {
		if err := s.latest(ctx, ids, latest); err != nil {
			return nil, fmt.Errorf("read the counts of changes: %w", away(err))
		}
	}
	return latest, nil
}

// latestChunk bounds the parameters of a query.
const latestChunk = 500

func (s *Store) latest(ctx context.Context, ids []string, latest map[string]int64) error {
	var list strings.Builder
	args := make([]any, len(ids))
	for i, id := range ids {
		args[i] = id
		fmt.Fprintf(&list, ", $%d", i+1)
	}
	query := `SELECT account_id, sequence FROM change_counts WHERE account_id IN (` + list.String()[2:] + `)` //nolint:gosec // G202: of parameters' numbers
	rows, err := s.db.QueryContext(ctx, query, args...)
	if err != nil {
		return err
	}
	defer func() { _ = rows.Close() }() // rows.Err tells
	for rows.Next() {
		var id string
		var sequence int64
		if err := rows.Scan(&id, &sequence); err != nil {
			return err
		}
		latest[id] = sequence
	}
	return rows.Err()
}

const (
	fixedColumns = `p.payment_id, p.caller, p.request_id, p.kind, p.payer_account_id, p.payer_customer_id, p.payee_account_id,
		p.currency_code, p.minor_units, p.reference, p.transaction_id, p.create_time`
	columns       = fixedColumns + `, p.state, p.reasons, p.version, p.hold, p.update_time`
	changeColumns = fixedColumns + `, c.state, c.reasons, 0, 0, c.change_time` // the version is that of now
)

type scanner interface{ Scan(dest ...any) error }

// scan reads columns or changeColumns, and more after them.
func scan(row scanner, more ...any) (payment.Payment, error) {
	var p payment.Payment
	var kind, state, reasons string
	var created, updated int64
	dest := []any{
		&p.ID, &p.Caller, &p.RequestID, &kind, &p.PayerAccountID, &p.PayerCustomerID, &p.PayeeAccountID,
		&p.Amount.CurrencyCode, &p.Amount.MinorUnits, &p.Reference, &p.Mandate.Transaction, &created, &state, &reasons, &p.Version, &p.Hold, &updated,
	}
	if err := row.Scan(append(dest, more...)...); err != nil {
		return payment.Payment{}, err
	}
	if p.Mandate.Transaction != "" { // nobody makes a payment under a mandate of another customer, or for another payment
		p.Mandate.CustomerID, p.Mandate.PaymentID = p.PayerCustomerID, p.ID
	}
	p.CreateTime, p.UpdateTime = time.UnixMicro(created).UTC(), time.UnixMicro(updated).UTC()
	if err := json.Unmarshal([]byte(reasons), &p.Reasons); err != nil {
		return payment.Payment{}, fmt.Errorf("reasons of payment %s: %w", p.ID, err)
	}
	if len(p.Reasons) == 0 {
		p.Reasons = nil
	}
	var err error
	if p.Kind, err = parseKind(kind); err != nil {
		return payment.Payment{}, err
	}
	p.State, err = parseState(state)
	return p, err
}

func parseKind(name string) (payment.Kind, error) {
	for kind := payment.Transfer; kind <= payment.CashDeposit; kind++ {
		if kind.String() == name {
			return kind, nil
		}
	}
	return 0, fmt.Errorf("unknown kind of payment %q", name)
}

func parseState(name string) (payment.State, error) {
	for state := payment.Created; state <= payment.Releasing; state++ {
		if state.String() == name {
			return state, nil
		}
	}
	return 0, fmt.Errorf("unknown state of payment %q", name)
}
