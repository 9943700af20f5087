package store

import (
	"context"
	"database/sql"
	"errors"
	"fmt"
	"math/big"

	"github.com/countersign-mesh/countersign/pkg/database"
	"github.com/countersign-mesh/countersign/services/ledger/internal/ledger"
)

// maxFaults bounds how many faults of each kind an error names: a person starts with the first.
const maxFaults = 5

// Check sums every entry in the books, and compares what is derived from entries and holds, balances above all, with the entries and
// holds themselves. When the books contradict themselves, the error is ledger.ErrDamaged and names where; the sums are returned all the same.
//
// It is what a running ledger can afford: the database sorts and sums, in about a second for each hundred thousand transfers, and
// neither writers nor readers wait for it. It takes the content of a transfer as it is. Package verify, the command ledger verify, also compares
// each content with its digest, each hold with the transfer that captured it, and has the database check itself and what guards the books.
func (s *Store) Check(ctx context.Context) (ledger.TrialBalance, error) {
	var balance ledger.TrialBalance
	err := database.InSnapshot(ctx, s.db, func(tx *sql.Tx) (err error) {
		if balance, err = trialBalance(ctx, tx); err != nil {
			return err
		}
		return errors.Join(
			faults(ctx, tx, unbalancedTransfers, "transfer %s does not sum to zero in %s"),
			faults(ctx, tx, brokenChains, "account %s in %s: a balance after an entry is not the one before plus the entry"),
			faults(ctx, tx, wrongBalances, "account %s in %s: the balance is not that after the last entry"),
			faults(ctx, tx, wrongHeld, "account %s in %s: what is held is not the sum of its active holds"),
			faults(ctx, tx, emptyTransfers, "transfer %s has fewer than two entries%s"),
		)
	})
	if err != nil {
		err = fmt.Errorf("check the books: %w", err)
	}
	return balance, err
}

// trialBalance sums all entries. SQLite's sum fails when it leaves 64 bits, also on the way to a result that does not; so it
// sums the upper and the lower half of each amount apart, which leaves room for 2^31 entries.
func trialBalance(ctx context.Context, tx *sql.Tx) (ledger.TrialBalance, error) {
	var balance ledger.TrialBalance
	row := tx.QueryRowContext(ctx, "SELECT (SELECT count(*) FROM transfers), (SELECT count(*) FROM entries)")
	if err := row.Scan(&balance.Transfers, &balance.Entries); err != nil {
		return balance, fmt.Errorf("count: %w", err)
	}
	rows, err := tx.QueryContext(ctx, `
		SELECT currency_code, sum(minor_units >> 32), sum(minor_units & 4294967295)
		FROM entries GROUP BY currency_code ORDER BY currency_code`)
	if err != nil {
		return balance, fmt.Errorf("sum entries: %w", err)
	}
	balance.Sums, err = collect(rows, func(row scanner) (ledger.Money, error) {
		var (
			currency     string
			upper, lower int64
		)
		if err := row.Scan(&currency, &upper, &lower); err != nil {
			return ledger.Money{}, fmt.Errorf("sum entries: %w", err)
		}
		sum := new(big.Int).Lsh(big.NewInt(upper), 32)
		sum.Add(sum, big.NewInt(lower))
		if !sum.IsInt64() {
			return ledger.Money{}, fmt.Errorf("%w: the entries in %s sum to %v", ledger.ErrDamaged, currency, sum)
		}
		return ledger.Money{Currency: currency, Minor: sum.Int64()}, nil
	})
	return balance, err
}

// Each query finds what must not be: two columns that name the place. Sums by halves: what was tampered with may
// overflow.
const (
	unbalancedTransfers = `
		SELECT transfer_id, currency_code FROM entries
		GROUP BY transfer_id, currency_code HAVING sum(minor_units >> 32) * 4294967296 + sum(minor_units & 4294967295) <> 0 ORDER BY min(sequence) LIMIT $1`
	emptyTransfers = `
		SELECT transfer_id, '' FROM transfers
		WHERE transfer_id NOT IN (SELECT transfer_id FROM entries GROUP BY transfer_id HAVING count(*) > 1) LIMIT $1`
	brokenChains = `
		SELECT DISTINCT account_id, currency_code FROM (
			SELECT account_id, currency_code, balance_after,
				minor_units + lag(balance_after, 1, 0) OVER (PARTITION BY account_id, currency_code ORDER BY sequence) AS expected
			FROM entries) AS chain
		WHERE balance_after <> expected LIMIT $1`
	wrongBalances = `
		SELECT account_id, currency_code FROM (
			SELECT account_id, currency_code, minor_units AS kept, 0 AS derived FROM balances
			UNION ALL
			SELECT account_id, currency_code, 0, balance_after FROM entries
			WHERE sequence IN (SELECT max(sequence) FROM entries GROUP BY account_id, currency_code)) AS sides
		GROUP BY account_id, currency_code HAVING sum(kept) <> sum(derived) LIMIT $1`
	wrongHeld = `
		SELECT account_id, currency_code FROM (
			SELECT account_id, currency_code, held AS kept, 0 AS derived FROM balances
			UNION ALL
			SELECT account_id, currency_code, 0, minor_units FROM holds WHERE state = 'active') AS sides
		GROUP BY account_id, currency_code HAVING sum(kept) <> sum(derived) LIMIT $1`
)

// faults runs one of the queries above and makes an error of what it finds.
func faults(ctx context.Context, tx *sql.Tx, query, format string) error {
	rows, err := tx.QueryContext(ctx, query, maxFaults)
	if err != nil {
		return fmt.Errorf("look for faults: %w", err)
	}
	found, err := collect(rows, func(row scanner) (error, error) {
		var what, where string
		if err := row.Scan(&what, &where); err != nil {
			return nil, fmt.Errorf("look for faults: %w", err)
		}
		return fmt.Errorf("%w: "+format, ledger.ErrDamaged, what, where), nil
	})
	return errors.Join(append(found, err)...)
}
