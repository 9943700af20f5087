package database_test

import (
	"context"
	"database/sql"
	"errors"
	"path/filepath"
	"strconv"
	"sync"
	"testing"
	"time"

	"github.com/countersign-mesh/countersign/pkg/database"
	"github.com/countersign-mesh/countersign/pkg/database/databasetest"
)

func insert(ctx context.Context, note string) func(*sql.Tx) error {
	return func(tx *sql.Tx) error {
		_, err := tx.ExecContext(ctx, "INSERT INTO notes (text) VALUES ($1)", note)
		return err
	}
}

func TestInTxCommitsOrLeavesNothing(t *testing.T) {
	t.Parallel()
	databasetest.Each(t, func(t *testing.T, dsn string) {
		db := openDSN(t, dsn, schema(first))
		wrong := errors.New("wrong")
		if err := database.InTx(t.Context(), db, insert(t.Context(), "good")); err != nil {
			t.Fatal(err)
		}
		err := database.InTx(t.Context(), db, func(tx *sql.Tx) error {
			return errors.Join(insert(t.Context(), "bad")(tx), wrong)
		})
		if !errors.Is(err, wrong) {
			t.Errorf("InTx = %v, want the error of its function", err)
		}
		func() {
			defer func() { _ = recover() }()
			_ = database.InTx(t.Context(), db, func(tx *sql.Tx) error {
				_ = insert(t.Context(), "worse")(tx)
				panic("on the way")
			})
		}()
		// The panic gave the turn back too: this would wait for ever.
		if err := database.InTx(t.Context(), db, insert(t.Context(), "good")); err != nil {
			t.Fatal(err)
		}
		if n := text[int](t, db, "SELECT count(*) FROM notes WHERE text = 'good'"); n != 2 {
			t.Errorf("%d committed notes, want 2", n)
		}
		if n := text[int](t, db, "SELECT count(*) FROM notes WHERE text <> 'good'"); n != 0 {
			t.Errorf("%d notes of failed transactions are in the table", n)
		}
	})
}

func TestInTxEndsWithItsContext(t *testing.T) {
	t.Parallel()
	databasetest.Each(t, func(t *testing.T, dsn string) {
		db := openDSN(t, dsn, schema(first))
		ctx, cancel := context.WithCancel(t.Context())
		err := database.InTx(ctx, db, func(tx *sql.Tx) error {
			if err := insert(ctx, "gone")(tx); err != nil {
				return err
			}
			cancel()
			return nil
		})
		if !errors.Is(err, context.Canceled) {
			t.Errorf("InTx = %v, want context.Canceled", err)
		}
		if n := text[int](t, db, "SELECT count(*) FROM notes"); n != 0 {
			t.Error("a transaction whose context ended was committed")
		}
	})
}

// database/sql rolls back on its own when the context ends, and then calls the transaction done without saying why.
func TestInTxSaysWhyItWasRolledBack(t *testing.T) {
	t.Parallel()
	databasetest.Each(t, func(t *testing.T, dsn string) {
		db := openDSN(t, dsn, schema(first))
		ctx, cancel := context.WithCancel(t.Context())
		defer cancel()
		err := database.InTx(ctx, db, func(tx *sql.Tx) error {
			cancel()
			deadline := time.Now().Add(10 * time.Second)
			for time.Now().Before(deadline) {
				if err := insert(t.Context(), "gone")(tx); errors.Is(err, sql.ErrTxDone) {
					return err
				}
			}
			return errors.New("the transaction was never rolled back")
		})
		if !errors.Is(err, context.Canceled) {
			t.Errorf("InTx = %v, want context.Canceled", err)
		}
	})
}

func TestAWriterThatGivesUpLeavesTheQueue(t *testing.T) {
	t.Parallel()
	db := open(t, filepath.Join(t.TempDir(), "a.db"), schema(first))
	gaveUp := errors.New("gave up")
	err := database.InTx(t.Context(), db, func(*sql.Tx) error {
		ctx, cancel := context.WithCancelCause(t.Context())
		cancel(gaveUp)
		return database.InTx(ctx, db, insert(ctx, "second"))
	})
	if !errors.Is(err, gaveUp) {
		t.Errorf("a writer that waits behind another one = %v, want the cause of its context", err)
	}
}

