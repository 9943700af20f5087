package databasetest_test

import (
	"database/sql"
	"testing"

	"go.uber.org/goleak"

	"github.com/countersign-mesh/countersign/pkg/database/databasetest"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(databasetest.Main{M: m}) }

// What was committed is there after the server was killed, and its databases are apart from each other.
func TestAServerKeepsWhatWasCommittedOverAKill(t *testing.T) {
	t.Parallel()
	s := databasetest.StartServer(t)
	dsn, err := s.Create(t.Context(), "one")
	if err != nil {
		t.Fatal(err)
	}
	db, err := sql.Open("pgx", dsn)
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = db.Close() }()
	if _, err := db.ExecContext(t.Context(), "CREATE TABLE notes AS SELECT 7 AS n"); err != nil {
		t.Fatal(err)
	}
	if err := s.Kill(); err != nil {
		t.Fatal(err)
	}
	if err := db.PingContext(t.Context()); err == nil {
		t.Error("the server answers after it was killed")
	}
	if err := s.Start(t.Context()); err != nil {
		t.Fatal(err)
	}
	var n int
	if err := db.QueryRowContext(t.Context(), "SELECT n FROM notes").Scan(&n); err != nil || n != 7 {
		t.Errorf("%d, %v, want 7", n, err)
	}
}

func TestEachDatabaseIsEmpty(t *testing.T) {
	t.Parallel()
	one, other := databasetest.Postgres(t), databasetest.Postgres(t)
	if one == other {
		t.Errorf("two databases have the one DSN %s", one)
	}
}
