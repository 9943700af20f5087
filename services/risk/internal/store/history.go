package store

import (
	"context"
	"database/sql"
	"fmt"
	"math"
	"time"

	"github.com/countersign-mesh/countersign/services/risk/internal/risk"
)

// history is what went before, seen from inside of the transaction that adds to it.
type history struct{ tx *sql.Tx }

// The condition on the verdict is word for word that of the indexes, or SQLite would not use them.
//
// total() instead of sum(), which fails when it leaves 64 bits: payments that were held may be of any amount. It is exact up to
// 2^53, nine times what a limit can be (rules.maxMinor); beyond that only "far too much" matters.
const (
	spentByAccount = `
		SELECT count(*), total(CASE WHEN currency_code = ? THEN minor_units END) FROM assessments
		WHERE payer_account_id = ? AND assess_time > ? AND verdict <> 'refuse'`
	spentByCustomer = `
		SELECT count(*), total(CASE WHEN currency_code = ? THEN minor_units END) FROM assessments
		WHERE payer_customer_id = ? AND assess_time > ? AND verdict <> 'refuse'`
)

// Spent implements risk.History. After a jump of the clock backwards payments of the future count too, until it is there again: on
// the safe side.
func (h history) Spent(ctx context.Context, per risk.Per, p risk.Payment, since time.Time) (risk.Spent, error) {
	var query, payer string
	switch per {
	case risk.PerAccount:
		query, payer = spentByAccount, p.Payer
	case risk.PerCustomer:
		query, payer = spentByCustomer, p.Customer
	default:
		return risk.Spent{}, fmt.Errorf("%d says not whose payments", per)
	}
	var (
		spent risk.Spent
		total float64
	)
	if err := h.tx.QueryRowContext(ctx, query, p.Currency, payer, since.UnixMicro()).Scan(&spent.Payments, &total); err != nil {
		return risk.Spent{}, fmt.Errorf("sum payments: %w", err)
	}
	spent.Minor = math.MaxInt64
	if total < math.MaxInt64 {
		spent.Minor = int64(total)
	}
	return spent, nil
}
