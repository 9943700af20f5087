package verify

import (
	"context"
	"database/sql"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"regexp"
	"strconv"
	"strings"

	"github.com/countersign-mesh/countersign/pkg/database"
	"github.com/countersign-mesh/countersign/services/ledger/internal/store/migrations"
)

// ErrSchema is returned for a database that holds no books, or books of another version of the ledger.
var ErrSchema = errors.New("the database's schema is not this program's")

// version compares the version of the schema with that of this program. All other checks build on it.
func (v *verifier) version(ctx context.Context) error {
	files, err := fs.Glob(migrations.FS, v.kind+"/*.sql")
	if err != nil || len(files) == 0 {
		return fmt.Errorf("this program keeps no books in a database of kind %s: %w", v.kind, err)
	}
	number, _, _ := strings.Cut(filepath.Base(files[len(files)-1]), "_")
	want, err := strconv.ParseInt(number, 10, 64)
	if err != nil {
		return err
	}
	var tables int
	count := "SELECT count(*) FROM sqlite_schema WHERE name IN ('transfers', 'entries', 'holds', 'balances', 'goose_db_version')"
	if v.kind == "postgres" {
		count = `SELECT count(to_regclass(name)) FROM unnest(ARRAY['transfers', 'entries', 'holds', 'balances', 'goose_db_version']) AS name`
	}
	if err := v.tx.QueryRowContext(ctx, count).Scan(&tables); err != nil {
		return err
	}
	if tables < 2 { // books with a table that is gone are books
		return fmt.Errorf("%w: it holds no books", ErrSchema)
	}
	err = v.tx.QueryRowContext(ctx, "SELECT max(version_id) FROM goose_db_version").Scan(&v.report.Schema)
	switch {
	case err != nil:
		return fmt.Errorf("read the schema's version: %w", err)
	case v.report.Schema != want:
		return fmt.Errorf("%w: it is at version %d, this program's is %d; take the ledger that last ran on it, or start this one on it, which brings it up to date",
			ErrSchema, v.report.Schema, want)
	}
	return nil
}

// schema compares what guards the books with what the migrations made.
func (v *verifier) schema(ctx context.Context) error {
	if v.kind == "sqlite" {
		return v.schemaSQLite(ctx)
	}
	return v.schemaPostgres(ctx)
}

// schemaSQLite compares all of the schema with that of an empty database.
func (v *verifier) schemaSQLite(ctx context.Context) error {
	want, err := v.empty(ctx)
	if err != nil {
		return fmt.Errorf("make an empty database to compare with: %w", err)
	}
	got, err := sqliteSchema(ctx, v.tx)
	if err != nil {
		return err
	}
	for name, statement := range want {
		switch made, ok := got[name]; {
		case !ok:
			v.found.add(Schema, "%s is missing", name)
		case made != statement:
			v.found.add(Schema, "%s is not as the ledger made it: %s", name, made)
		}
	}
	for name := range got {
		if _, ok := want[name]; !ok {
			v.found.add(Schema, "%s is not of the ledger", name)
		}
	}
	return nil
}

// emptySchema returns the schema of books in a SQLite file that was just made.
func emptySchema(ctx context.Context) (_ map[string]string, err error) {
	folder, err := os.MkdirTemp("", "ledger-verify-")
	if err != nil {
		return nil, err
	}
	defer func() { err = errors.Join(err, os.RemoveAll(folder)) }()
	db, err := database.Open(ctx, "sqlite:"+filepath.Join(folder, "empty.db"), migrations.FS)
	if err != nil {
		return nil, err
	}
	defer func() { err = errors.Join(err, db.Close()) }()
	return sqliteSchema(ctx, db)
}

// sqliteSchema returns the statement that made each table, index, trigger and view, by its type and name. What goose and SQLite keep for
// themselves is left out.
func sqliteSchema(ctx context.Context, db interface {
	QueryContext(ctx context.Context, query string, args ...any) (*sql.Rows, error)
},
) (_ map[string]string, err error) {
	rows, err := db.QueryContext(ctx, "SELECT type || ' ' || name, coalesce(sql, '') FROM sqlite_schema WHERE name NOT LIKE 'sqlite\\_%' ESCAPE '\\' AND tbl_name <> 'goose_db_version'")
	if err != nil {
		return nil, err
	}
	defer func() { err = errors.Join(err, rows.Close()) }()
	schema := make(map[string]string)
	for rows.Next() {
		var name, statement string
		if err := rows.Scan(&name, &statement); err != nil {
			return nil, err
		}
		schema[name] = statement
	}
	return schema, rows.Err()
}

var (
	createsTrigger    = regexp.MustCompile(`(?m)^CREATE TRIGGER (\w+) [A-Z ]+ ON (\w+)`)
	createsConstraint = regexp.MustCompile(`(?m)^\s+CONSTRAINT (\w+) CHECK`)
	createsFunction   = regexp.MustCompile(`(?ms)^CREATE FUNCTION (\w+)\(.*?AS \$\$(.*?)\$\$;`)
)

// schemaPostgres looks for the triggers, their functions and the named constraints that the migrations make. A server writes statements in its
// own words, so that those of tables cannot be compared.
func (v *verifier) schemaPostgres(ctx context.Context) error {
	files, err := fs.Glob(migrations.FS, "postgres/*.sql")
	if err != nil {
		return err
	}
	for _, file := range files {
		text, err := fs.ReadFile(migrations.FS, file)
		if err != nil {
			return err
		}
		if err := v.made(ctx, string(text)); err != nil {
			return err
		}
	}
	return nil
}

// made looks for what one migration makes.
func (v *verifier) made(ctx context.Context, migration string) error {
	for _, m := range createsTrigger.FindAllStringSubmatch(migration, -1) {
		if err := v.there(ctx, "trigger "+m[1]+" on "+m[2], `SELECT EXISTS (SELECT 1 FROM pg_trigger
			WHERE tgname = $1 AND tgrelid = to_regclass($2) AND tgenabled IN ('O', 'A'))`, m[1], m[2]); err != nil {
			return err
		}
	}
	for _, m := range createsConstraint.FindAllStringSubmatch(migration, -1) {
		if err := v.there(ctx, "constraint "+m[1], "SELECT EXISTS (SELECT 1 FROM pg_constraint WHERE conname = $1 AND convalidated)", m[1]); err != nil {
			return err
		}
	}
	for _, m := range createsFunction.FindAllStringSubmatch(migration, -1) {
		if err := v.there(ctx, "function "+m[1], "SELECT EXISTS (SELECT 1 FROM pg_proc WHERE proname = $1 AND prosrc = $2)", m[1], m[2]); err != nil {
			return err
		}
	}
	return nil
}

func (v *verifier) there(ctx context.Context, what, query string, args ...any) error {
	var there bool
	if err := v.tx.QueryRowContext(ctx, query, args...).Scan(&there); err != nil {
		return fmt.Errorf("look for %s: %w", what, err)
	}
	if !there {
		v.found.add(Schema, "%s is missing, off or not as the ledger made it", what)
	}
	return nil
}
