// Package database opens a service's database, brings its schema up to date, and runs transactions in it: the same ones on a SQLite
// file and on a PostgreSQL server.
//
// A SQLite file is in WAL mode with synchronous=FULL, and a PostgreSQL server commits synchronously: what was committed is on the disk,
// also after the power went out. Readers never wait for a writer. Transactions are serializable on both; see InTx.
//
// SQL for both numbers its parameters: $1, $2. Where their dialects differ otherwise, in types above all, it is the migrations that do.
package database

import (
	"context"
	"database/sql"
	"errors"
	"fmt"
	"io/fs"
	"regexp"
	"strings"
	"time"
)

const (
	// maxConns bounds memory here and connections there.
	maxConns = 8
	// maxIdleTime is how long a connection that nobody needs is kept: through the gaps of a busy time, not at rest.
	maxIdleTime = 30 * time.Second
)

// ErrNewerSchema is returned by Open for a database whose schema a newer version of the program has changed.
var ErrNewerSchema = errors.New("the database's schema is newer than this program")

// Open opens the database at dsn, sqlite:PATH or postgres://…, and applies the migrations that it lacks: goose SQL files in the folders
// sqlite and postgres of migrations, each for databases of that kind. Its error says which part of the DSN is wrong, or which migration
// failed, and never shows a password. A SQLite file that is not there is made, readable by its owner only; its directory must be there. A
// PostgreSQL database must be there. Several processes may open the same database at once. The result is safe for concurrent use.
func Open(ctx context.Context, dsn string, migrations fs.FS) (*sql.DB, error) {
	return byKind(dsn,
		func(path string) (*sql.DB, error) { return openSQLite(ctx, path, migrations) },
		func() (*sql.DB, error) { return openPostgres(ctx, dsn, migrations) })
}

// byKind opens a database in the way of its kind.
func byKind(dsn string, sqlite func(path string) (*sql.DB, error), postgres func() (*sql.DB, error)) (*sql.DB, error) {
	kind, rest, ok := strings.Cut(dsn, ":")
	switch {
	case !ok:
		return nil, errors.New("database DSN without a kind: want " + wantDSN)
	case kind == "sqlite":
		return sqlite(rest)
	case kind == "postgres", kind == "postgresql":
		return postgres()
	case kindPattern.MatchString(kind):
		return nil, fmt.Errorf("database DSN of kind %.20q: want %s", kind, wantDSN)
	default:
		return nil, errors.New("database DSN of no kind: want " + wantDSN)
	}
}

// kindPattern is what the beginning of a DSN looks like when it is the kind of a database. Anything else may be a part of a password and is
// not shown, nor is the rest of a DSN ever.
var kindPattern = regexp.MustCompile(`^[a-z][a-z0-9]*$`)

const wantDSN = "sqlite:PATH, such as sqlite:/var/lib/ledger/ledger.db, or postgres://USER:PASSWORD@HOST:5432/DATABASE" //nolint:gosec // G101: the words, not a password

// pool sets the bounds of a pool of connections.
func pool(db *sql.DB) {
	db.SetMaxOpenConns(maxConns)
	db.SetMaxIdleConns(maxConns)
	db.SetConnMaxIdleTime(maxIdleTime)
}
