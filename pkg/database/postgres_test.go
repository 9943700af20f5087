package database_test

import (
	"context"
	"database/sql"
	"errors"
	"strings"
	"sync"
	"testing"
	"testing/fstest"
	"time"

	"github.com/jackc/pgx/v5/pgconn"

	"github.com/countersign-mesh/countersign/pkg/database"
	"github.com/countersign-mesh/countersign/pkg/database/databasetest"
)

// Whatever the DSN, the user or the database says.
func TestEachCommitIsOnTheDisk(t *testing.T) {
	t.Parallel()
	dsn := databasetest.Postgres(t)
	admin := openDSN(t, dsn, schema(first))
	exec(t, admin, `ALTER DATABASE "`+text[string](t, admin, "SELECT current_database()")+`" SET synchronous_commit = off`)
	for _, dsn := range []string{dsn, dsn + "&synchronous_commit=off", dsn + "&options=-csynchronous_commit%3Doff"} {
		db := openDSN(t, dsn, schema(first))
		if got := text[string](t, db, "SHOW synchronous_commit"); got != "on" {
			t.Errorf("with %s synchronous_commit is %s", dsn, got)
		}
	}
}

func TestOpenRefusesAServerThatLosesData(t *testing.T) {
	t.Parallel()
	for _, setting := range []string{"fsync", "full_page_writes"} {
		t.Run(setting, func(t *testing.T) {
			t.Parallel()
			s := databasetest.StartServer(t, setting+"=off")
			_, err := database.Open(t.Context(), s.DSN("postgres"), schema(first))
			wantText(t, err, "the server runs with "+setting+" off", "set "+setting+" = on")
		})
	}
}

func TestNoErrorTellsThePassword(t *testing.T) {
	t.Parallel()
	// Port 1 refuses connections.
	for name, dsn := range map[string]string{
		"a server that is not there":     "postgres://bank:hunter2@127.0.0.1:1/ledger",
		"the other name of the kind":     "postgresql://bank:hunter2@127.0.0.1:1/ledger",
		"the password as a parameter":    "postgres://bank@127.0.0.1:1/ledger?password=hunter2",
		"an @ in the password":           "postgres://bank:hunter2@hunter2@127.0.0.1:1/ledger",
		"a / in the password":            "postgres://bank:7/hunter2@127.0.0.1:1/ledger",
		"a # in the password":            "postgres://bank:x#hunter2@127.0.0.1:1/ledger",
		"a ? in the password":            "postgres://bank:x?hunter2@127.0.0.1:1/ledger",
		"a % in the password":            "postgres://bank:x%hunter2@127.0.0.1:1/ledger",
		"a space in the password":        "postgres://bank:x hunter2@127.0.0.1:1/ledger",
		"a line break":                   "postgres://bank:hunter2\n@127.0.0.1:1/ledger",
		"a port that is none":            "postgres://bank:hunter2@127.0.0.1:port/ledger",
		"a parameter that is none":       "postgres://bank:hunter2@127.0.0.1:1/ledger?sslmode=hopefully",
		"a password that is not encoded": "postgres://bank:%zzhunter2@127.0.0.1:1/ledger",
		"no host":                        "postgres:bank:hunter2",
		"a file of a certificate":        "postgres://bank:hunter2@127.0.0.1:1/ledger?sslmode=verify-full&sslrootcert=/none",
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			_, err := database.Open(t.Context(), dsn, schema(first))
			if err == nil {
				t.Fatal("it was opened")
			}
			if strings.Contains(err.Error(), "hunter2") {
				t.Errorf("the error tells the password: %v", err)
			}
			if _, err := database.OpenReadOnly(t.Context(), dsn); err == nil || strings.Contains(err.Error(), "hunter2") {
				t.Errorf("the error of OpenReadOnly tells the password: %v", err)
			}
		})
	}
}

