package database

import (
	"context"
	"database/sql"
	"errors"
	"fmt"
	"io/fs"
	"net/url"
	"os"
	"path/filepath"
	"strings"
	"syscall"
	"time"

	"github.com/pressly/goose/v3"
	"modernc.org/sqlite"
	sqlite3 "modernc.org/sqlite/lib"
)

const (
	// busyTimeout bounds the wait for a lock that another process holds on the file.
	busyTimeout = 5 * time.Second
	// cacheKiB bounds memory: each connection has a page cache of its own. What it does not hold, the kernel's holds.
	cacheKiB = 1024
)

// ErrDamaged is returned by Open for a file that is not a SQLite database, or is a damaged one. Damage deep inside of a file is
// found when it is read, not by Open, which would have to read all of it.
var ErrDamaged = errors.New("the file is damaged or not a SQLite database")

func openSQLite(ctx context.Context, path string, migrations fs.FS) (*sql.DB, error) {
	path, err := sqlitePath(path)
	if err != nil {
		return nil, err
	}
	if err := ensureFile(path); err != nil {
		return nil, fmt.Errorf("open database: %w", err)
	}
	db, err := connect(path)
	if err != nil {
		return nil, fmt.Errorf("open database %s: %w", path, err)
	}
	if err := prepare(ctx, db, path, migrations); err != nil {
		_ = db.Close() // the first error is the one to tell
		return nil, fmt.Errorf("open database %s: %w", path, explain(err))
	}
	return db, nil
}

// prepare brings the file up to date. Only one process at a time does: goose looks which migrations are missing before it takes SQLite's lock
// to apply them, so that two would both apply the same ones.
func prepare(ctx context.Context, db *sql.DB, path string, migrations fs.FS) (err error) {
	unlock, err := lockFolder(ctx, filepath.Dir(path))
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, unlock()) }()
	if err := checkMode(ctx, db); err != nil {
		return err
	}
	return migrate(ctx, db, goose.DialectSQLite3, "sqlite", migrations)
}

// lockInterval is how often a lock is tried again that another process holds.
const lockInterval = 10 * time.Millisecond

// lockFolder waits for flock(2) on a folder: a lock file would be left behind, and a lock on the database file itself is in the way of SQLite's
// own where the kernel makes no difference between the two kinds. It is gone when its holder dies.
func lockFolder(ctx context.Context, folder string) (unlock func() error, err error) {
	f, err := os.Open(folder)
	if err != nil {
		return nil, err
	}
	ticker := time.NewTicker(lockInterval)
	defer ticker.Stop()
	for {
		switch err := syscall.Flock(int(f.Fd()), syscall.LOCK_EX|syscall.LOCK_NB); {
		case err == nil:
			return f.Close, nil
		case !errors.Is(err, syscall.EWOULDBLOCK) && !errors.Is(err, syscall.EINTR):
			return nil, errors.Join(fmt.Errorf("lock the folder %s: %w", folder, err), f.Close())
		}
		select {
		case <-ctx.Done():
			return nil, errors.Join(fmt.Errorf("wait for another process that migrates: %w", context.Cause(ctx)), f.Close())
		case <-ticker.C:
		}
	}
}

// sqlitePath returns the absolute path in what follows "sqlite:" in a DSN.
func sqlitePath(path string) (string, error) {
	switch {
	case path == "":
		return "", errors.New("database DSN \"sqlite:\": the path is missing; want sqlite:PATH, such as sqlite:/var/lib/ledger/ledger.db")
	case strings.HasPrefix(path, ":memory:"):
		return "", fmt.Errorf("database DSN \"sqlite:%s\": state must outlive the process; want sqlite:PATH with the path of a file", path)
	}
	abs, err := filepath.Abs(path)
	if err != nil {
		return "", fmt.Errorf("database DSN \"sqlite:%s\": %w", path, err)
	}
	return abs, nil
}

// ensureFile makes the database file if it is not there. SQLite would make it readable by everybody that the umask lets; its
// -wal and -shm files take over the mode of the database file.
func ensureFile(path string) error {
	dir := filepath.Dir(path)
	if info, err := os.Stat(dir); errors.Is(err, fs.ErrNotExist) {
		return fmt.Errorf("%s: the directory %s does not exist; create it first", path, dir)
	} else if err != nil {
		return err
	} else if !info.IsDir() {
		return fmt.Errorf("%s: %s is not a directory", path, dir)
	}
	f, err := os.OpenFile(path, os.O_RDWR|os.O_CREATE, 0o600)
	if err != nil {
		return err
	}
	defer func() { _ = f.Close() }() // nothing was written
	info, err := f.Stat()
	if err != nil {
		return err
	}
	if !info.Mode().IsRegular() {
		return fmt.Errorf("%s is not a regular file", path)
	}
	return nil
}

// connect returns a pool of connections to the file; none is opened yet.
func connect(path string) (*sql.DB, error) {
	query := url.Values{
		// A transaction that reads first and writes later fails with SQLITE_BUSY when another one wrote in between, and waiting does
		// not help it. Taking the write lock at BEGIN leaves nothing to upgrade (https://sqlite.org/lang_transaction.html).
		"_txlock": {"immediate"},
		// What the schema guards (append-only tables, constraints) stays guarded against PRAGMA writable_schema and the like.
		"_defensive": {"1"},
		// "text" in double quotes is a column or an error, never silently a string.
		"_dqs": {"0"},
		"_pragma": {
			fmt.Sprintf("busy_timeout(%d)", busyTimeout.Milliseconds()),
			"journal_mode(WAL)",
			"synchronous(FULL)",
			"foreign_keys(ON)",
			fmt.Sprintf("cache_size(-%d)", cacheKiB), // below zero it is in KiB instead of in pages
		},
	}
	// As a file: URI every character of the path can be written; a plain name ends at the first '?'.
	dsn := url.URL{Scheme: "file", Path: path, RawQuery: query.Encode()}
	base, err := sqlite.NewConnector(dsn.String())
	if err != nil {
		return nil, err
	}
	db := sql.OpenDB(&connector{Connector: base, turn: make(chan struct{}, 1)})
	pool(db)
	return db, nil
}

// checkMode opens a first connection and makes sure of WAL: where the file system cannot do it, such as over a network, SQLite
// goes on in another mode without an error.
func checkMode(ctx context.Context, db *sql.DB) error {
	var mode string
	if err := db.QueryRowContext(ctx, "PRAGMA journal_mode").Scan(&mode); err != nil {
		return err
	}
	if mode != "wal" {
		return fmt.Errorf("the file system does not support SQLite's write-ahead log (journal mode is %q); use a local disk", mode)
	}
	return nil
}

// explain adds what SQLite's result codes mean to the person who started the program.
func explain(err error) error {
	failure, ok := errors.AsType[*sqlite.Error](err)
	if !ok {
		return err
	}
	switch failure.Code() & 0xff { // the primary result code is in the low byte
	case sqlite3.SQLITE_NOTADB, sqlite3.SQLITE_CORRUPT:
		return fmt.Errorf("%w; restore it from a backup, it is not replaced by a new one: %w", ErrDamaged, err)
	case sqlite3.SQLITE_BUSY:
		return fmt.Errorf("another process has it locked: %w", err)
	default:
		return err
	}
}
