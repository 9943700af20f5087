package store

import (
	"context"
	"database/sql"
	"fmt"
	"time"

	"github.com/countersign-mesh/countersign/pkg/database"
	"github.com/countersign-mesh/countersign/services/accounts/internal/register"
)

// Freeze implements register.Closings.
func (s *Store) Freeze(ctx context.Context, accountID, attempt string) (account register.Account, err error) {
	err = s.change(ctx, &account, accountID,
		`UPDATE accounts SET closing = ? WHERE account_id = ? AND closing IS NULL AND close_time IS NULL`, attempt, accountID)
	if err != nil {
		return register.Account{}, fmt.Errorf("freeze account: %w", err)
	}
	return account, nil
}

// Thaw implements register.Closings.
func (s *Store) Thaw(ctx context.Context, accountID, attempt string) error {
	var account register.Account
	err := s.change(ctx, &account, accountID,
		`UPDATE accounts SET closing = NULL WHERE account_id = ? AND closing = ? AND close_time IS NULL`, accountID, attempt)
	if err != nil {
		return fmt.Errorf("thaw account: %w", err)
	}
	return nil
}

// Finish implements register.Closings.
func (s *Store) Finish(ctx context.Context, accountID, attempt string, at time.Time) (account register.Account, err error) {
	err = s.change(ctx, &account, accountID,
		`UPDATE accounts SET closing = NULL, close_time = ? WHERE account_id = ? AND closing = ? AND close_time IS NULL`,
		at.UnixMicro(), accountID, attempt)
	if err != nil {
		return register.Account{}, fmt.Errorf("close account: %w", err)
	}
	if !account.Closed() {
		return register.Account{}, register.ErrBusy
	}
	return account, nil
}

// change runs one statement and reads what the account is after it, in one transaction.
func (s *Store) change(ctx context.Context, account *register.Account, accountID, statement string, args ...any) error {
	return database.InTx(ctx, s.db, func(tx *sql.Tx) error {
		if _, err := tx.ExecContext(ctx, statement, args...); err != nil {
			return err
		}
		var err error
		*account, err = one(tx.QueryRowContext(ctx, `SELECT `+columns+` FROM accounts WHERE account_id = ?`, accountID))
		return err
	})
}