func TestOpenSaysWhichServerItMeans(t *testing.T) {
	t.Parallel()
	dsn := databasetest.Postgres(t)
	for name, tt := range map[string]struct {
		dsn  string
		want []string
	}{
		"no server":              {"postgres://bank@127.0.0.1:1/ledger", []string{"open database ledger at 127.0.0.1:1", "refused"}},
		"no such database":       {strings.Replace(dsn, "/test_", "/none_", 1), []string{"open database none_", "does not exist"}},
		"a parameter of no sort": {"postgres://bank@127.0.0.1/ledger?sslmode=hopefully", []string{"sslmode", "want sqlite:PATH", "postgres://USER"}},
		"not a URL":              {"postgres://bank:x#y@127.0.0.1/ledger", []string{"is not a URL", "percent-encoded"}},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			_, err := database.Open(t.Context(), tt.dsn, schema(first))
			wantText(t, err, tt.want...)
		})
	}
}

// Each of two transactions reads what the other one writes: in any order one of them sees the other's note. Snapshots alone let both see none.
func TestTransactionsThatConflictAreRunAgain(t *testing.T) {
	t.Parallel()
	db := openDSN(t, databasetest.Postgres(t), schema(first))
	var both sync.WaitGroup // both have read
	both.Add(2)
	runs := make([]int, 2)
	seen := make([]int, 2)
	var wg sync.WaitGroup
	for i := range runs {
		wg.Go(func() {
			err := database.InTx(t.Context(), db, func(tx *sql.Tx) error {
				runs[i]++
				if err := tx.QueryRowContext(t.Context(), "SELECT count(*) FROM notes").Scan(&seen[i]); err != nil {
					return err
				}
				if runs[i] == 1 {
					both.Done()
					both.Wait()
				}
				return insert(t.Context(), "x")(tx)
			})
			if err != nil {
				t.Error(err)
			}
		})
	}
	wg.Wait()
	if runs[0]+runs[1] < 3 || seen[0]+seen[1] != 1 {
		t.Errorf("in %v runs they have seen %v notes, want 0 and 1 in three", runs, seen)
	}
}

func TestTransactionsThatWaitForEachOtherAreRunAgain(t *testing.T) {
	t.Parallel()
	db := openDSN(t, databasetest.Postgres(t), schema(first))
	exec(t, db, "INSERT INTO notes (id, text) VALUES (0, ''), (1, '')")
	var both sync.WaitGroup // both hold a lock
	both.Add(2)
	runs := make([]int, 2)
	var wg sync.WaitGroup
	for i := range runs {
		wg.Go(func() {
			err := database.InTx(t.Context(), db, func(tx *sql.Tx) error {
				runs[i]++
				if _, err := tx.ExecContext(t.Context(), "UPDATE notes SET text = text || 'x' WHERE id = $1", i); err != nil {
					return err
				}
				if runs[i] == 1 {
					both.Done()
					both.Wait()
				}
				_, err := tx.ExecContext(t.Context(), "UPDATE notes SET text = text || 'x' WHERE id = $1", 1-i)
				return err
			})
			if err != nil {
				t.Error(err)
			}
		})
	}
	wg.Wait()
	if got := text[string](t, db, "SELECT string_agg(text, ',') FROM notes"); got != "xx,xx" {
		t.Errorf("the notes are %s after %v runs, want xx,xx", got, runs)
	}
}

var errConflict = &pgconn.PgError{Severity: "ERROR", SeverityUnlocalized: "ERROR", Code: "40001", Message: "could not serialize access"}

func TestAConflictThatDoesNotEndIsGivenUp(t *testing.T) {
	t.Parallel()
	db := openDSN(t, databasetest.Postgres(t), schema(first))
	runs := 0
	err := database.InTx(t.Context(), db, func(*sql.Tx) error {
		runs++
		return errConflict
	})
	if runs != 50 || !errors.Is(err, errConflict) || !database.Unavailable(err) || errors.Is(err, database.ErrOutcomeUnknown) {
		t.Errorf("after %d runs: %v; want the conflict after 50", runs, err)
	}
}

