package verify_test

import (
	"bytes"
	"context"
	"database/sql"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"github.com/countersign-mesh/countersign/pkg/database"
	"github.com/countersign-mesh/countersign/pkg/database/databasetest"
	"github.com/countersign-mesh/countersign/services/ledger/internal/verify"
)

// unnoticed are the columns that nothing else in the books follows from, and those in which a change of some rows leads to other books that are
// as good: what a hold was about that was released.
func unnoticed(table, column, row string) bool {
	switch table + "." + column {
	case "transfers.post_time", "holds.create_time":
		return true
	case "holds.end_time":
		return !strings.Contains(row, "active")
	case "holds.hold_id":
		return !strings.Contains(row, "captured")
	case "holds.account_id", "holds.currency_code", "holds.minor_units":
		return strings.Contains(row, "released") || column == "minor_units" && strings.Contains(row, "captured") // more than was taken
	}
	return false
}

// Every value in the books, each changed by itself, and every row, each removed by itself.
func TestEachChangeOfAValueIsFound(t *testing.T) {
	t.Parallel()
	dsn, whole := kept(t)
	for table, keys := range map[string]string{
		"transfers": "transfer_id", "entries": "sequence", "holds": "number", "balances": "account_id || currency_code",
	} {
		t.Run(table, func(t *testing.T) {
			t.Parallel()
			path := filepath.Join(t.TempDir(), "books.db")
			found, rows := 0, contents(t, dsn, table, keys)
			for key, row := range rows {
				statements := map[string]string{"a row": "DELETE FROM " + table}
				for column, change := range changes(row) {
					statements[column] = fmt.Sprintf("UPDATE %s SET %s = %s", table, column, change)
				}
				for column, statement := range statements {
					if err := os.WriteFile(path, whole, 0o600); err != nil {
						t.Fatal(err)
					}
					tamper(t, "sqlite:"+path, fmt.Sprintf("%s WHERE %s = '%s'", statement, keys, key))
					r := check(t, "sqlite:"+path)
					if r.Sound != unnoticed(table, column, fmt.Sprint(row)) {
						t.Errorf("%s of the row %s: the report is sound: %t: %+v", statement, key, r.Sound, r.Faults)
					}
					found++
				}
			}
			if found < 12 {
				t.Errorf("only %d changes were tried", found)
			}
		})
	}
}

// contents returns the rows of a table, by their keys.
func contents(t *testing.T, dsn, table, key string) map[string]map[string]any {
	t.Helper()
	db, err := database.OpenReadOnly(t.Context(), dsn)
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = db.Close() }()
	rows, err := db.QueryContext(t.Context(), "SELECT CAST("+key+" AS TEXT) AS key, * FROM "+table)
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = rows.Close() }()
	columns, err := rows.Columns()
	if err != nil {
		t.Fatal(err)
	}
	all := make(map[string]map[string]any)
	for rows.Next() {
		values, targets := make([]any, len(columns)), make([]any, len(columns))
		for i := range values {
			targets[i] = &values[i]
		}
		if err := rows.Scan(targets...); err != nil {
			t.Fatal(err)
		}
		row := make(map[string]any)
		for i, column := range columns[1:] {
			row[column] = values[i+1]
		}
		all[fmt.Sprint(values[0])] = row
	}
	if err := rows.Err(); err != nil {
		t.Fatal(err)
	}
	return all
}

// changes returns an expression for each column that makes it another value of the same kind.
func changes(row map[string]any) map[string]string {
	all := make(map[string]string)
	for column, value := range row {
		switch value.(type) {
		case nil:
			if column == "end_time" {
				all[column] = "1"
			}
		case int64:
			all[column] = column + " + 1"
			if column == "sequence" || column == "number" {
				all[column] = column + " + 1000" // one that is not taken
			}
		case []byte:
			all[column] = "zeroblob(32)"
		default:
			all[column] = column + " || 'x'"
			if column == "currency_code" {
				all[column] = "'XXX'"
			}
		}
	}
	return all
}

