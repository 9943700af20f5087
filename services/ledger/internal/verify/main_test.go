package verify_test

import (
	"context"
	"database/sql"
	"errors"
	"fmt"
	"os"
	"strings"
	"sync"
	"testing"

	"go.uber.org/goleak"
	_ "modernc.org/sqlite" // the driver "sqlite"

	"github.com/countersign-mesh/countersign/pkg/database/databasetest"
	"github.com/countersign-mesh/countersign/services/ledger/internal/ledger"
	"github.com/countersign-mesh/countersign/services/ledger/internal/store"
	"github.com/countersign-mesh/countersign/services/ledger/internal/verify"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(databasetest.Main{M: m}) }

const cash = "bank-cash"

func eur(minor int64) ledger.Money { return ledger.Money{Currency: "EUR", Minor: minor} }

// account returns the ID of the n-th customer's account.
func account(n int) string { return fmt.Sprintf("acc-%026d", n) }

func pay(id, from, to string, minor int64) ledger.Transfer {
	return ledger.Transfer{ID: id, Description: "from " + from + " to " + to, Postings: []ledger.Posting{
		{Account: from, Amount: eur(-minor)}, {Account: to, Amount: eur(minor)},
	}}
}

// keep writes books with something of everything: a transfer in two currencies, and a hold in each state.
func keep(t *testing.T, dsn string) {
	t.Helper()
	s, err := store.Open(t.Context(), dsn)
	if err != nil {
		t.Fatal(err)
	}
	post := func(transfer ledger.Transfer) error { _, err := s.Post(t.Context(), transfer); return err }
	reserve := func(id string, n int, minor int64) error {
		_, err := s.Reserve(t.Context(), ledger.Hold{ID: id, Account: account(n), Amount: eur(minor)})
		return err
	}
	usd := ledger.Transfer{ID: "exchange-1", Description: "both", Postings: []ledger.Posting{
		{Account: account(1), Amount: eur(-8)},
		{Account: cash, Amount: eur(8)},
		{Account: cash, Amount: ledger.Money{Currency: "USD", Minor: -9}},
		{Account: account(1), Amount: ledger.Money{Currency: "USD", Minor: 9}},
	}}
	capture := pay("payment-2", account(2), account(1), 10)
	capture.HoldID = "hold-captured"
	release := func(id string) error { _, err := s.Release(t.Context(), id); return err }
	err = errors.Join(
		post(pay("deposit-1", cash, account(1), 100)), post(pay("deposit-2", cash, account(2), 50)), post(pay("payment-1", account(1), account(2), 30)),
		post(usd),
		reserve("hold-active", 1, 20), reserve("hold-captured", 2, 15), reserve("hold-released", 1, 5), post(capture), release("hold-released"),
		post(pay("deposit-3", cash, account(3), 7)),
		s.Close(),
	)
	if err != nil {
		t.Fatal(err)
	}
}

// kept returns the DSN of a SQLite file with these books, and the content of the file.
func kept(t *testing.T) (dsn string, content []byte) {
	t.Helper()
	dsn = databasetest.SQLite(t)
	keep(t, dsn)
	content, err := os.ReadFile(strings.TrimPrefix(dsn, "sqlite:"))
	if err != nil {
		t.Fatal(err)
	}
	return dsn, content
}

// tamper runs statements as somebody does who can write the database, with what guards the books out of the way.
func tamper(t *testing.T, dsn string, statements ...string) {
	t.Helper()
	path, sqlite := strings.CutPrefix(dsn, "sqlite:")
	driver := "pgx"
	if sqlite {
		driver, dsn = "sqlite", path
	}
	db, err := sql.Open(driver, dsn)
	if err != nil {
		t.Fatal(err)
	}
	db.SetMaxOpenConns(1) // what is set is the connection's
	defer func() {
		if err := db.Close(); err != nil {
			t.Error(err)
		}
	}()
	var restore []string
	if sqlite {
		restore = triggers(t, db)
		statements = append([]string{"PRAGMA ignore_check_constraints = ON", "PRAGMA synchronous = OFF"}, statements...)
	} else {
		statements = append([]string{"SET session_replication_role = replica"}, statements...)
	}
	for _, statement := range append(statements, restore...) {
		if _, err := db.ExecContext(t.Context(), statement); err != nil {
			t.Fatalf("%s: %v", statement, err)
		}
	}
}

// triggers drops all triggers and returns the statements that make them.
func triggers(t *testing.T, db *sql.DB) (made []string) {
	t.Helper()
	rows, err := db.QueryContext(t.Context(), "SELECT name, sql FROM sqlite_schema WHERE type = 'trigger'")
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = rows.Close() }() // it was closed below, unless the test has failed
	var names []string
	for rows.Next() {
		var name, statement string
		if err := rows.Scan(&name, &statement); err != nil {
			t.Fatal(err)
		}
		names, made = append(names, name), append(made, statement)
	}
	if err := errors.Join(rows.Err(), rows.Close()); err != nil {
		t.Fatal(err)
	}
	for _, name := range names {
		if _, err := db.ExecContext(t.Context(), "DROP TRIGGER "+name); err != nil {
			t.Fatal(err)
		}
	}
	return made
}

// schema is made once.
var schema = sync.OnceValues(func() (map[string]string, error) { return verify.EmptySchema(context.Background()) })

func check(t *testing.T, dsn string) verify.Report {
	t.Helper()
	empty, err := schema()
	if err != nil {
		t.Fatal(err)
	}
	report, err := verify.BooksWithSchema(t.Context(), dsn, 10, empty)
	if err != nil {
		t.Fatal(err)
	}
	return report
}

// kinds returns the kinds of the faults in a report.
func kinds(r verify.Report) (all []verify.Kind) {
	for _, f := range r.Faults {
		all = append(all, f.Kind)
	}
	return all
}
