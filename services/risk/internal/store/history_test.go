package store

import (
	"database/sql"
	"path/filepath"
	"strings"
	"testing"

	"github.com/countersign-mesh/countersign/pkg/database"
	"github.com/countersign-mesh/countersign/services/risk/internal/store/migrations"
)

// A sum over a window must not read the whole table, nor a row of it: it is asked for on every payment.
func TestSumsAreReadFromAnIndexAlone(t *testing.T) {
	t.Parallel()
	db, err := database.Open(t.Context(), "sqlite:"+filepath.Join(t.TempDir(), "risk.db"), migrations.FS)
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
