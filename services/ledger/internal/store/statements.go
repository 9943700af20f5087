package store

import (
	"context"
	"database/sql"
	"errors"
	"fmt"

	"github.com/countersign-mesh/countersign/services/ledger/internal/ledger"
)

// Rows go to the database as one parameter, a JSON array with an array for each, so that a statement is the same one for any number of
// them and its plan is made once. jsonb_each gives them with their numbers as rowid; PostgreSQL has the function from the migrations.
const (
	readTransfers = `
		SELECT transfer_id, digest, post_time FROM transfers WHERE transfer_id IN (SELECT value ->> 0 FROM jsonb_each($1))`
	readHolds = `
		SELECT ` + holdColumns + ` FROM holds WHERE hold_id IN (SELECT value ->> 0 FROM jsonb_each($1))`
	readBalances = `
		SELECT account_id, currency_code, minor_units, held FROM balances WHERE account_id IN (SELECT value ->> 0 FROM jsonb_each($1))`
	addTransfers = `
		INSERT INTO transfers (transfer_id, digest, description, post_time)
		SELECT value ->> 0, unhex(value ->> 1), value ->> 2, CAST(value ->> 3 AS BIGINT) FROM jsonb_each($1)`
	addEntries = `
		INSERT INTO entries (transfer_id, account_id, currency_code, minor_units, balance_after)
		SELECT value ->> 0, value ->> 1, value ->> 2, CAST(value ->> 3 AS BIGINT), CAST(value ->> 4 AS BIGINT)
		FROM jsonb_each($1) ORDER BY rowid`
	addHolds = `
		INSERT INTO holds (hold_id, account_id, currency_code, minor_units, create_time, state, transfer_id, end_time)
		SELECT value ->> 0, value ->> 1, value ->> 2, CAST(value ->> 3 AS BIGINT), CAST(value ->> 4 AS BIGINT), value ->> 5, value ->> 6,
			CAST(value ->> 7 AS BIGINT)
		FROM jsonb_each($1) ORDER BY rowid`
	endHolds = `
		UPDATE holds SET state = new.value ->> 1, transfer_id = new.value ->> 2, end_time = CAST(new.value ->> 3 AS BIGINT)
		FROM jsonb_each($1) AS new WHERE hold_id = new.value ->> 0`
	writeBalances = `
		INSERT INTO balances (account_id, currency_code, minor_units, held)
		SELECT value ->> 0, value ->> 1, CAST(value ->> 2 AS BIGINT), CAST(value ->> 3 AS BIGINT) FROM jsonb_each($1) WHERE true
		ON CONFLICT (account_id, currency_code) DO UPDATE SET minor_units = excluded.minor_units, held = excluded.held`
)

// statements are prepared once: compiling one costs more than running it.
type statements map[string]*sql.Stmt

func prepare(ctx context.Context, db *sql.DB) (statements, error) {
	all := make(statements)
	for _, text := range []string{
		readTransfers, readHolds, readBalances, addTransfers, addEntries, addHolds, endHolds, writeBalances, balancesOf, entriesOf, holdsOf,
	} {
		statement, err := db.PrepareContext(ctx, text) //nolint:sqlclosecheck // close closes it
		if err != nil {
			return nil, errors.Join(fmt.Errorf("prepare %s: %w", text, err), all.close())
		}
		all[text] = statement
	}
	return all, nil
}

func (s statements) close() error {
	var errs []error
	for _, statement := range s {
		errs = append(errs, statement.Close())
	}
	return errors.Join(errs...)
}

// in returns the statements within a transaction.
func (s statements) in(ctx context.Context, tx *sql.Tx) within {
	return within{ctx: ctx, tx: tx, all: s}
}

type within struct {
	ctx context.Context //nolint:containedctx // it lives as long as the function that a transaction runs
	tx  *sql.Tx
	all statements
}

// read calls row with each row that a query finds by the keys.
func (in within) read(query string, keys *table, row func(scanner) error) error {
	if keys.rows == 0 {
		return nil
	}
	rows, err := in.tx.StmtContext(in.ctx, in.all[query]).QueryContext(in.ctx, keys.param()) //nolint:sqlclosecheck // collect closes rows, the transaction its statements
	if err != nil {
		return err
	}
	_, err = collect(rows, func(r scanner) (struct{}, error) { return struct{}{}, row(r) })
	return err
}

// exec writes rows, each of which has to have an effect.
func (in within) exec(statement string, rows *table) error {
	if rows.rows == 0 {
		return nil
	}
	result, err := in.tx.StmtContext(in.ctx, in.all[statement]).ExecContext(in.ctx, rows.param()) //nolint:sqlclosecheck // the transaction closes it
	if err != nil {
		return err
	}
	n, err := result.RowsAffected()
	if err == nil && n != int64(rows.rows) { // an update found no row
		err = fmt.Errorf("%w: %d of %d rows were written", ledger.ErrDamaged, n, rows.rows)
	}
	return err
}
