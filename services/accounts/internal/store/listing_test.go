package store_test

import (
	"context"
	"database/sql"
	"errors"
	"slices"
	"sync"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/countersign-mesh/countersign/pkg/database"
	"github.com/countersign-mesh/countersign/pkg/database/databasetest"
	"github.com/countersign-mesh/countersign/services/accounts/internal/store"
)

func TestPagesShowEachAccountOnceOldestFirstWhileOthersAreOpened(t *testing.T) {
	t.Parallel()
	each(t, func(t *testing.T, s *store.Store) {
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
	})
}

func TestALastFullPageHasNoNext(t *testing.T) {
	t.Parallel()
	each(t, func(t *testing.T, s *store.Store) {
		for n := range 3 {
			open(t, s, "alice", n)
		}
		page, err := s.List(t.Context(), "alice", 0, 3)
		if err != nil || len(page.Accounts) != 3 || page.Next != 0 {
			t.Errorf("%d accounts, next %d, %v; want 3, 0, no error", len(page.Accounts), page.Next, err)
		}
	})
}

// follow asks for page after page, and on from the last account when there is no next page, until done is closed and nothing is left. It returns
// all that it saw.
func follow(t *testing.T, s *store.Store, customer string, done <-chan struct{}) (ids []string) {
	t.Helper()
	var after int64
	for {
		last := false
		select {
		case <-done:
			last = true // what was there when all had been opened is on the pages from here on
		default:
		}
		for {
			// One at a time, so that each page has a next one but the last, and positions are seen.
			page, err := s.List(t.Context(), customer, after, 1)
			if err != nil {
				t.Error(err)
				return ids
			}
			if last && len(page.Accounts) == 0 {
				return ids
			}
			if len(page.Accounts) == 0 || page.Next == 0 && !last {
				break // the last one is read when another follows it
			}
			ids = append(ids, page.Accounts[0].ID)
			if page.Next == 0 {
				return ids
			}
			after = page.Next
		}
	}
}

func TestAReaderMissesNothingAndSeesNothingTwiceWhileManyOpenAccounts(t *testing.T) {
	t.Parallel()
	databasetest.Each(t, func(t *testing.T, dsn string) {
		const each = 12
		stores := []*store.Store{openStore(t, dsn), openStore(t, dsn)}
		done := make(chan struct{})
		seen := make(chan []string, 1)
		go func() { seen <- follow(t, openStore(t, dsn), "alice", done) }()
		var opening sync.WaitGroup
		for writer := range 8 {
			opening.Go(func() {
				for n := range each {
					open(t, stores[writer%2], "alice", writer*each+n)
				}
			})
		}
		opening.Wait()
		close(done)
		got := <-seen
		page, err := stores[0].List(t.Context(), "alice", 0, 8*each+1)
		if err != nil {
			t.Fatal(err)
		}
		var want []string
		for _, account := range page.Accounts {
			want = append(want, account.ID)
		}
		if len(want) != 8*each {
			t.Errorf("%d accounts, want %d", len(want), 8*each)
		}
		if diff := cmp.Diff(want, got); diff != "" {
			t.Errorf("-there +seen:\n%s", diff)
		}
	})
}

// A transaction that has its position, and is not committed, keeps the next one waiting: the later position would else be on a page first, and
// the reader who goes on behind it would never see the earlier one. It is what a sequence of PostgreSQL does.
func TestNoAccountIsSeenBeforeOneWithAnEarlierPosition(t *testing.T) {
	t.Parallel()
	databasetest.Each(t, func(t *testing.T, dsn string) {
		s, other := openStore(t, dsn), openStore(t, dsn)
		open(t, s, "alice", 0)
		opened := make(chan error, 1)
		err := database.InTx(t.Context(), s.DB(), func(tx *sql.Tx) error {
			if _, err := store.OpenIn(t.Context(), tx, account("alice", 1), opening("alice", 1)); err != nil {
				return err
			}
			go func() {
				_, err := other.Open(context.WithoutCancel(t.Context()), account("alice", 2), opening("alice", 2))
				opened <- err
			}()
			select {
			case err := <-opened:
				opened <- err
				t.Errorf("the second account was opened before the first was there (%v)", err)
			case <-time.After(100 * time.Millisecond): // too short on a slow machine, it makes the test miss a mistake, and never fail
			}
			page, err := other.List(t.Context(), "alice", 0, 10)
			if err != nil || len(page.Accounts) != 1 {
				t.Errorf("seen: %v, %v; want the one from before", page.Accounts, err)
			}
			return nil
		})
		if err := errors.Join(err, <-opened); err != nil {
			t.Fatal(err)
		}
		page, err := s.List(t.Context(), "alice", 0, 10)
		if err != nil {
			t.Fatal(err)
		}
		order := slices.Collect(func(yield func(string) bool) {
			for _, a := range page.Accounts {
				if !yield(a.ID) {
					return
				}
			}
		})
		if diff := cmp.Diff([]string{"acc-alice-0", "acc-alice-1", "acc-alice-2"}, order); diff != "" {
			t.Errorf("-want +got:\n%s", diff)
		}
	})
}

// Customers do not wait for each other on a database that has more than one writer.
func TestCustomersOpenAccountsAtTheSameTime(t *testing.T) {
	t.Parallel()
	s := openStore(t, databasetest.Postgres(t))
	err := database.InTx(t.Context(), s.DB(), func(tx *sql.Tx) error {
		if _, err := store.OpenIn(t.Context(), tx, account("alice", 1), opening("alice", 1)); err != nil {
			return err
		}
		open(t, s, "bob", 1)
		return nil
	})
	if err != nil {
		t.Fatal(err)
	}
}

func TestAPositionIsNotGivenTwiceAfterATransactionThatFailed(t *testing.T) {
	t.Parallel()
	each(t, func(t *testing.T, s *store.Store) {
		open(t, s, "alice", 1)
		failed := errors.New("power cut")
		err := database.InTx(t.Context(), s.DB(), func(tx *sql.Tx) error {
			if _, err := store.OpenIn(t.Context(), tx, account("alice", 2), opening("alice", 2)); err != nil {
				return err
			}
			return failed
		})
		if !errors.Is(err, failed) {
			t.Fatal(err)
		}
		open(t, s, "alice", 3)
		page, err := s.List(t.Context(), "alice", 0, 10)
		if err != nil || len(page.Accounts) != 2 || page.Accounts[1].ID != "acc-alice-3" {
			t.Errorf("%v, %v", page.Accounts, err)
		}
	})
}
