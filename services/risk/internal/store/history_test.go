package store

import (
	"database/sql"
	"math"
	"strings"
	"testing"

	"github.com/countersign-mesh/countersign/pkg/database"
	"github.com/countersign-mesh/countersign/pkg/database/databasetest"
	"github.com/countersign-mesh/countersign/services/risk/internal/store/migrations"
)

// A sum over a window must not read the whole table, nor a row of it: it is asked for on every payment.
func TestSumsAreReadFromAnIndexAlone(t *testing.T) {
	t.Parallel()
	db, err := database.Open(t.Context(), databasetest.SQLite(t), migrations.FS)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = db.Close() })
	for query, index := range map[string]string{spentByAccount: "paid_by_account", spentByCustomer: "paid_by_customer"} {
		plan := explain(t, db, query)
		if !strings.Contains(plan, "COVERING INDEX "+index+" ") {
			t.Errorf("%s\nis read so:\n%s", query, plan)
		}
	}
}

// PostgreSQL takes the way that it thinks is the cheapest, which for a small table is to read all of it; here it may not.
func TestSumsCanBeReadFromAnIndexAloneOnPostgreSQL(t *testing.T) {
	t.Parallel()
	db, err := database.Open(t.Context(), databasetest.Postgres(t), migrations.FS)
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = db.Close() }()
	tx, err := db.BeginTx(t.Context(), nil)
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = tx.Rollback() }()
	if _, err := tx.ExecContext(t.Context(), "SET LOCAL enable_seqscan = off; SET LOCAL enable_bitmapscan = off"); err != nil {
		t.Fatal(err)
	}
	for query, index := range map[string]string{spentByAccount: "paid_by_account", spentByCustomer: "paid_by_customer"} {
		var plan string
		if err := tx.QueryRowContext(t.Context(), "EXPLAIN (FORMAT JSON) "+query, "EUR", "x", 0).Scan(&plan); err != nil {
			t.Fatal(err)
		}
		if !strings.Contains(plan, `"Index Only Scan"`) || !strings.Contains(plan, `"`+index+`"`) {
			t.Errorf("%s\nis read so:\n%s", query, plan)
		}
	}
}

func TestJoinIsExactUpToTheGreatestNumber(t *testing.T) {
	t.Parallel()
	const last31 = 1<<31 - 1
	for _, test := range []struct{ upper, rest, want int64 }{
		{0, 0, 0},
		{0, 1, 1},
		{1, 0, 1 << 31},
		{1 << 22, 1, 1<<53 + 1}, // what a float64 cannot hold
		{3, 5 << 31, 8 << 31},   // the lower parts of many payments
		{1<<32 - 1, last31, math.MaxInt64},
		{1<<32 - 1, last31 + 1, math.MaxInt64},
		{1 << 32, 0, math.MaxInt64},
		{math.MaxInt64, math.MaxInt64, math.MaxInt64},
	} {
		if got := join(test.upper, test.rest); got != test.want {
			t.Errorf("join(%d, %d) = %d, want %d", test.upper, test.rest, got, test.want)
		}
	}
}

// explain returns SQLite's plan for one of the queries of this package.
func explain(t *testing.T, db *sql.DB, query string) (plan string) {
	t.Helper()
	rows, err := db.QueryContext(t.Context(), "EXPLAIN QUERY PLAN "+query, "EUR", "x", 0)
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = rows.Close() }()
	for rows.Next() {
		var id, parent, unused int
		var detail string
		if err := rows.Scan(&id, &parent, &unused, &detail); err != nil {
			t.Fatal(err)
		}
		plan += detail + "\n"
	}
	if err := rows.Err(); err != nil {
		t.Fatal(err)
	}
	return plan
}
