package store

import (
	"context"
	"database/sql"
	"fmt"

	"github.com/countersign-mesh/countersign/pkg/audit/chain"
	"github.com/countersign-mesh/countersign/pkg/audit/trail"
)

// end returns what the next record follows.
func (s *Store) end(ctx context.Context, tx *sql.Tx) (chain.Head, error) {
	var head chain.Head
	var hash []byte
	const query = "SELECT coalesce(max(position), 0), (SELECT hash FROM records ORDER BY position DESC LIMIT 1) FROM records"
	if err := tx.QueryRowContext(ctx, query).Scan(&head.Position, &hash); err != nil {
		return head, fmt.Errorf("find the last record: %w", err)
	}
	given, err := trail.Given(ctx, tx)
	switch {
	case err != nil:
		return head, err
	case given > head.Position:
		return head, fmt.Errorf("%w: records were stored up to %d, and the last one that is left is %d", ErrDamaged, given, head.Position)
	case len(hash) == len(head.Hash):
		head.Hash = chain.Hash(hash)
	case head.Position == s.sealed.Position && hash == nil:
		head.Hash = s.sealed.Hash
	default:
		return head, fmt.Errorf("%w: record %d has lost its hash", ErrDamaged, head.Position)
	}
	return head, nil
}

// seal returns the end of the records from before there was a chain, when they are all that there is. That takes long where there are many,
// but only until the first one with a hash is stored: then they are never needed again.
func seal(ctx context.Context, tx *sql.Tx) (chain.Head, error) {
	var head chain.Head
	rows, err := tx.QueryContext(ctx, trail.Select+
		" WHERE (SELECT hash FROM records ORDER BY position DESC LIMIT 1) IS NULL ORDER BY position")
	if err != nil {
		return head, fmt.Errorf("read the records from before the chain: %w", err)
	}
	defer func() { _ = rows.Close() }() // rows.Err says what there is to say
	for rows.Next() {
		r, _, err := trail.Scan(rows)
		if err != nil {
			return head, err
		}
		if len(r.GetHash()) > 0 {
			return head, fmt.Errorf("%w: the last record has lost its hash, which record %d has", ErrDamaged, r.GetPosition())
		}
		head = chain.Head{Position: r.GetPosition(), Hash: chain.Seal(head.Hash, r)}
	}
	if err := rows.Err(); err != nil {
		return head, fmt.Errorf("read the records from before the chain: %w", err)
	}
	return head, nil
}
