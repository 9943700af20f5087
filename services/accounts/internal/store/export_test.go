package store

import (
	"context"
	"database/sql"

	"github.com/countersign-mesh/countersign/services/accounts/internal/register"
)

// DB returns the store's database.
func (s *Store) DB() *sql.DB { return s.db }

// OpenIn is what Open does in its transaction.
func OpenIn(ctx context.Context, tx *sql.Tx, account register.Account, opening register.Opening) (register.Account, error) {
	return open(ctx, tx, account, opening)
}
