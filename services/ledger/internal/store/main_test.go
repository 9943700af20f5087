package store_test

import (
	"context"
	"database/sql"
	"fmt"
	"os"
	"path/filepath"
	"testing"

	"go.uber.org/goleak"

	"github.com/countersign-mesh/countersign/pkg/database"
	"github.com/countersign-mesh/countersign/pkg/database/databasetest"
	"github.com/countersign-mesh/countersign/services/ledger/internal/ledger"
	"github.com/countersign-mesh/countersign/services/ledger/internal/store"
	"github.com/countersign-mesh/countersign/services/ledger/internal/store/migrations"
)

func TestMain(m *testing.M) {
	if path := os.Getenv(crashDatabase); path != "" {
		postUntilKilled(path)
	}
	goleak.VerifyTestMain(databasetest.Main{M: m})
}

const cash = "bank-cash"

// openAt opens the books in a file, until the test ends.
func openAt(t *testing.T, path string) *sql.DB {
	t.Helper()
	db, err := database.Open(t.Context(), "sqlite:"+path, migrations.FS)
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

// openStore opens the books at a DSN, until the test ends.
func openStore(t *testing.T, dsn string, opts ...store.Option) *store.Store {
	t.Helper()
	s, err := store.Open(t.Context(), dsn, opts...)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := s.Close(); err != nil {
			t.Error(err)
		}
	})
	return s
}

// books returns empty books, and the database that they are in.
func books(t *testing.T, opts ...store.Option) (*store.Store, *sql.DB) {
	t.Helper()
	path := filepath.Join(t.TempDir(), "ledger.db")
	return openStore(t, "sqlite:"+path, opts...), openAt(t, path)
}

func eur(minor int64) ledger.Money { return ledger.Money{Currency: "EUR", Minor: minor} }

// pay is a transfer of EUR.
func pay(id, from, to string, minor int64) ledger.Transfer {
	return ledger.Transfer{ID: id, Description: "from " + from + " to " + to, Postings: []ledger.Posting{
		{Account: from, Amount: eur(-minor)}, {Account: to, Amount: eur(minor)},
	}}
}

// account returns the ID of the n-th customer's account.
func account(n int) string { return fmt.Sprintf("acc-%026d", n) }

func mustPost(t *testing.T, s *store.Store, transfer ledger.Transfer) ledger.Posted {
	t.Helper()
	posted, err := s.Post(t.Context(), transfer)
	if err != nil {
		t.Fatal(err)
	}
	return posted
}

// balance returns an account's balance in EUR.
func balance(t *testing.T, s *store.Store, account string) int64 {
	t.Helper()
	balances, err := s.Balances(context.WithoutCancel(t.Context()), account)
	if err != nil {
		t.Fatal(err)
	}
	for _, b := range balances {
		if b.Currency == "EUR" {
			return b.Minor
		}
	}
	return 0
}

// mustBalance checks the books and returns what they add up to.
func mustBalance(t *testing.T, s *store.Store) ledger.TrialBalance {
	t.Helper()
	sums, err := s.Check(context.WithoutCancel(t.Context()))
	if err != nil {
		t.Fatal(err)
	}
	if !sums.Balanced() {
		t.Fatalf("the books do not balance: %+v", sums)
	}
	return sums
}
