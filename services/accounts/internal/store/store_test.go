package store_test

import (
	"context"
	"errors"
	"fmt"
	"path/filepath"
	"sync"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/countersign-mesh/countersign/services/accounts/internal/register"
	"github.com/countersign-mesh/countersign/services/accounts/internal/store"
)

var noon = time.Date(2026, 3, 1, 12, 0, 0, 0, time.UTC)

func openStore(t *testing.T, path string) *store.Store {
	t.Helper()
	s, err := store.Open(t.Context(), "sqlite:"+path)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = s.Close() }) // some tests close it earlier
	return s
}

func newStore(t *testing.T) *store.Store {
	t.Helper()
	return openStore(t, filepath.Join(t.TempDir(), "accounts.db"))
}

// open opens the n-th account of a customer.
func open(t *testing.T, s *store.Store, customer string, n int) register.Account {
	t.Helper()
	opening := register.Opening{RequestID: fmt.Sprintf("%s-%d", customer, n), CustomerID: customer, CurrencyCode: "EUR"}
	account, err := s.Open(t.Context(), register.Account{
		ID: fmt.Sprintf("acc-%s-%d", customer, n), CustomerID: customer, CurrencyCode: "EUR", OpenTime: noon,
	}, opening)
	if err != nil {
		t.Fatal(err)
	}
	return account
}

func TestAnAccountComesBackAsItWasStoredAlsoAfterARestart(t *testing.T) {
	t.Parallel()
	path := filepath.Join(t.TempDir(), "accounts.db")
	want := register.Account{
		ID: "acc-one", CustomerID: "alice", DisplayName: "Rent \"and\" söme", CurrencyCode: "EUR", OpenTime: noon.Add(time.Microsecond),
	}
	s := openStore(t, path)
	if _, err := s.Open(t.Context(), want, register.Opening{RequestID: "request-1"}); err != nil {
		t.Fatal(err)
	}
	if err := s.Close(); err != nil {
		t.Fatal(err)
	}
	got, err := openStore(t, path).Get(t.Context(), "acc-one")
	if err != nil {
		t.Fatal(err)
	}
	if diff := cmp.Diff(want, got); diff != "" {
		t.Errorf("-want +got:\n%s", diff)
	}
}

func TestAnUnknownAccountIsNotFound(t *testing.T) {
	t.Parallel()
	s := newStore(t)
	if _, err := s.Get(t.Context(), "acc-none"); !errors.Is(err, register.ErrNotFound) {
		t.Errorf("Get: %v, want ErrNotFound", err)
	}
	if _, err := s.Freeze(t.Context(), "acc-none", "attempt"); !errors.Is(err, register.ErrNotFound) {
		t.Errorf("Freeze: %v, want ErrNotFound", err)
	}
}

func TestTheSameRequestOpensOneAccount(t *testing.T) {
	t.Parallel()
	s := newStore(t)
	opening := register.Opening{RequestID: "request-1", CustomerID: "alice", DisplayName: "Rent", CurrencyCode: "EUR"}
	ids := make([]string, 64)
	var group sync.WaitGroup
	for i := range ids {
		group.Go(func() {
			account, err := s.Open(context.Background(), register.Account{
				ID: fmt.Sprintf("acc-%d", i), CustomerID: "alice", DisplayName: "Rent", CurrencyCode: "EUR", OpenTime: noon,
			}, opening)
			if err != nil {
				t.Error(err)
			}
			ids[i] = account.ID
		})
	}
	group.Wait()
	for _, id := range ids {
		if id != ids[0] {
			t.Fatalf("one request opened %s and %s", ids[0], id)
		}
	}
	page, err := s.List(t.Context(), "alice", 0, 10)
	if err != nil || len(page.Accounts) != 1 {
		t.Errorf("alice has %d accounts (%v), want 1", len(page.Accounts), err)
	}
}

func TestARequestUsedForOtherContentIsRefused(t *testing.T) {
	t.Parallel()
	s := newStore(t)
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
}

