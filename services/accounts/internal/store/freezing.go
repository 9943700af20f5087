package store

import (
	"context"
	"database/sql"
	"fmt"

	"github.com/countersign-mesh/countersign/pkg/database"
	"github.com/countersign-mesh/countersign/services/accounts/internal/register"
)

// Freeze implements register.Freezes.
func (s *Store) Freeze(ctx context.Context, accountID string, by register.Intervention) (account register.Account, err error) {
	at := by.Time.UnixMicro()
	account, err = s.intervene(ctx, accountID, "freeze", by, `
		UPDATE accounts SET freeze_time = $1, closing = NULL, closing_until = NULL
		WHERE account_id = $2 AND freeze_time IS NULL AND close_time IS NULL AND (closing IS NULL OR closing_until <= $1)`, at, accountID)
	switch {
	case err != nil:
		return register.Account{}, fmt.Errorf("freeze account: %w", err)
	case account.Closed():
		return register.Account{}, register.ErrClosed
	case !account.Frozen():
		return register.Account{}, register.ErrBusy
	default:
		return account, nil
	}
}

// Unfreeze implements register.Freezes.
func (s *Store) Unfreeze(ctx context.Context, accountID string, by register.Intervention) (register.Account, error) {
	account, err := s.intervene(ctx, accountID, "unfreeze", by,
		`UPDATE accounts SET freeze_time = NULL WHERE account_id = $1 AND freeze_time IS NOT NULL`, accountID)
	switch {
	case err != nil:
		return register.Account{}, fmt.Errorf("unfreeze account: %w", err)
	case account.Closed():
		return register.Account{}, register.ErrClosed
	default:
		return account, nil
	}
}

// intervene runs a statement that freezes or unfreezes one account or changes nothing, and remembers by whom if it did, in one transaction. It
// returns the account as it then is.
func (s *Store) intervene(
	ctx context.Context, accountID, kind string, by register.Intervention, statement string, args ...any,
) (account register.Account, err error) {
	err = database.InTx(ctx, s.db, func(tx *sql.Tx) error {
		var changed bool
		account, changed, err = change(ctx, tx, accountID, statement, args...)
		if err != nil || !changed {
			return err
		}
		// The account's row is locked, so that nobody else counts at the same time.
		_, err = tx.ExecContext(ctx, `
			INSERT INTO interventions (account_id, number, kind, actor, reason, time)
			VALUES ($1, (SELECT count(*) + 1 FROM interventions WHERE account_id = $1), $2, $3, $4, $5)`,
			accountID, kind, by.Actor, by.Reason, by.Time.UnixMicro())
		if err != nil {
			return fmt.Errorf("remember the %s: %w", kind, err)
		}
		return nil
	})
	return account, err
}
