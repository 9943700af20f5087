package store

import (
	"context"
	"database/sql"
	"encoding/hex"
	"encoding/json"
	"fmt"
	"time"

	"github.com/countersign-mesh/countersign/services/ledger/internal/ledger"
)

// Rows go to the database as one parameter, a JSON array with an array for each, so that a statement is the same one for any number of
// them and its plan is made once. PostgreSQL has what SQLite has built in for that from the migrations.
const (
	readTransfers = `
		SELECT transfer_id, digest, post_time FROM transfers WHERE transfer_id IN (SELECT value ->> 0 FROM json_each($1))`
	readHolds = `
		SELECT ` + holdColumns + ` FROM holds WHERE hold_id IN (SELECT value ->> 0 FROM json_each($1))`
	readBalances = `
		SELECT account_id, currency_code, minor_units, held FROM balances WHERE account_id IN (SELECT value ->> 0 FROM json_each($1))`
	addTransfers = `
		INSERT INTO transfers (transfer_id, digest, description, post_time)
		SELECT value ->> 0, unhex(value ->> 1), value ->> 2, CAST(value ->> 3 AS BIGINT) FROM json_each($1)`
	addEntries = `
		INSERT INTO entries (transfer_id, account_id, currency_code, minor_units, balance_after)
		SELECT value ->> 0, value ->> 1, value ->> 2, CAST(value ->> 3 AS BIGINT), CAST(value ->> 4 AS BIGINT)
		FROM json_each($1) ORDER BY key`
	addHolds = `
		INSERT INTO holds (hold_id, account_id, currency_code, minor_units, create_time, state, transfer_id, end_time)
		SELECT value ->> 0, value ->> 1, value ->> 2, CAST(value ->> 3 AS BIGINT), CAST(value ->> 4 AS BIGINT), value ->> 5, value ->> 6,
			CAST(value ->> 7 AS BIGINT)
		FROM json_each($1) ORDER BY key`
	endHolds = `
		UPDATE holds SET state = new.value ->> 1, transfer_id = new.value ->> 2, end_time = CAST(new.value ->> 3 AS BIGINT)
		FROM json_each($1) AS new WHERE hold_id = new.value ->> 0`
	writeBalances = `
		INSERT INTO balances (account_id, currency_code, minor_units, held)
		SELECT value ->> 0, value ->> 1, CAST(value ->> 2 AS BIGINT), CAST(value ->> 3 AS BIGINT) FROM json_each($1) WHERE true
		ON CONFLICT (account_id, currency_code) DO UPDATE SET minor_units = excluded.minor_units, held = excluded.held`
)

// table is rows for a statement.
type table [][]any

// load reads what of the books a batch concerns.
func load(ctx context.Context, tx *sql.Tx, batch []*request) (*ledger.Draft, error) {
	d := ledger.NewDraft()
	var transfers, holds, accounts keys
	for _, r := range batch {
		transfers.add(r.transfer)
		holds.add(r.hold)
		for _, a := range r.accounts {
			accounts.add(a)
		}
	}
	err := read(ctx, tx, readTransfers, transfers.rows, func(row scanner) error {
		var (
			id     string
			digest []byte
			micros int64
		)
		if err := row.Scan(&id, &digest, &micros); err != nil {
			return err
		}
		p := ledger.Posted{Time: instant(micros)}
		if copy(p.Digest[:], digest) != len(p.Digest) {
			return fmt.Errorf("%w: the digest of transfer %s is too short", ledger.ErrDamaged, id)
		}
		d.KnowTransfer(id, p)
		return nil
	})
	if err != nil {
		return nil, fmt.Errorf("look for transfers: %w", err)
	}
	err = read(ctx, tx, readHolds, holds.rows, func(row scanner) error {
		_, h, err := scanHold(row)
		if err == nil {
			d.KnowHold(h)
			accounts.add(h.Account)
		}
		return err
	})
	if err != nil {
		return nil, fmt.Errorf("look for holds: %w", err)
	}
	err = read(ctx, tx, readBalances, accounts.rows, func(row scanner) error {
		var (
			account string
			b       ledger.Balance
		)
		if err := row.Scan(&account, &b.Currency, &b.Minor, &b.Held); err != nil {
			return err
		}
		d.KnowBalance(account, b)
		return nil
	})
	if err != nil {
		return nil, fmt.Errorf("read balances: %w", err)
	}
	return d, nil
}

