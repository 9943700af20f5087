package store

import (
	"context"
	"database/sql"
	"encoding/json"
	"errors"
	"fmt"
	"slices"
	"time"

	"github.com/countersign-mesh/countersign/pkg/database"
	"github.com/countersign-mesh/countersign/services/payments/internal/payment"
)

// lateness is for how long a request to set money aside may be under way after another one was refused. Whoever sends it asks for 15 s at
// most, and is done 10 s later; the ledger has 10 s to commit. That is 35 s, which a process that was stopped on the way, or a clock that is
// wrong, makes longer. A hold that comes after the look at it stays for ever, while one that is released minutes late is in a customer's way
// until then, and no longer: so this is far above the sum.
const lateness = 5 * time.Minute

func isOutcomeUnknown(err error) bool { return errors.Is(err, database.ErrOutcomeUnknown) }

// Create stores a payment as created, with the change that this is. When the order's request ID is known, it stores nothing and
// answers like ByRequest.
func (s *Store) Create(ctx context.Context, p payment.Payment) (payment.Payment, error) {
	var stored payment.Payment
	err := s.change(ctx, p.Accounts(), func(tx *sql.Tx) error {
		made, err := insert(ctx, tx, p)
		if err != nil {
			return err
		}
		if !made {
			stored, err = byRequest(ctx, tx, p.Order)
			if errors.Is(err, payment.ErrNotFound) {
				return payment.ErrRequestReused // its ID is another payment's: the caller derives it from the request ID
			}
			return err
		}
		stored = p
		return appendChanges(ctx, tx, p)
	})
	if err != nil {
		return payment.Payment{}, fmt.Errorf("store payment: %w", err)
	}
	return stored, nil
}

// Advance takes a payment, in the version that the caller has seen, one step further, and stores the change that this is. When the payment
// has changed since, it changes nothing. It returns the payment as it then is.
func (s *Store) Advance(ctx context.Context, seen payment.Payment, step payment.Step) (payment.Payment, error) {
	var stored payment.Payment
	err := s.change(ctx, seen.Accounts(), func(tx *sql.Tx) error {
		p, err := get(ctx, tx, seen.ID)
		if err != nil || p.Version != seen.Version {
			stored = p
			return err
		}
		stored, err = take(ctx, tx, p, step)
		return err
	})
	if err != nil {
		return payment.Payment{}, fmt.Errorf("store state %s: %w", step.To, err)
	}
	return stored, nil
}

// Review stores what a person decided on a payment in review, and takes the step that follows. Where the payment is not in review at the
// version that the person has seen, it changes nothing, and the error is payment.ErrNotInReview unless the same was decided on that version.
func (s *Store) Review(ctx context.Context, id string, review payment.Review) (payment.Payment, error) {
	seen, err := s.Get(ctx, id)
	if err != nil {
		return payment.Payment{}, err
	}
	var stored payment.Payment
	err = s.change(ctx, seen.Accounts(), func(tx *sql.Tx) error {
		p, err := get(ctx, tx, id)
		if err != nil {
			return err
		}
		if p.State != payment.InReview || p.Version != review.Version {
			stored = p
			return decidedBefore(ctx, tx, id, review)
		}
		_, err = tx.ExecContext(ctx, `INSERT INTO reviews (payment_id, version, decision, decided_by, decide_time) VALUES ($1, $2, $3, $4, $5)`,
			id, p.Version, review.Decision.String(), review.By, review.Time.UnixMicro())
		if err != nil {
			return fmt.Errorf("append review: %w", err)
		}
		stored, err = take(ctx, tx, p, review.Step(p))
		return err
	})
	if err != nil {
		return payment.Payment{}, fmt.Errorf("store review: %w", err)
	}
	return stored, nil
}

func decidedBefore(ctx context.Context, tx *sql.Tx, id string, review payment.Review) error {
	var decided string
	err := tx.QueryRowContext(ctx, `SELECT decision FROM reviews WHERE payment_id = $1 AND version = $2`, id, review.Version).Scan(&decided)
	if errors.Is(err, sql.ErrNoRows) || err == nil && decided != review.Decision.String() {
		return payment.ErrNotInReview
	}
	return err
}

// HoldCame stores that money is set aside for a refused payment. It is to be released from a time on, unless it is already known when.
func (s *Store) HoldCame(ctx context.Context, id string, due time.Time) error {
	err := away(database.InTx(ctx, s.db, func(tx *sql.Tx) error {
		_, err := tx.ExecContext(ctx, `INSERT INTO late_holds (payment_id, due_time) VALUES ($1, $2) ON CONFLICT (payment_id) DO NOTHING`,
			id, due.UnixMicro())
		return err
	}))
	if err != nil {
		return fmt.Errorf("store that a hold came late: %w", err)
	}
	return nil
}

