package store

import (
	"bytes"
	"context"
	"database/sql"
	"errors"
	"fmt"

	"github.com/countersign-mesh/countersign/pkg/database"
	"github.com/countersign-mesh/countersign/services/accounts/internal/register"
)

// Open implements register.Store.
func (s *Store) Open(ctx context.Context, account register.Account, opening register.Opening) (opened register.Account, err error) {
	err = database.InTx(ctx, s.db, func(tx *sql.Tx) error {
		opened, err = open(ctx, tx, account, opening)
		return err
	})
	if err != nil {
		return register.Account{}, fmt.Errorf("store account: %w", err)
	}
	return opened, nil
}

// open is one transaction. It looks for the request before it writes: of transactions that first look for a key PostgreSQL rolls one back for
// the sake of the other (40001), to be run again, instead of failing it because the key is there (23505; chapter 13.2.3 of its manual).
func open(ctx context.Context, tx *sql.Tx, account register.Account, opening register.Opening) (register.Account, error) {
	var accountID string
	var digest []byte
	err := tx.QueryRowContext(ctx, `SELECT account_id, request_digest FROM accounts WHERE request_id = $1`, opening.RequestID).
		Scan(&accountID, &digest)
	switch {
	case err == nil && !bytes.Equal(digest, opening.Digest()):
		return register.Account{}, register.ErrRequestReused
	case err == nil:
		return get(ctx, tx, accountID)
	case !errors.Is(err, sql.ErrNoRows):
		return register.Account{}, fmt.Errorf("look for the request: %w", err)
	}
	// The customer's row is locked until the transaction ends: see the schema.
	var position int64
	err = tx.QueryRowContext(ctx, `
		INSERT INTO customers (customer_id, last_position) VALUES ($1, 1)
		ON CONFLICT (customer_id) DO UPDATE SET last_position = customers.last_position + 1
		RETURNING last_position`, account.CustomerID).Scan(&position)
	if err != nil {
		return register.Account{}, fmt.Errorf("number the account: %w", err)
	}
	_, err = tx.ExecContext(ctx, `
		INSERT INTO accounts (account_id, customer_id, position, display_name, currency_code, request_id, request_digest, open_time)
		VALUES ($1, $2, $3, $4, $5, $6, $7, $8)`,
		account.ID, account.CustomerID, position, account.DisplayName, account.CurrencyCode,
		opening.RequestID, opening.Digest(), account.OpenTime.UnixMicro())
	if err != nil {
		return register.Account{}, err
	}
	return get(ctx, tx, account.ID)
}
