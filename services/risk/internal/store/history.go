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

// The condition on the verdict is word for word that of the indexes, or the databases would not use them.
//
// Payments that were held may be of any amount, so that their sum may leave 64 bits, which SQLite's sum() answers with an error. The upper and
// the lower 31 bits are summed apart: neither sum can leave 64 bits before there are 2^31 payments. PostgreSQL's sum() of a BIGINT is a
// NUMERIC, therefore the CASTs.
const (
	spentByAccount  = spent + `payer_account_id = $2 AND assess_time > $3 AND verdict <> 'refuse'`
	spentByCustomer = spent + `payer_customer_id = $2 AND assess_time > $3 AND verdict <> 'refuse'`

	spent = `
		SELECT count(*),
			CAST(coalesce(sum(CASE WHEN currency_code = $1 THEN minor_units / 2147483648 END), 0) AS BIGINT),
			CAST(coalesce(sum(CASE WHEN currency_code = $1 THEN minor_units % 2147483648 END), 0) AS BIGINT)
		FROM assessments WHERE `
)

// Spent implements risk.History. A payment that is exactly as old as the window has left it. After a jump of the clock backwards payments of the
// future count too, until it is there again: on the safe side.
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
		spent       risk.Spent
		upper, rest int64
	)
	if err := h.tx.QueryRowContext(ctx, query, p.Currency, payer, since.UnixMicro()).Scan(&spent.Payments, &upper, &rest); err != nil {
		return risk.Spent{}, fmt.Errorf("sum payments: %w", err)
	}
	spent.Minor = join(upper, rest)
	return spent, nil
}

// join returns upper times 2^31 plus rest, neither of them below zero, and the greatest number there is where that is more.
func join(upper, rest int64) int64 {
	if upper > math.MaxInt64>>31 || rest > math.MaxInt64-upper<<31 {
		return math.MaxInt64
	}
	return upper<<31 + rest
}
