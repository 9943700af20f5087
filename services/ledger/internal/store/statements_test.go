package store

import (
	"strings"
	"testing"

	"github.com/countersign-mesh/countersign/pkg/database/databasetest"
)

// What a request costs must not grow with the books: each statement finds its rows by an index.
func TestNoRequestReadsAWholeTable(t *testing.T) {
	t.Parallel()
	s, err := Open(t.Context(), databasetest.SQLite(t))
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = s.Close() }()
	for text := range s.statements {
		if text == addTransfers {
			// SQLite plans to look for postings that wait for their transfer, and does so only if there are any: with foreign keys that are
			// checked at once there are none.
			continue
		}
		params := []any{"[]", 1, 1}[:1+strings.Count(text, "$2")+strings.Count(text, "$3")]
		rows, err := s.db.QueryContext(t.Context(), "EXPLAIN QUERY PLAN "+text, params...)
		if err != nil {
			t.Fatal(err)
		}
		plan, err := collect(rows, func(row scanner) (step string, err error) {
			var ignored int
			err = row.Scan(&ignored, &ignored, &ignored, &step)
			return step, err
		})
		if err != nil {
			t.Fatal(err)
		}
		for _, step := range plan {
			if strings.HasPrefix(step, "SCAN") && !strings.HasSuffix(step, "VIRTUAL TABLE INDEX 1:") || strings.Contains(step, "TEMP B-TREE") {
				t.Errorf("%s\n%s", text, strings.Join(plan, "\n"))
			}
		}
	}
}
