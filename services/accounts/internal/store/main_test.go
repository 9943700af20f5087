package store_test

import (
	"fmt"
	"testing"
	"time"

	"go.uber.org/goleak"

	"github.com/countersign-mesh/countersign/pkg/database/databasetest"
	"github.com/countersign-mesh/countersign/services/accounts/internal/register"
	"github.com/countersign-mesh/countersign/services/accounts/internal/store"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(databasetest.Main{M: m}) }

var noon = time.Date(2026, 3, 1, 12, 0, 0, 0, time.UTC)

func openStore(t *testing.T, dsn string) *store.Store {
	t.Helper()
	s, err := store.Open(t.Context(), dsn)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = s.Close() }) // some tests close it earlier
	return s
}

// each runs f over a store in each kind of database.
func each(t *testing.T, f func(t *testing.T, s *store.Store)) {
	t.Helper()
	databasetest.Each(t, func(t *testing.T, dsn string) { f(t, openStore(t, dsn)) })
}

// open opens the n-th account of a customer.
func open(t *testing.T, s *store.Store, customer string, n int) register.Account {
	t.Helper()
	account, err := s.Open(t.Context(), account(customer, n), opening(customer, n))
	if err != nil {
		t.Fatal(err)
	}
	return account
}

func account(customer string, n int) register.Account {
	return register.Account{ID: fmt.Sprintf("acc-%s-%d", customer, n), CustomerID: customer, CurrencyCode: "EUR", OpenTime: noon}
}

func opening(customer string, n int) register.Opening {
	return register.Opening{RequestID: fmt.Sprintf("%s-%d", customer, n), CustomerID: customer, CurrencyCode: "EUR"}
}
