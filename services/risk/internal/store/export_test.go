package store

import (
	"context"
	"database/sql"
	"time"

	"github.com/countersign-mesh/countersign/services/risk/internal/risk"
)

// AssessIn is what Assess does in its transaction.
func AssessIn(ctx context.Context, tx *sql.Tx, rules risk.Rules, p risk.Payment, now time.Time) (risk.Assessment, error) {
	return assess(ctx, tx, rules, p, now)
}

// SpentIn asks the history in a transaction.
func SpentIn(ctx context.Context, tx *sql.Tx, per risk.Per, p risk.Payment, since time.Time) (risk.Spent, error) {
	return history{tx}.Spent(ctx, per, p, since)
}
