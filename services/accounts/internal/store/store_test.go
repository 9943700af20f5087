package store_test

import (
	"context"
	"errors"
	"fmt"
	"sync"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/countersign-mesh/countersign/pkg/database/databasetest"
	"github.com/countersign-mesh/countersign/services/accounts/internal/register"
	"github.com/countersign-mesh/countersign/services/accounts/internal/store"
)

func TestAnAccountComesBackAsItWasStoredAlsoAfterARestart(t *testing.T) {
	t.Parallel()
	databasetest.Each(t, func(t *testing.T, dsn string) {
		want := register.Account{
			ID: "acc-one", CustomerID: "alice", DisplayName: "Rent \"and\" söme", CurrencyCode: "EUR", OpenTime: noon.Add(time.Microsecond),
		}
		s := openStore(t, dsn)
		if _, err := s.Open(t.Context(), want, register.Opening{RequestID: "request-1"}); err != nil {
			t.Fatal(err)
		}
		if err := s.Close(); err != nil {
			t.Fatal(err)
		}
		got, err := openStore(t, dsn).Get(t.Context(), "acc-one")
		if err != nil {
			t.Fatal(err)
		}
		if diff := cmp.Diff(want, got); diff != "" {
			t.Errorf("-want +got:\n%s", diff)
		}
	})
}

func TestAnUnknownAccountIsNotFound(t *testing.T) {
	t.Parallel()
	each(t, func(t *testing.T, s *store.Store) {
		if _, err := s.Get(t.Context(), "acc-none"); !errors.Is(err, register.ErrNotFound) {
			t.Errorf("Get: %v, want ErrNotFound", err)
		}
		if _, err := s.BeginClosing(t.Context(), "acc-none", register.Attempt{Name: "attempt"}); !errors.Is(err, register.ErrNotFound) {
			t.Errorf("BeginClosing: %v, want ErrNotFound", err)
		}
	})
}

// ATTACKS 62. Two stores on one database are two replicas of the service.
func TestTheSameRequestOpensOneAccountForWhoeverComesFirst(t *testing.T) {
	t.Parallel()
	databasetest.Each(t, func(t *testing.T, dsn string) {
		stores := []*store.Store{openStore(t, dsn), openStore(t, dsn)}
		ids, errs := make([]string, 64), make([]error, 64)
		var group sync.WaitGroup
		for i := range ids {
			// Every fourth asks for another customer: their rows in customers are two, so that only the request stands between them.
			customer := []string{"alice", "alice", "alice", "bob"}[i%4]
			group.Go(func() {
				opened, err := stores[i%2].Open(context.Background(),
					register.Account{ID: fmt.Sprintf("acc-%d", i), CustomerID: customer, CurrencyCode: "EUR", OpenTime: noon},
					register.Opening{RequestID: "request-1", CustomerID: customer, CurrencyCode: "EUR"})
				ids[i], errs[i] = opened.ID, err
			})
		}
		group.Wait()
		winners := map[string]int{}
		for i, id := range ids {
			switch {
			case errs[i] == nil:
				winners[id]++
			case !errors.Is(errs[i], register.ErrRequestReused):
				t.Errorf("opening %d: %v", i, errs[i])
			}
		}
		if len(winners) != 1 {
			t.Errorf("one request opened %v", winners)
		}
		total := 0
		for _, customer := range []string{"alice", "bob"} {
			page, err := stores[0].List(t.Context(), customer, 0, 10)
			if err != nil {
				t.Error(err)
			}
			total += len(page.Accounts)
		}
		if total != 1 {
			t.Errorf("there are %d accounts, want 1", total)
		}
	})
}

func TestARequestUsedForOtherContentIsRefused(t *testing.T) {
	t.Parallel()
	each(t, func(t *testing.T, s *store.Store) {
		first := register.Opening{RequestID: "request-1", CustomerID: "alice", DisplayName: "Rent", CurrencyCode: "EUR"}
		if _, err := s.Open(t.Context(), register.Account{ID: "acc-1", CustomerID: "alice", CurrencyCode: "EUR", OpenTime: noon}, first); err != nil {
			t.Fatal(err)
		}
		for name, change := range map[string]func(*register.Opening){
			"another customer":             func(o *register.Opening) { o.CustomerID = "bob" },
			"another name":                 func(o *register.Opening) { o.DisplayName = "Fun" },
			"another currency":             func(o *register.Opening) { o.CurrencyCode = "USD" },
			"a letter moved between parts": func(o *register.Opening) { o.CustomerID, o.DisplayName = "alic", "eRent" },
		} {
			t.Run(name, func(t *testing.T) {
				t.Parallel()
				other := first
				change(&other)
				_, err := s.Open(t.Context(), register.Account{ID: "acc-2", CurrencyCode: "EUR", OpenTime: noon}, other)
				if !errors.Is(err, register.ErrRequestReused) {
					t.Errorf("%v, want ErrRequestReused", err)
				}
			})
		}
	})
}