func TestPagesShowEachAccountOnceOldestFirstWhileOthersAreOpened(t *testing.T) {
	t.Parallel()
	s := newStore(t)
	var want []string
	for n := range 7 {
		want = append(want, open(t, s, "alice", n).ID)
		open(t, s, "bob", n)
	}
	var got []string
	var after int64
	for pages := 1; ; pages++ {
		page, err := s.List(t.Context(), "alice", after, 3)
		if err != nil {
			t.Fatal(err)
		}
		for _, account := range page.Accounts {
			got = append(got, account.ID)
		}
		if page.Next == 0 {
			break
		}
		after = page.Next
		if pages == 1 {
			want = append(want, open(t, s, "alice", 100).ID) // comes last, whenever it was opened
		}
	}
	if diff := cmp.Diff(want, got); diff != "" {
		t.Errorf("-want +got:\n%s", diff)
	}
}

func TestALastFullPageHasNoNext(t *testing.T) {
	t.Parallel()
	s := newStore(t)
	for n := range 3 {
		open(t, s, "alice", n)
	}
	page, err := s.List(t.Context(), "alice", 0, 3)
	if err != nil || len(page.Accounts) != 3 || page.Next != 0 {
		t.Errorf("%d accounts, next %d, %v; want 3, 0, no error", len(page.Accounts), page.Next, err)
	}
}

func TestAnAttemptThatJoinsOneUnderWayEndsWithIt(t *testing.T) {
	t.Parallel()
	s := newStore(t)
	id := open(t, s, "alice", 1).ID
	first, err := s.Freeze(t.Context(), id, "first")
	if err != nil {
		t.Fatal(err)
	}
	second, err := s.Freeze(t.Context(), id, "second")
	if err != nil || second.Closing != first.Closing {
		t.Fatalf("the second attempt is %q (%v), want it to join %q", second.Closing, err, first.Closing)
	}
	if err := s.Thaw(t.Context(), id, first.Closing); err != nil {
		t.Fatal(err)
	}
	// In between the account was usable: a look at the balance from before says nothing any more.
	if _, err := s.Freeze(t.Context(), id, "third"); err != nil {
		t.Fatal(err)
	}
	if _, err := s.Finish(t.Context(), id, second.Closing, noon); !errors.Is(err, register.ErrBusy) {
		t.Errorf("an attempt that was thawed closed the account: %v, want ErrBusy", err)
	}
}

func TestAClosedAccountStaysAsItIs(t *testing.T) {
	t.Parallel()
	s := newStore(t)
	id := open(t, s, "alice", 1).ID
	frozen, err := s.Freeze(t.Context(), id, "first")
	if err != nil {
		t.Fatal(err)
	}
	want, err := s.Finish(t.Context(), id, frozen.Closing, noon)
	if err != nil || !want.CloseTime.Equal(noon) {
		t.Fatalf("closed at %v (%v), want %v", want.CloseTime, err, noon)
	}
	if _, err := s.Freeze(t.Context(), id, "again"); err != nil {
		t.Fatal(err)
	}
	if err := s.Thaw(t.Context(), id, "again"); err != nil {
		t.Fatal(err)
	}
	got, err := s.Finish(t.Context(), id, "again", noon.Add(time.Hour))
	if err != nil {
		t.Fatal(err)
	}
	if diff := cmp.Diff(want, got); diff != "" {
		t.Errorf("-want +got:\n%s", diff)
	}
}

func TestARestartGivesAccountsFreeThatWereBeingClosed(t *testing.T) {
	t.Parallel()
	path := filepath.Join(t.TempDir(), "accounts.db")
	s := openStore(t, path)
	id := open(t, s, "alice", 1).ID
	if frozen, err := s.Freeze(t.Context(), id, "attempt"); err != nil || frozen.Usable() {
		t.Fatalf("usable: %t, %v", frozen.Usable(), err)
	}
	if err := s.Close(); err != nil {
		t.Fatal(err)
	}
	account, err := openStore(t, path).Get(t.Context(), id)
	if err != nil || !account.Usable() {
		t.Errorf("usable: %t, %v; want it usable again", account.Usable(), err)
	}
}
