package store

import (
	"context"
	"fmt"
	"time"

	"github.com/countersign-mesh/countersign/services/ledger/internal/ledger"
)

// Balances returns an account's balance in each currency that it has entries in, ordered by currency.
func (s *Store) Balances(ctx context.Context, account string) ([]ledger.Money, error) {
	rows, err := s.db.QueryContext(ctx, "SELECT currency_code, minor_units FROM balances WHERE account_id = ? ORDER BY currency_code", account)
	if err != nil {
		return nil, fmt.Errorf("read balances of %s: %w", account, err)
	}
	balances, err := collect(rows, func(row scanner) (m ledger.Money, err error) {
		return m, row.Scan(&m.Currency, &m.Minor)
	})
	if err != nil {
		return nil, fmt.Errorf("read balances of %s: %w", account, err)
	}
	return balances, nil
}

// Entries returns up to limit entries of an account, newest first, all of them older than the one with the sequence before; 0
// begins with the newest. more reports whether there are still older ones.
func (s *Store) Entries(ctx context.Context, account string, before int64, limit int) (page []ledger.Entry, more bool, err error) {
	rows, err := s.db.QueryContext(ctx, `
		SELECT e.sequence, e.transfer_id, e.account_id, e.currency_code, e.minor_units, e.balance_after, t.description, t.post_time
		FROM entries e JOIN transfers t USING (transfer_id)
		WHERE e.account_id = ?1 AND (?2 = 0 OR e.sequence < ?2)
		ORDER BY e.sequence DESC LIMIT ?3`, account, before, limit+1)
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
	e.PostTime = time.UnixMicro(micros).UTC()
	return e, err
}
