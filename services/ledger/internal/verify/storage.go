package verify

import (
	"context"
	"fmt"
)

// storage has the database check itself.
func (v *verifier) storage(ctx context.Context) error {
	if v.kind == "sqlite" {
		return v.storageSQLite(ctx)
	}
	return v.storagePostgres(ctx)
}

func (v *verifier) storageSQLite(ctx context.Context) error {
	v.report.Storage = append(v.report.Storage, "integrity_check", "foreign_key_check")
	err := v.each(ctx, fmt.Sprintf("PRAGMA integrity_check(%d)", v.found.places+1), func(scan func(...any) error) error {
		var finding string
		if err := scan(&finding); err != nil {
			return err
		}
		if finding != "ok" {
			v.found.add(Storage, "%s", finding)
		}
		return nil
	})
	if err != nil {
		return err
	}
	return v.each(ctx, "PRAGMA foreign_key_check", func(scan func(...any) error) error {
		var (
			table, parent string
			row, key      *int64
		)
		if err := scan(&table, &row, &parent, &key); err != nil {
			return err
		}
		where := ""
		if row != nil {
			where = fmt.Sprintf(" row %d", *row)
		}
		v.found.add(Storage, "table %s%s names a row of %s that is not there", table, where, parent)
		return nil
	})
}

// storagePostgres checks that the indexes and the tables agree, where the extension that does is installed and may be used. Each failure ends
// the check of an index, and the transaction is brought back to where it was.
func (v *verifier) storagePostgres(ctx context.Context) error {
	const notDone = "none (the extension amcheck is not installed here, or not for this user)"
	var usable bool
	err := v.tx.QueryRowContext(ctx, `SELECT coalesce(bool_or(has_function_privilege(p.oid, 'EXECUTE')), false)
		FROM pg_proc AS p JOIN pg_extension AS e ON e.extname = 'amcheck' AND p.pronamespace = e.extnamespace
		WHERE p.proname = 'bt_index_check' AND p.pronargs = 2 AND pg_function_is_visible(p.oid)`).Scan(&usable)
	if err != nil {
		return err
	}
	if !usable {
		v.report.Storage = append(v.report.Storage, notDone)
		return nil
	}
	v.report.Storage = append(v.report.Storage, "amcheck of the indexes")
	var indexes []string
	err = v.each(ctx, `SELECT i.indexrelid::regclass::text FROM pg_index AS i JOIN pg_class AS c ON c.oid = i.indexrelid
		WHERE i.indrelid IN (to_regclass('transfers'), to_regclass('entries'), to_regclass('holds'), to_regclass('balances'))
		AND c.relam = (SELECT oid FROM pg_am WHERE amname = 'btree') ORDER BY 1`, func(scan func(...any) error) error {
		var name string
		if err := scan(&name); err != nil {
			return err
		}
		indexes = append(indexes, name)
		return nil
	})
	if err != nil {
		return err
	}
	for _, index := range indexes {
		if _, err := v.tx.ExecContext(ctx, "SELECT bt_index_check($1::regclass, true)", index); err != nil {
			return fmt.Errorf("index %s: %w", index, err)
		}
	}
	return nil
}

// numbering looks for numbers that were given and are not there. SQLite gives each the next one and keeps the last that it gave, and takes both
// back together with a transaction (https://sqlite.org/autoinc.html). PostgreSQL takes no number back, so that some are always missing.
func (v *verifier) numbering(ctx context.Context) error {
	if v.kind != "sqlite" {
		return nil
	}
	for _, table := range []struct{ name, column string }{{"entries", "sequence"}, {"holds", "number"}} {
		var count, given int64
		err := v.tx.QueryRowContext(ctx, fmt.Sprintf(`SELECT (SELECT count(*) FROM %[1]s),
			max(coalesce((SELECT max(%[2]s) FROM %[1]s), 0), coalesce((SELECT seq FROM sqlite_sequence WHERE name = '%[1]s'), 0))`,
			table.name, table.column)).Scan(&count, &given)
		if err != nil {
			return err
		}
		if count == given {
			continue
		}
		var first int64
		err = v.tx.QueryRowContext(ctx, fmt.Sprintf(`SELECT coalesce(min(n), 1) FROM (SELECT %[2]s + 1 AS n FROM %[1]s AS a
			WHERE NOT EXISTS (SELECT 1 FROM %[1]s AS b WHERE b.%[2]s = a.%[2]s + 1))
			WHERE EXISTS (SELECT 1 FROM %[1]s WHERE %[2]s = 1)`, table.name, table.column)).Scan(&first)
		if err != nil {
			return err
		}
		v.found.add(Numbering, "%s: %d were numbered, %d are there; the first that is not there is number %d", table.name, given, count, first)
	}
	return nil
}
