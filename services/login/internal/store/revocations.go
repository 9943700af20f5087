package store

import (
	"context"
	"database/sql"
	"errors"
	"time"

	"github.com/countersign-mesh/countersign/pkg/database"
	"github.com/countersign-mesh/countersign/services/login/internal/revocation"
)

// Revoke implements grant.Store.
func (s *Store) Revoke(ctx context.Context, r revocation.Revocation) error {
	return database.InTx(ctx, s.db, func(tx *sql.Tx) error { return revoke(ctx, tx, r) })
}

// revoke writes a revocation. Whoever writes one counts it in the same transaction, and holds the counter until it commits: sequences become visible in
// their order, and a reader who has read one has missed none before it.
func revoke(ctx context.Context, tx *sql.Tx, r revocation.Revocation) error {
	var there int
	err := tx.QueryRowContext(ctx, `SELECT count(*) FROM revocations WHERE kind = $1 AND subject = $2`, string(r.Kind), r.Subject).Scan(&there)
	if err != nil || there > 0 {
		return wrap("look for a revocation", err)
	}
	var sequence int64
	err = tx.QueryRowContext(ctx, `UPDATE counters SET last = last + 1 WHERE name = 'revocations' RETURNING last`).Scan(&sequence)
	if err != nil {
		return wrap("number a revocation", err)
	}
	_, err = tx.ExecContext(ctx, `INSERT INTO revocations (sequence, kind, subject, expire_time) VALUES ($1, $2, $3, $4)`,
		sequence, string(r.Kind), r.Subject, micros(r.Expires))
	return wrap("store a revocation", err)
}

// Revocations implements revocation.Store.
func (s *Store) Revocations(ctx context.Context, after int64, now time.Time) (revoked []revocation.Revocation, last int64, err error) {
	err = database.InSnapshot(ctx, s.db, func(tx *sql.Tx) error {
		if last, err = lastRevocation(ctx, tx); err != nil {
			return err
		}
		revoked, err = collect(ctx, tx, scanRevocation,
			`SELECT kind, subject, expire_time FROM revocations WHERE sequence > $1 AND expire_time > $2 ORDER BY sequence`, after, now.UnixMicro())
		return wrap("list revocations", err)
	})
	return revoked, last, err
}

// LastRevocation implements revocation.Store.
func (s *Store) LastRevocation(ctx context.Context) (int64, error) {
	return lastRevocation(ctx, s.db)
}

func lastRevocation(ctx context.Context, from querier) (last int64, err error) {
	err = from.QueryRowContext(ctx, `SELECT last FROM counters WHERE name = 'revocations'`).Scan(&last)
	return last, wrap("read the number of the last revocation", err)
}

// Revoked implements transaction.Store.
func (s *Store) Revoked(ctx context.Context, now time.Time, subjects ...revocation.Revocation) (bool, error) {
	for _, r := range subjects {
		var one int
		err := s.db.QueryRowContext(ctx, `SELECT 1 FROM revocations WHERE kind = $1 AND subject = $2 AND expire_time > $3`,
			string(r.Kind), r.Subject, now.UnixMicro()).Scan(&one)
		if err == nil {
			return true, nil
		}
		if !errors.Is(err, sql.ErrNoRows) {
			return false, wrap("look for a revocation", err)
		}
	}
	return false, nil
}

func scanRevocation(row scanner) (r revocation.Revocation, err error) {
	var expires sql.NullInt64
	err = row.Scan(&r.Kind, &r.Subject, &expires)
	r.Expires = moment(expires)
	return r, err
}