// increment reads before it writes.
func increment(ctx context.Context) func(*sql.Tx) error {
	return func(tx *sql.Tx) error {
		var n int
		if err := tx.QueryRowContext(ctx, "SELECT text FROM notes WHERE id = 1").Scan(&n); err != nil {
			return err
		}
		_, err := tx.ExecContext(ctx, "UPDATE notes SET text = $1 WHERE id = 1", strconv.Itoa(n+1))
		return err
	}
}

// Each transaction reads before it writes. Without the write lock at BEGIN, SQLite fails all but one of those that overlap.
func TestManyWritersLoseNothing(t *testing.T) {
	t.Parallel()
	databasetest.Each(t, func(t *testing.T, dsn string) {
		db := openDSN(t, dsn, schema(first))
		exec(t, db, "INSERT INTO notes (id, text) VALUES (1, '0')")
		var wg sync.WaitGroup
		for range 64 {
			wg.Go(func() {
				for range 5 {
					if err := database.InTx(t.Context(), db, increment(t.Context())); err != nil {
						t.Error(err)
					}
				}
			})
		}
		wg.Wait()
		if n := text[int](t, db, "SELECT text FROM notes WHERE id = 1"); n != 320 {
			t.Errorf("320 increments made %d", n)
		}
	})
}

// Two pools stand for two processes, which cannot share a queue: the lock at BEGIN and the wait for it are SQLite's.
func TestWritersOfTwoPoolsLoseNothing(t *testing.T) {
	t.Parallel()
	databasetest.Each(t, func(t *testing.T, dsn string) {
		pools := []*sql.DB{openDSN(t, dsn, schema(first)), openDSN(t, dsn, schema(first))}
		exec(t, pools[0], "INSERT INTO notes (id, text) VALUES (1, '0')")
		var wg sync.WaitGroup
		for _, db := range pools {
			wg.Go(func() {
				for range 50 {
					if err := database.InTx(t.Context(), db, increment(t.Context())); err != nil {
						t.Error(err)
					}
				}
			})
		}
		wg.Wait()
		if n := text[int](t, pools[1], "SELECT text FROM notes WHERE id = 1"); n != 100 {
			t.Errorf("100 increments made %d", n)
		}
	})
}

func TestASnapshotDoesNotMove(t *testing.T) {
	t.Parallel()
	databasetest.Each(t, func(t *testing.T, dsn string) {
		db := openDSN(t, dsn, schema(first))
		count := func(tx *sql.Tx) (n int, err error) {
			err = tx.QueryRowContext(t.Context(), "SELECT count(*) FROM notes").Scan(&n)
			return n, err
		}
		err := database.InSnapshot(t.Context(), db, func(tx *sql.Tx) error {
			before, err := count(tx)
			if err != nil {
				return err
			}
			// Neither waits for the other.
			if err := database.InTx(t.Context(), db, insert(t.Context(), "new")); err != nil {
				return err
			}
			after, err := count(tx)
			if before != 0 || after != 0 {
				t.Errorf("the snapshot saw %d notes, then %d; want 0 both times", before, after)
			}
			return err
		})
		if err != nil {
			t.Fatal(err)
		}
		if n := text[int](t, db, "SELECT count(*) FROM notes"); n != 1 {
			t.Errorf("%d notes after the snapshot, want 1", n)
		}
	})
}

func TestReadersFindAConnectionWhileWritersQueue(t *testing.T) {
	t.Parallel()
	db := open(t, filepath.Join(t.TempDir(), "a.db"), schema(first))
	var wg sync.WaitGroup
	err := database.InTx(t.Context(), db, func(*sql.Tx) error {
		for range 64 { // far more than the pool has connections
			wg.Go(func() {
				if err := database.InTx(t.Context(), db, insert(t.Context(), "queued")); err != nil {
					t.Error(err)
				}
			})
		}
		for range 100 {
			if n := text[int](t, db, "SELECT count(*) FROM notes"); n != 0 {
				t.Errorf("a reader saw %d notes before any was committed", n)
			}
		}
		return nil
	})
	if err != nil {
		t.Error(err)
	}
	wg.Wait()
	if n := text[int](t, db, "SELECT count(*) FROM notes"); n != 64 {
		t.Errorf("%d notes, want 64", n)
	}
}
