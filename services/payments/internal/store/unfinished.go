package store

import (
	"context"
	"fmt"
	"time"
)

// Unfinished returns at most limit payments under way, oldest first, after a position, and the position of the last.
func (s *Store) Unfinished(ctx context.Context, after int64, limit int) (ids []string, last int64, err error) {
	ids, last, err = s.positions(ctx, `
		SELECT payment_id, position FROM payments WHERE unfinished = 1 AND position > $1 ORDER BY position LIMIT $2`, after, limit)
	if err != nil {
		return nil, 0, fmt.Errorf("find unfinished payments: %w", away(err))
	}
	return ids, last, nil
}

// LateHolds returns at most limit refused payments for which money may have been set aside all the same, and whose time to release it has
// come.
func (s *Store) LateHolds(ctx context.Context, now time.Time, limit int) (ids []string, err error) {
	ids, _, err = s.positions(ctx, `
		SELECT payment_id, due_time FROM late_holds WHERE due_time <= $1 ORDER BY due_time LIMIT $2`, now.UnixMicro(), limit)
	if err != nil {
		return nil, fmt.Errorf("find late holds: %w", away(err))
	}
	return ids, nil
}

// positions reads rows of a payment and a number, and returns the last number.
func (s *Store) positions(ctx context.Context, query string, args ...any) (ids []string, last int64, err error) {
	rows, err := s.db.QueryContext(ctx, query, args...)
	if err != nil {
		return nil, 0, err
	}
	defer func() { _ = rows.Close() }() // rows.Err tells
	for rows.Next() {
		var id string
		if err := rows.Scan(&id, &last); err != nil {
			return nil, 0, err
		}
		ids = append(ids, id)
	}
	return ids, last, rows.Err()
}
