package store

import (
	"context"
	"database/sql"
	"fmt"
	"math"

	"github.com/countersign-mesh/countersign/services/ledger/internal/ledger"
)

// Balances returns an account's balance in each currency that it has entries in, ordered by currency.
func (s *Store) Balances(ctx context.Context, account string) ([]ledger.Balance, error) {
	rows, err := s.statements[balancesOf].QueryContext(ctx, account)
	if err != nil {
		return nil, fmt.Errorf("read balances of %s: %w", account, err)
	}
	balances, err := collect(rows, func(row scanner) (b ledger.Balance, err error) {
		err = row.Scan(&b.Currency, &b.Minor, &b.Held)
		return b, err
	})
	if err != nil {
		return nil, fmt.Errorf("read balances of %s: %w", account, err)
	}
	return balances, nil
}

// Entries returns up to limit entries of an account, newest first, all of them older than the one with the sequence before; 0
// begins with the newest. more reports whether there are still older ones.
func (s *Store) Entries(ctx context.Context, account string, before int64, limit int) (page []ledger.Entry, more bool, err error) {
	if before == 0 {
		before = math.MaxInt64
	}
	rows, err := s.statements[entriesOf].QueryContext(ctx, account, before, limit+1)
	if err != nil {
		return nil, false, fmt.Errorf("read entries of %s: %w", account, err)
	}
	page, err = collect(rows, scanEntry)
	if err != nil {
		return nil, false, fmt.Errorf("read entries of %s: %w", account, err)
	}
	if len(page) > limit {
		return page[:limit], true, nil
	}
	return page, false, nil
}

func scanEntry(row scanner) (e ledger.Entry, err error) {
	var micros int64
	err = row.Scan(&e.Sequence, &e.TransferID, &e.Account, &e.Amount.Currency, &e.Amount.Minor, &e.BalanceAfter.Minor, &e.Description, &micros)
	e.BalanceAfter.Currency = e.Amount.Currency
	e.PostTime = instant(micros)
	return e, err
}

// Holds returns up to limit active holds of an account, oldest first, all of them younger than where the page before ended: after is the
// next that came with it, and 0 begins with the oldest. next is 0 on the last page.
func (s *Store) Holds(ctx context.Context, account string, after int64, limit int) (page []ledger.Hold, next int64, err error) {
	rows, err := s.statements[holdsOf].QueryContext(ctx, account, after, limit+1)
	if err != nil {
		return nil, 0, fmt.Errorf("read holds of %s: %w", account, err)
	}
	var numbers []int64
	page, err = collect(rows, func(row scanner) (ledger.Hold, error) {
		number, h, err := scanHold(row)
		numbers = append(numbers, number)
		return h, err
	})
	if err != nil {
		return nil, 0, fmt.Errorf("read holds of %s: %w", account, err)
	}
	if len(page) > limit {
		return page[:limit], numbers[limit-1], nil
	}
	return page, 0, nil
}

const (
	balancesOf = "SELECT currency_code, minor_units, held FROM balances WHERE account_id = $1 ORDER BY currency_code"
	entriesOf  = `
		SELECT e.sequence, e.transfer_id, e.account_id, e.currency_code, e.minor_units, e.balance_after, t.description, t.post_time
		FROM entries e JOIN transfers t ON t.transfer_id = e.transfer_id
		WHERE e.account_id = $1 AND e.sequence < $2
		ORDER BY e.sequence DESC LIMIT $3`
	holdsOf = "SELECT " + holdColumns + ` FROM holds
		WHERE account_id = $1 AND state = 'active' AND number > $2
		ORDER BY number LIMIT $3`
)

const holdColumns = "number, hold_id, account_id, currency_code, minor_units, state, transfer_id, create_time, end_time"

func scanHold(row scanner) (number int64, h ledger.Hold, err error) {
	var (
		state    string
		transfer sql.NullString
		created  int64
		ended    sql.NullInt64
	)
	if err := row.Scan(&number, &h.ID, &h.Account, &h.Amount.Currency, &h.Amount.Minor, &state, &transfer, &created, &ended); err != nil {
		return 0, h, err
	}
	if h.State, err = ledger.ParseHoldState(state); err != nil {
		return 0, h, err
	}
	h.TransferID, h.CreateTime = transfer.String, instant(created)
	if ended.Valid {
		h.EndTime = instant(ended.Int64)
	}
	return number, h, nil
}
