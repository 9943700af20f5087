package store

import (
	"context"
	"database/sql"
	"fmt"
	"time"

	"github.com/countersign-mesh/countersign/pkg/database"
	"github.com/countersign-mesh/countersign/services/accounts/internal/register"
)

// BeginClosing implements register.Closings.
func (s *Store) BeginClosing(ctx context.Context, accountID string, attempt register.Attempt) (register.Account, error) {
	account, err := s.change(ctx, accountID, `
		UPDATE accounts SET
			closing = coalesce(closing, $1),
			closing_until = CASE WHEN closing_until > $2 THEN closing_until ELSE $2 END
		WHERE account_id = $3 AND freeze_time IS NULL AND close_time IS NULL`, attempt.Name, attempt.Until.UnixMicro(), accountID)
	if err != nil {
		return register.Account{}, fmt.Errorf("begin to close account: %w", err)
	}
	return account, nil
}

// AbandonClosing implements register.Closings.
func (s *Store) AbandonClosing(ctx context.Context, accountID, name string) (register.Account, error) {
	account, err := s.change(ctx, accountID,
		`UPDATE accounts SET closing = NULL, closing_until = NULL WHERE account_id = $1 AND closing = $2`, accountID, name)
	if err != nil {
		return register.Account{}, fmt.Errorf("give account free again: %w", err)
	}
	return account, nil
}

// FinishClosing implements register.Closings.
func (s *Store) FinishClosing(ctx context.Context, accountID, name string, at time.Time) (register.Account, error) {
	account, err := s.change(ctx, accountID,
		`UPDATE accounts SET closing = NULL, closing_until = NULL, close_time = $1 WHERE account_id = $2 AND closing = $3`,
		at.UnixMicro(), accountID, name)
	if err != nil {
		return register.Account{}, fmt.Errorf("close account: %w", err)
	}
	if !account.Closed() {
		return register.Account{}, register.ErrBusy
	}
	return account, nil
}

// change runs a statement that changes one account or nothing, in a transaction. It returns the account as it then is.
func (s *Store) change(ctx context.Context, accountID, statement string, args ...any) (account register.Account, err error) {
	err = database.InTx(ctx, s.db, func(tx *sql.Tx) error {
		account, _, err = change(ctx, tx, accountID, statement, args...)
		return err
	})
	return account, err
}

// change is one transaction. It returns whether the account was changed, too.
func change(ctx context.Context, tx *sql.Tx, accountID, statement string, args ...any) (account register.Account, changed bool, err error) {
	result, err := tx.ExecContext(ctx, statement, args...)
	if err != nil {
		return register.Account{}, false, err
	}
	n, err := result.RowsAffected()
	if err != nil {
		return register.Account{}, false, err
	}
	account, err = get(ctx, tx, accountID)
	return account, n == 1, err
}