// Released stores that a late hold is no more.
func (s *Store) Released(ctx context.Context, id string) error {
	err := away(database.InTx(ctx, s.db, func(tx *sql.Tx) error {
		_, err := tx.ExecContext(ctx, `DELETE FROM late_holds WHERE payment_id = $1`, id)
		return err
	}))
	if err != nil {
		return fmt.Errorf("store that a late hold is released: %w", err)
	}
	return nil
}

// take stores a payment after a step.
func take(ctx context.Context, tx *sql.Tx, p payment.Payment, step payment.Step) (payment.Payment, error) {
	next, err := p.After(step)
	if err != nil {
		return payment.Payment{}, err
	}
	_, err = tx.ExecContext(ctx, `
		UPDATE payments SET state = $2, reasons = $3, version = $4, hold = $5, unfinished = $6, update_time = $7 WHERE payment_id = $1`,
		next.ID, next.State.String(), encodeReasons(next.Reasons), next.Version, bit(next.Hold), bit(next.Unfinished()), next.UpdateTime.UnixMicro())
	if err != nil {
		return payment.Payment{}, err
	}
	if p.State == payment.Assessed && next.State == payment.Refused {
		_, err = tx.ExecContext(ctx, `INSERT INTO late_holds (payment_id, due_time) VALUES ($1, $2)`, p.ID, step.Time.Add(lateness).UnixMicro())
		if err != nil {
			return payment.Payment{}, fmt.Errorf("note that a hold may come late: %w", err)
		}
	}
	return next, appendChanges(ctx, tx, next)
}

// insert reports whether it stored the payment: not when its request ID or its own is known.
func insert(ctx context.Context, tx *sql.Tx, p payment.Payment) (bool, error) {
	result, err := tx.ExecContext(ctx, `
		INSERT INTO payments (payment_id, caller, request_id, request_digest, kind, payer_account_id, payer_customer_id,
			payee_account_id, currency_code, minor_units, reference, state, reasons, version, hold, unfinished, create_time, update_time,
			transaction_id)
		VALUES ($1, $2, $3, $4, $5, $6, $7, $8, $9, $10, $11, $12, $13, $14, $15, $16, $17, $18, $19)
		ON CONFLICT DO NOTHING`,
		p.ID, p.Caller, p.RequestID, p.Digest(), p.Kind.String(), p.PayerAccountID, p.PayerCustomerID,
		p.PayeeAccountID, p.Amount.CurrencyCode, p.Amount.MinorUnits, p.Reference, p.State.String(), encodeReasons(p.Reasons),
		p.Version, bit(p.Hold), bit(p.Unfinished()), p.CreateTime.UnixMicro(), p.UpdateTime.UnixMicro(), p.Mandate.Transaction)
	if err != nil {
		return false, err
	}
	rows, err := result.RowsAffected()
	return rows == 1, err
}

// appendChanges numbers a change for each account that it touches. The number is the last thing that a transaction takes and the first that
// it gives back: nobody else gets one for the account before this transaction can be seen, or is gone.
func appendChanges(ctx context.Context, tx *sql.Tx, p payment.Payment) error {
	accounts := p.Accounts()
	slices.Sort(accounts) // in one order everywhere, so that no two transactions wait for each other
	for _, account := range accounts {
		var sequence int64
		err := tx.QueryRowContext(ctx, `
			INSERT INTO change_counts (account_id, sequence) VALUES ($1, 1)
			ON CONFLICT (account_id) DO UPDATE SET sequence = change_counts.sequence + 1
			RETURNING sequence`, account).Scan(&sequence)
		if err != nil {
			return fmt.Errorf("number change: %w", err)
		}
		_, err = tx.ExecContext(ctx, `
			INSERT INTO changes (account_id, sequence, payment_id, state, reasons, change_time) VALUES ($1, $2, $3, $4, $5, $6)`,
			account, sequence, p.ID, p.State.String(), encodeReasons(p.Reasons), p.UpdateTime.UnixMicro())
		if err != nil {
			return fmt.Errorf("append change: %w", err)
		}
	}
	return nil
}

// bit is a bool as both kinds of databases keep it.
func bit(b bool) int {
	if b {
		return 1
	}
	return 0
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
