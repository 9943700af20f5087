package database

import (
	"context"
	"database/sql"
	"errors"
	"fmt"
	"io/fs"
	"net/url"
	"os"

	"modernc.org/sqlite"
	sqlite3 "modernc.org/sqlite/lib"
)

// OpenReadOnly opens the database at dsn, sqlite:PATH or postgres://…, to read it as it is, whatever its schema and whoever has it open. It
// is for looking at a database that belongs to another program, or at a copy of one. A copy of a SQLite file has to have the -wal file
// beside it if there was one: what was written last is in there. The result is safe for concurrent use.
func OpenReadOnly(ctx context.Context, dsn string) (*sql.DB, error) {
	return byKind(dsn,
		func(path string) (*sql.DB, error) { return openSQLiteReadOnly(ctx, path) },
		func() (*sql.DB, error) { return openPostgresReadOnly(ctx, dsn) })
}

func openSQLiteReadOnly(ctx context.Context, path string) (*sql.DB, error) {
	abs, err := sqlitePath(path)
	if err != nil {
		return nil, err
	}
	// SQLite says the same of a file that is not there as of many other things.
	if info, err := os.Stat(abs); err != nil {
		return nil, fmt.Errorf("open database: %w", err)
	} else if !info.Mode().IsRegular() {
		return nil, fmt.Errorf("open database: %s is not a regular file", path)
	}
	db, err := openReadOnly(ctx, abs, url.Values{"mode": {"ro"}})
	if sharesNothing(err) {
		// A database in WAL mode needs a -shm file, which cannot be made on a medium that cannot be written to. Without a -wal file there is
		// nothing to share, and nobody who writes (https://sqlite.org/wal.html#readonly).
		if _, missing := os.Stat(abs + "-wal"); errors.Is(missing, fs.ErrNotExist) {
			db, err = openReadOnly(ctx, abs, url.Values{"mode": {"ro"}, "immutable": {"1"}})
		}
	}
	if err != nil {
		return nil, fmt.Errorf("open database %s: %w", path, explain(err))
	}
	return db, nil
}

// sharesNothing reports whether err is how SQLite says that it could not make a -shm file.
func sharesNothing(err error) bool {
	failure, ok := errors.AsType[*sqlite.Error](err)
	if !ok {
		return false
	}
	code := failure.Code() & 0xff // the primary result code
	return code == sqlite3.SQLITE_CANTOPEN || code == sqlite3.SQLITE_READONLY
}

func openReadOnly(ctx context.Context, path string, query url.Values) (*sql.DB, error) {
	query.Set("_pragma", fmt.Sprintf("busy_timeout(%d)", busyTimeout.Milliseconds()))
	dsn := url.URL{Scheme: "file", Path: path, RawQuery: query.Encode()}
	db, err := sql.Open("sqlite", dsn.String())
	if err != nil {
		return nil, err
	}
	var tables int
	if err := db.QueryRowContext(ctx, "SELECT count(*) FROM sqlite_schema").Scan(&tables); err != nil {
		_ = db.Close() // the first error is the one to tell
		return nil, err
	}
	return db, nil
}
