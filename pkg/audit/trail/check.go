package trail

import (
	"context"
	"database/sql"
	"errors"
	"fmt"

	"github.com/countersign-mesh/countersign/pkg/audit/chain"
	"github.com/countersign-mesh/countersign/pkg/database"
)

// ErrNoChain is returned by Check for a database without a chain.
var ErrNoChain = errors.New("the database has no audit trail with a chain")

// Check hands every record in a database to v, in order and of one moment, and what SQLite knows of where they end. The error is one of
// reading; what is wrong with the trail is v's to tell.
func Check(ctx context.Context, db *sql.DB, v *chain.Verifier) error {
	return database.InSnapshot(ctx, db, func(tx *sql.Tx) error {
		chained, err := has(ctx, tx, "hash")
		if err != nil {
			return err
		}
		if !chained {
			return fmt.Errorf("%w: it is another one's, or an audit service from before there was a chain wrote it; the next start of the service begins one", ErrNoChain)
		}
		if err := walk(ctx, tx, v); err != nil {
			return err
		}
		given, err := Given(ctx, tx)
		if err != nil {
			return err
		}
		v.Given(given)
		return nil
	})
}

// has reports whether the table has a column.
func has(ctx context.Context, tx *sql.Tx, column string) (bool, error) {
	var there bool
	if err := tx.QueryRowContext(ctx, "SELECT EXISTS (SELECT 1 FROM pragma_table_info('records') WHERE name = ?)", column).Scan(&there); err != nil {
		return false, fmt.Errorf("look for the column %s: %w", column, err)
	}
	return there, nil
}

func walk(ctx context.Context, tx *sql.Tx, v *chain.Verifier) error {
	query := Select
	switch users, err := has(ctx, tx, "subject"); {
	case err != nil:
		return err
	case !users: // a file that was put aside is verified as it is
		query = selectOlder
	}
	rows, err := tx.QueryContext(ctx, query+" ORDER BY position")
	if err != nil {
		return fmt.Errorf("read records: %w", err)
	}
	defer func() { _ = rows.Close() }() // rows.Err says what there is to say
	for rows.Next() {
		r, fault, err := Scan(rows)
		if err != nil {
			return err
		}
		v.AddFaulty(r, fault)
	}
	if err := rows.Err(); err != nil {
		return fmt.Errorf("read records: %w", err)
	}
	return nil
}

// Given returns the last position that was ever given to a record, also when that is not there any more: SQLite keeps it for a column with
// AUTOINCREMENT (https://sqlite.org/autoinc.html).
func Given(ctx context.Context, tx *sql.Tx) (int64, error) {
	var given int64
	err := tx.QueryRowContext(ctx, "SELECT CAST(coalesce(max(seq), 0) AS INTEGER) FROM sqlite_sequence WHERE name = 'records'").Scan(&given)
	if err != nil {
		return 0, fmt.Errorf("find the last position that was given: %w", err)
	}
	return given, nil
}