// A page that was overwritten: what can be read of the books is checked all the same.
func TestDamageOfTheFileIsFound(t *testing.T) {
	t.Parallel()
	dsn, whole := kept(t)
	const page = 4096
	path := filepath.Join(t.TempDir(), "books.db")
	found, free := 0, freePages(t, dsn)           // in which nothing is
	for at := page; at < len(whole); at += page { // the first page is the file's own, without which it is none
		damaged := bytes.Clone(whole)
		copy(damaged[at:at+page], bytes.Repeat([]byte{0xa5}, page))
		if err := os.WriteFile(path, damaged, 0o600); err != nil {
			t.Fatal(err)
		}
		r, err := verify.Books(t.Context(), "sqlite:"+path, 3)
		switch {
		case err != nil: // such as the page with the version of the schema
		case r.Sound:
			if free--; free < 0 {
				t.Errorf("the page at %d is damaged, and the books are in order", at)
			}
		case !slices.Contains(kinds(r), verify.Storage) && !slices.Contains(kinds(r), verify.Unreadable):
			t.Errorf("the page at %d is damaged: %+v", at, r.Faults)
		default:
			found++
		}
	}
	if found < 5 {
		t.Errorf("only %d pages were damaged to an effect", found)
	}
}

func freePages(t *testing.T, dsn string) (n int) {
	t.Helper()
	db, err := database.OpenReadOnly(t.Context(), dsn)
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = db.Close() }()
	if err := db.QueryRowContext(t.Context(), "PRAGMA freelist_count").Scan(&n); err != nil {
		t.Fatal(err)
	}
	return n
}

func TestATableThatIsGoneIsAFaultAndTheOthersAreChecked(t *testing.T) {
	t.Parallel()
	databasetest.Each(t, func(t *testing.T, dsn string) {
		keep(t, dsn)
		driver := "pgx"
		if strings.HasPrefix(dsn, "sqlite:") {
			driver = "sqlite"
		}
		db, err := sql.Open(driver, strings.TrimPrefix(dsn, "sqlite:"))
		if err != nil {
			t.Fatal(err)
		}
		defer func() { _ = db.Close() }()
		if _, err := db.ExecContext(t.Context(), "DROP TABLE balances"); err != nil {
			t.Fatal(err)
		}
		r := check(t, dsn)
		if !slices.Contains(kinds(r), verify.Unreadable) || !strings.Contains(fmt.Sprint(r.Faults), "accounts: ") {
			t.Errorf("faults: %+v", r.Faults)
		}
		if r.Transfers != 6 || r.Holds.Active != 1 {
			t.Errorf("the other tables were not checked: %+v", r)
		}
	})
}

func TestWhatCannotBeCheckedIsNoFaultOfTheBooks(t *testing.T) {
	t.Parallel()
	databasetest.Each(t, func(t *testing.T, dsn string) {
		empty, err := database.Open(t.Context(), dsn, os.DirFS("testdata/other"))
		if err != nil {
			t.Fatal(err)
		}
		if err := empty.Close(); err != nil {
			t.Fatal(err)
		}
		if _, err := verify.Books(t.Context(), dsn, 1); !errors.Is(err, verify.ErrSchema) {
			t.Errorf("a database of another program: %v, want ErrSchema", err)
		}
		ctx, cancel := context.WithCancel(t.Context())
		cancel()
		if _, err := verify.Books(ctx, dsn, 1); !errors.Is(err, context.Canceled) {
			t.Errorf("a caller that has gone: %v", err)
		}
	})
}

func TestAReportNamesAFewPlacesOfMany(t *testing.T) {
	t.Parallel()
	dsn := databasetest.SQLite(t)
	keep(t, dsn)
	tamper(t, dsn, "UPDATE transfers SET description = printf('%.*c', 5000, 'x')")
	r, err := verify.Books(t.Context(), dsn, 2)
	if err != nil {
		t.Fatal(err)
	}
	var out strings.Builder
	if err := r.Write(&out); err != nil {
		t.Fatal(err)
	}
	for _, want := range []string{"FAULT digest: 6\n", "… and 4 more", "The books are NOT in order: 6 faults.", "sum        EUR 0 minor units: in balance"} {
		if !strings.Contains(out.String(), want) {
			t.Errorf("the report does not say %q:\n%s", want, &out)
		}
	}
	if len(r.Faults[0].Places) != 2 || out.Len() > 3000 {
		t.Errorf("%d places in %d bytes", len(r.Faults[0].Places), out.Len())
	}
}
