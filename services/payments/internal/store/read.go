package store

import (
	"context"
	"encoding/json"
	"fmt"
	"math"
	"time"

	"github.com/countersign-mesh/countersign/services/payments/internal/payment"
)

// List returns at most limit payments from or to an account, newest first, before a position; 0 is after the newest.
func (s *Store) List(ctx context.Context, accountID string, before int64, limit int) (payment.Page, error) {
	if before == 0 {
		before = math.MaxInt64
	}
	// Each side by its own index; an OR would read and sort all of the account's payments. One row more than asked for tells whether
	// there is a next page.
	rows, err := s.db.QueryContext(ctx, `
		SELECT `+columns+`, position FROM payments p WHERE position IN (
			SELECT * FROM (SELECT position FROM payments WHERE payer_account_id = ?1 AND position < ?2 ORDER BY position DESC LIMIT ?3)
			UNION
			SELECT * FROM (SELECT position FROM payments WHERE payee_account_id = ?1 AND position < ?2 ORDER BY position DESC LIMIT ?3)
		) ORDER BY position DESC LIMIT ?3`, accountID, before, limit+1)
	if err != nil {
		return payment.Page{}, fmt.Errorf("list payments: %w", err)
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
		return payment.Page{}, fmt.Errorf("list payments: %w", err)
	}
	return page, nil
}

// Unfinished returns at most limit payments under way, oldest first, after a position, and the position of the last.
func (s *Store) Unfinished(ctx context.Context, after int64, limit int) (ids []string, last int64, err error) {
	rows, err := s.db.QueryContext(ctx, `
		SELECT payment_id, position FROM payments
		WHERE state IN ('created', 'assessed') AND position > ? ORDER BY position LIMIT ?`, after, limit)
	if err != nil {
		return nil, 0, fmt.Errorf("find unfinished payments: %w", err)
	}
	defer func() { _ = rows.Close() }() // rows.Err tells
	for rows.Next() {
		var id string
		if err := rows.Scan(&id, &last); err != nil {
			return nil, 0, fmt.Errorf("read unfinished payment: %w", err)
		}
		ids = append(ids, id)
	}
	if err := rows.Err(); err != nil {
		return nil, 0, fmt.Errorf("find unfinished payments: %w", err)
	}
	return ids, last, nil
}

// Changes returns at most limit changes of an account's payments after a sequence, in order. It holds nothing open when it has
// returned.
func (s *Store) Changes(ctx context.Context, accountID string, after int64, limit int) ([]payment.Change, error) {
	rows, err := s.db.QueryContext(ctx, `
		SELECT `+changeColumns+`, c.sequence FROM changes c JOIN payments p ON p.payment_id = c.payment_id
		WHERE c.account_id = ? AND c.sequence > ? ORDER BY c.sequence LIMIT ?`, accountID, after, limit)
	if err != nil {
		return nil, fmt.Errorf("read changes: %w", err)
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
		return nil, fmt.Errorf("read changes: %w", err)
	}
	return changes, nil
}

// HasChange reports whether a sequence is that of a change of an account's payments.
func (s *Store) HasChange(ctx context.Context, accountID string, sequence int64) (bool, error) {
	var found bool
	err := s.db.QueryRowContext(ctx, `SELECT EXISTS (SELECT 1 FROM changes WHERE sequence = ? AND account_id = ?)`, sequence, accountID).
		Scan(&found)
	if err != nil {
		return false, fmt.Errorf("look up change: %w", err)
	}
	return found, nil
}

const (
	fixedColumns = `p.payment_id, p.caller, p.request_id, p.kind, p.payer_account_id, p.payer_customer_id, p.payee_account_id,
		p.currency_code, p.minor_units, p.reference, p.create_time`
	columns       = fixedColumns + `, p.state, p.reasons, p.update_time`
	changeColumns = fixedColumns + `, c.state, c.reasons, c.change_time`
)

type scanner interface{ Scan(dest ...any) error }

// scan reads columns or changeColumns, and more after them.
func scan(row scanner, more ...any) (payment.Payment, error) {
	var p payment.Payment
	var kind, state, reasons string
	var created, updated int64
	dest := []any{
		&p.ID, &p.Caller, &p.RequestID, &kind, &p.PayerAccountID, &p.PayerCustomerID, &p.PayeeAccountID,
		&p.Amount.CurrencyCode, &p.Amount.MinorUnits, &p.Reference, &created, &state, &reasons, &updated,
	}
	if err := row.Scan(append(dest, more...)...); err != nil {
		return payment.Payment{}, err
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
	for state := payment.Created; state <= payment.Held; state++ {
		if state.String() == name {
			return state, nil
		}
	}
	return 0, fmt.Errorf("unknown state of payment %q", name)
}
