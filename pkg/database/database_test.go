package database_test

import (
	"bytes"
	"context"
	"database/sql"
	"errors"
	"io"
	"io/fs"
	"log" //nolint:depguard // to see that nothing goes there
	"os"
	"path/filepath"
	"strings"
	"testing"
	"testing/fstest"

	"github.com/google/go-cmp/cmp"

	"github.com/countersign-mesh/countersign/pkg/database"
)

const (
	first  = "-- +goose Up\nCREATE TABLE notes (id INTEGER PRIMARY KEY, text TEXT NOT NULL) STRICT;\n"
	second = "-- +goose Up\nCREATE TABLE replies (note INTEGER NOT NULL REFERENCES notes (id)) STRICT;\n"
	broken = "-- +goose Up\nCREATE TABLE half (id INTEGER) STRICT;\nCREATE TABEL whole (id INTEGER);\n"
)

func schema(files ...string) fs.FS {
	names := []string{"sqlite/00001_notes.sql", "sqlite/00002_replies.sql", "sqlite/00003_more.sql"}
	m := fstest.MapFS{}
	for i, text := range files {
		m[names[i]] = &fstest.MapFile{Data: []byte(text)}
	}
	return m
}

func open(t *testing.T, path string, migrations fs.FS) *sql.DB {
	t.Helper()
	db, err := database.Open(t.Context(), "sqlite:"+path, migrations)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := db.Close(); err != nil {
			t.Error(err)
		}
	})
	return db
}

func exec(t *testing.T, db *sql.DB, query string, args ...any) {
	t.Helper()
	if _, err := db.ExecContext(t.Context(), query, args...); err != nil {
		t.Fatal(err)
	}
}

func text[T any](t *testing.T, db *sql.DB, query string) T {
	t.Helper()
	var v T
	if err := db.QueryRowContext(t.Context(), query).Scan(&v); err != nil {
		t.Fatalf("%s: %v", query, err)
	}
	return v
}

func TestOpenSetsEachConnectionUp(t *testing.T) {
	t.Parallel()
	db := open(t, filepath.Join(t.TempDir(), "a.db"), schema(first))
	want := map[string]string{"journal_mode": "wal", "synchronous": "2", "foreign_keys": "1", "busy_timeout": "5000", "cache_size": "-1024"}
	// Several connections at once: a PRAGMA that were run on the pool instead of on each connection would reach one of them.
	for range 3 {
		conn, err := db.Conn(t.Context())
		if err != nil {
			t.Fatal(err)
		}
		t.Cleanup(func() { _ = conn.Close() })
		for name, value := range want {
			var got string
			if err := conn.QueryRowContext(t.Context(), "PRAGMA "+name).Scan(&got); err != nil || got != value {
				t.Errorf("PRAGMA %s = %q, %v; want %q", name, got, err, value)
			}
		}
	}
}

func TestOpenMakesFilesForTheOwnerOnly(t *testing.T) {
	t.Parallel()
	path := filepath.Join(t.TempDir(), "a.db")
	db := open(t, path, schema(first))
	exec(t, db, "INSERT INTO notes (text) VALUES ('x')")
	for _, suffix := range []string{"", "-wal", "-shm"} {
		info, err := os.Stat(path + suffix)
		if err != nil {
			t.Fatal(err)
		}
		if info.Mode().Perm() != 0o600 {
			t.Errorf("%s has mode %v, want 0600", suffix, info.Mode().Perm())
		}
	}
}

func TestOpenTakesAnyPath(t *testing.T) {
	t.Parallel()
	for _, name := range []string{"with space.db", "what?.db", "100%41.db", "a#b.db", "Bücher.db", "a&_txlock=deferred.db"} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			path := filepath.Join(t.TempDir(), name)
			exec(t, open(t, path, schema(first)), "INSERT INTO notes (text) VALUES ('x')")
			if info, err := os.Stat(path); err != nil || info.Size() == 0 {
				t.Errorf("the database is not in the file that was named: %v", err)
			}
		})
	}
}

func TestReopenKeepsDataAndAddsWhatIsNew(t *testing.T) {
	t.Parallel()
	path := filepath.Join(t.TempDir(), "a.db")
	db, err := database.Open(t.Context(), "sqlite:"+path, schema(first))
	if err != nil {
		t.Fatal(err)
	}
	exec(t, db, "INSERT INTO notes (id, text) VALUES (7, 'kept')")
	if err := db.Close(); err != nil {
		t.Fatal(err)
	}
	db = open(t, path, schema(first, second))
	if got := text[string](t, db, "SELECT text FROM notes WHERE id = 7"); got != "kept" {
		t.Errorf("after reopening the note reads %q", got)
	}
	exec(t, db, "INSERT INTO replies (note) VALUES (7)")
	if _, err := db.ExecContext(t.Context(), "INSERT INTO replies (note) VALUES (8)"); err == nil {
		t.Error("a reply to a note that is not there was taken: foreign keys are off")
	}
}

func TestOpenRefusesNewerSchema(t *testing.T) {
	t.Parallel()
	path := filepath.Join(t.TempDir(), "a.db")
	db, err := database.Open(t.Context(), "sqlite:"+path, schema(first, second))
	if err != nil {
		t.Fatal(err)
	}
	if err := db.Close(); err != nil {
		t.Fatal(err)
	}
	_, err = database.Open(t.Context(), "sqlite:"+path, schema(first))
	if !errors.Is(err, database.ErrNewerSchema) {
		t.Fatalf("Open = %v, want ErrNewerSchema", err)
	}
	wantText(t, err, path, "version 2", "up to 1")
}

