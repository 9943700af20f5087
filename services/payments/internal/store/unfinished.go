package store

import (
	"context"
	"fmt"
	"time"

	"github.com/countersign-mesh/countersign/services/payments/internal/payment"
)

// Unfinished returns at most limit payments under way, oldest first, after a position, and the position of the last.
func (s *Store) Unfinished(ctx context.Context, after int64, limit int) (ids []string, last int64, err error) {
	rows, err := s.db.QueryContext(ctx, `
		SELECT payment_id, position FROM payments WHERE unfinished = 1 AND position > $1 ORDER BY position LIMIT $2`, after, limit)
	if err != nil {
		return nil, 0, fmt.Errorf("find unfinished payments: %w", away(err))
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
		return nil, 0, fmt.Errorf("find unfinished payments: %w", away(err))
	}
	return ids, last, nil
}

// LateHolds returns at most limit refused payments for which money may have been set aside all the same, and whose time to release it has
// come, those that came due first before others, after one; the zero LateHold is before the first.
func (s *Store) LateHolds(ctx context.Context, now time.Time, after payment.LateHold, limit int) ([]payment.LateHold, error) {
	page, err := s.lateHolds(ctx, `
		SELECT payment_id, due_time FROM late_holds WHERE due_time <= $1 AND (due_time, payment_id) > ($2, $3)
		ORDER BY due_time, payment_id LIMIT $4`, now.UnixMicro(), after.Due.UnixMicro(), after.PaymentID, limit)
	if err != nil {
		return nil, fmt.Errorf("find late holds: %w", away(err))
	}
	return page, nil
}

func (s *Store) lateHolds(ctx context.Context, query string, args ...any) (page []payment.LateHold, err error) {
	rows, err := s.db.QueryContext(ctx, query, args...)
	if err != nil {
		return nil, err
	}
	defer func() { _ = rows.Close() }() // rows.Err tells
	for rows.Next() {
		var late payment.LateHold
		var due int64
		if err := rows.Scan(&late.PaymentID, &due); err != nil {
			return nil, err
		}
		late.Due = time.UnixMicro(due).UTC()
		page = append(page, late)
	}
	return page, rows.Err()
}