func TestNobodyWaitsForAConflictToEndWhoseContextEnded(t *testing.T) {
	t.Parallel()
	db := openDSN(t, databasetest.Postgres(t), schema(first))
	gaveUp := errors.New("gave up")
	ctx, cancel := context.WithCancelCause(t.Context())
	err := database.InTx(ctx, db, func(*sql.Tx) error {
		cancel(gaveUp)
		return errConflict
	})
	if !errors.Is(err, gaveUp) {
		t.Errorf("InTx = %v, want the cause of its context", err)
	}
}

func TestAProcessThatWaitsForOneThatMigratesEndsWithItsContext(t *testing.T) {
	t.Parallel()
	dsn := databasetest.Postgres(t)
	slow := fstest.MapFS{"postgres/00001_slow.sql": {Data: []byte("-- +goose Up\nSELECT pg_sleep(600);\n")}}
	ctx, cancel := context.WithCancel(t.Context())
	var wg sync.WaitGroup
	wg.Go(func() {
		if _, err := database.Open(ctx, dsn, slow); !errors.Is(err, context.Canceled) {
			t.Errorf("the one that migrates: %v, want context.Canceled", err)
		}
	})
	readOnly, err := database.OpenReadOnly(t.Context(), dsn)
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = readOnly.Close() }()
	locks := func(granted bool) func() bool {
		return func() bool {
			const held = "SELECT count(*) > 0 FROM pg_locks WHERE locktype = 'advisory' AND granted = $1 AND database = (SELECT oid FROM pg_database WHERE datname = current_database())"
			var there bool
			if err := readOnly.QueryRowContext(t.Context(), held, granted).Scan(&there); err != nil {
				t.Error(err)
			}
			return there
		}
	}
	eventually(t, "the lock is held", locks(true))
	waits, end := context.WithCancel(t.Context())
	wg.Go(func() {
		_, err := database.Open(waits, dsn, slow)
		if !errors.Is(err, context.Canceled) || !strings.Contains(err.Error(), "wait for another process that migrates") {
			t.Errorf("the one that waits: %v", err)
		}
	})
	eventually(t, "it is waited for", locks(false))
	end()
	eventually(t, "nobody waits any more", func() bool { return !locks(false)() })
	cancel()
	wg.Wait()
	// The lock went with its holder.
	openDSN(t, dsn, schema(first))
}

func TestAReadOnlyDatabaseOfAServerShowsWhatIsThereAndLeavesIt(t *testing.T) {
	t.Parallel()
	dsn := databasetest.Postgres(t)
	db := openDSN(t, dsn, schema(first))
	exec(t, db, "INSERT INTO notes (text) VALUES ('one')")
	readOnly, err := database.OpenReadOnly(t.Context(), dsn)
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = readOnly.Close() }()
	exec(t, db, "INSERT INTO notes (text) VALUES ('two')")
	if got := text[int](t, readOnly, "SELECT count(*) FROM notes"); got != 2 {
		t.Errorf("%d notes are seen, want 2", got)
	}
	for _, statement := range []string{"INSERT INTO notes (text) VALUES ('three')", "DROP TABLE notes", "CREATE TABLE more ()"} {
		if _, err := readOnly.ExecContext(t.Context(), statement); err == nil || !strings.Contains(err.Error(), "read-only") {
			t.Errorf("%s: %v, want a refusal", statement, err)
		}
	}
	err = database.InSnapshot(t.Context(), readOnly, func(tx *sql.Tx) error {
		var n int
		return tx.QueryRowContext(t.Context(), "SELECT count(*) FROM notes").Scan(&n)
	})
	if err != nil {
		t.Errorf("InSnapshot = %v", err)
	}
}

func eventually(t *testing.T, what string, holds func() bool) {
	t.Helper()
	tick := time.NewTicker(10 * time.Millisecond)
	defer tick.Stop()
	for deadline := time.Now().Add(time.Minute); !holds(); <-tick.C {
		if time.Now().After(deadline) {
			t.Fatalf("not within a minute: %s", what)
		}
	}
}