func TestAMigrationThatFailsLeavesNothing(t *testing.T) {
	t.Parallel()
	path := filepath.Join(t.TempDir(), "a.db")
	_, err := database.Open(t.Context(), "sqlite:"+path, schema(first, broken))
	wantText(t, err, path, "apply migration 00002_replies.sql", "TABEL")
	db := open(t, path, schema(first))
	if n := text[int](t, db, "SELECT count(*) FROM sqlite_master WHERE name = 'half'"); n != 0 {
		t.Error("the first half of the failed migration is in the schema")
	}
}

func TestOpenRefusesDamage(t *testing.T) {
	t.Parallel()
	whole := filled(t)
	tests := map[string][]byte{
		"a file of something else":        bytes.Repeat([]byte("no database "), 1000),
		"a header that was overwritten":   append(make([]byte, 64), whole[64:]...),
		"a file that was cut in the half": whole[:len(whole)/2],
		"a first page that was zeroed":    append(append(bytes.Clone(whole[:100]), make([]byte, 3996)...), whole[4096:]...),
	}
	for name, content := range tests {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			path := filepath.Join(t.TempDir(), "a.db")
			if err := os.WriteFile(path, content, 0o600); err != nil {
				t.Fatal(err)
			}
			db, err := database.Open(t.Context(), "sqlite:"+path, schema(first))
			if !errors.Is(err, database.ErrDamaged) {
				t.Errorf("Open = %v, %v; want ErrDamaged", db, err)
			}
			wantText(t, err, path)
			if got, err := os.ReadFile(path); err != nil || !bytes.Equal(got, content) {
				t.Errorf("Open changed the damaged file (%v)", err)
			}
		})
	}
}

// filled returns the content of a database with some pages.
func filled(t *testing.T) []byte {
	t.Helper()
	path := filepath.Join(t.TempDir(), "whole.db")
	db, err := database.Open(t.Context(), "sqlite:"+path, schema(first))
	if err != nil {
		t.Fatal(err)
	}
	for range 50 {
		exec(t, db, "INSERT INTO notes (text) VALUES (?)", strings.Repeat("x", 1000))
	}
	if err := db.Close(); err != nil {
		t.Fatal(err)
	}
	content, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	return content
}

func TestOpenSaysWhatIsWrongWithADSN(t *testing.T) {
	t.Parallel()
	dir := t.TempDir()
	file := filepath.Join(dir, "file")
	if err := os.WriteFile(file, nil, 0o600); err != nil {
		t.Fatal(err)
	}
	tests := map[string]struct {
		dsn  string
		want []string
	}{
		"another kind of database":   {"mysql://bank:hunter2@db/ledger", []string{`kind "mysql"`, "want sqlite:PATH"}},
		"a bare path":                {"ledger.db", []string{"without a kind", "want sqlite:PATH"}},
		"what looks like a password": {"host=db password=hunter2", []string{"want sqlite:PATH"}},
		"nothing":                    {"", []string{"want sqlite:PATH"}},
		"no path":                    {"sqlite:", []string{"path is missing", "sqlite:PATH"}},
		"memory":                     {"sqlite::memory:", []string{"outlive the process"}},
		"a missing directory":        {"sqlite:" + dir + "/none/a.db", []string{dir + "/none does not exist", "create it"}},
		"a file as the directory":    {"sqlite:" + file + "/a.db", []string{file}},
		"a directory as the file":    {"sqlite:" + dir, []string{dir, "is a directory"}},
		"not a regular file at all":  {"sqlite:/dev/null", []string{"/dev/null is not a regular file"}},
	}
	for name, tt := range tests {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			_, err := database.Open(t.Context(), tt.dsn, schema(first))
			wantText(t, err, tt.want...)
			if err != nil && strings.Contains(err.Error(), "hunter2") {
				t.Errorf("the error tells the password: %v", err)
			}
		})
	}
}

func TestOpenRefusesToRunWithoutMigrations(t *testing.T) {
	t.Parallel()
	_, err := database.Open(t.Context(), "sqlite:"+filepath.Join(t.TempDir(), "a.db"), schema())
	wantText(t, err, "does not keep its state in a database of kind sqlite")
}

func TestOpenEndsWithItsContext(t *testing.T) {
	t.Parallel()
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	if _, err := database.Open(ctx, "sqlite:"+filepath.Join(t.TempDir(), "a.db"), schema(first)); !errors.Is(err, context.Canceled) {
		t.Errorf("Open = %v, want context.Canceled", err)
	}
}

// TestOpenIsSilent is not parallel: it looks at the process's own output and log, which belong to the program and not to goose.
func TestOpenIsSilent(t *testing.T) {
	r, w, err := os.Pipe()
	if err != nil {
		t.Fatal(err)
	}
	stdout, stderr := os.Stdout, os.Stderr
	os.Stdout, os.Stderr = w, w
	log.SetOutput(w)
	db, openErr := database.Open(t.Context(), "sqlite:"+filepath.Join(t.TempDir(), "a.db"), schema(first, second))
	os.Stdout, os.Stderr = stdout, stderr
	log.SetOutput(stderr)
	if openErr != nil {
		t.Fatal(openErr)
	}
	_ = db.Close()
	_ = w.Close()
	out, err := io.ReadAll(r)
	if err != nil {
		t.Fatal(err)
	}
	if diff := cmp.Diff("", string(out)); diff != "" {
		t.Errorf("Open wrote (-want +got):\n%s", diff)
	}
}

func wantText(t *testing.T, err error, parts ...string) {
	t.Helper()
	if err == nil {
		t.Fatal("no error")
	}
	for _, part := range parts {
		if !strings.Contains(err.Error(), part) {
			t.Errorf("error %q does not say %q", err, part)
		}
	}
}