// keys is a set of keys, as rows.
type keys struct {
	seen map[string]bool
	rows table
}

// add adds a key. The empty one is none.
func (k *keys) add(key string) {
	if key == "" || k.seen[key] {
		return
	}
	if k.seen == nil {
		k.seen = make(map[string]bool)
	}
	k.seen[key] = true
	k.rows = append(k.rows, []any{key})
}

// save writes what the draft adds to the books.
func save(ctx context.Context, tx *sql.Tx, c ledger.Changes) error {
	var transfers, entries, made, ended, balances table
	for _, t := range c.Transfers {
		transfers = append(transfers, []any{t.ID, hex.EncodeToString(t.Posted.Digest[:]), t.Description, t.Time.UnixMicro()})
	}
	for _, e := range c.Entries {
		entries = append(entries, []any{e.TransferID, e.Account, e.Amount.Currency, e.Amount.Minor, e.BalanceAfter.Minor})
	}
	for _, h := range c.Made {
		made = append(made, append([]any{h.ID, h.Account, h.Amount.Currency, h.Amount.Minor, h.CreateTime.UnixMicro()}, holdEnd(h)...))
	}
	for _, h := range c.Ended {
		ended = append(ended, append([]any{h.ID}, holdEnd(h)...))
	}
	for _, b := range c.Balances {
		balances = append(balances, []any{b.Account, b.Currency, b.Minor, b.Held})
	}
	for _, step := range []struct {
		what, statement string
		rows            table
	}{
		{"add transfers", addTransfers, transfers},
		{"add entries", addEntries, entries},
		{"add holds", addHolds, made},
		{"end holds", endHolds, ended},
		{"write balances", writeBalances, balances},
	} {
		if err := exec(ctx, tx, step.statement, step.rows); err != nil {
			return fmt.Errorf("%s: %w", step.what, err)
		}
	}
	return nil
}

// holdEnd returns what changes of a hold: state, transfer_id, end_time.
func holdEnd(h ledger.Hold) []any {
	var transfer, end any
	if h.State == ledger.HoldCaptured {
		transfer = h.TransferID
	}
	if h.State != ledger.HoldActive {
		end = h.EndTime.UnixMicro()
	}
	return []any{h.State.String(), transfer, end}
}

func read(ctx context.Context, tx *sql.Tx, query string, keys table, row func(scanner) error) error {
	if len(keys) == 0 {
		return nil
	}
	param, err := json.Marshal(keys)
	if err != nil {
		return err
	}
	rows, err := tx.QueryContext(ctx, query, string(param))
	if err != nil {
		return err
	}
	_, err = collect(rows, func(r scanner) (struct{}, error) { return struct{}{}, row(r) })
	return err
}

func exec(ctx context.Context, tx *sql.Tx, statement string, rows table) error {
	if len(rows) == 0 {
		return nil
	}
	param, err := json.Marshal(rows)
	if err != nil {
		return err
	}
	result, err := tx.ExecContext(ctx, statement, string(param))
	if err != nil {
		return err
	}
	n, err := result.RowsAffected()
	if err == nil && n != int64(len(rows)) { // an update found no row
		err = fmt.Errorf("%w: %d of %d rows were written", ledger.ErrDamaged, n, len(rows))
	}
	return err
}

func instant(micros int64) time.Time { return time.UnixMicro(micros).UTC() }
