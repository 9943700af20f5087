package store_test

import (
	"context"
	"database/sql"
	"fmt"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/countersign-mesh/countersign/pkg/database/databasetest"
	"github.com/countersign-mesh/countersign/services/payments/internal/store"
)

// follow reads an account's changes as a watcher does, from a cursor on, and returns which requests they are of.
func follow(t *testing.T, s *store.Store, account string, cursor *int64) (requests []string) {
	t.Helper()
	changes, err := s.Changes(t.Context(), account, *cursor, 100)
	if err != nil {
		t.Fatal(err)
	}
	for _, c := range changes {
		*cursor = c.Sequence
		requests = append(requests, c.Payment.RequestID)
	}
	return requests
}

// The first of two transactions numbers its change for an account, and cannot go on; the second begins after that. A watcher who reads
// all the while sees what both have changed, each once. Were numbers given as PostgreSQL's sequences give them, the second would be seen
// at once, and the first, under a smaller number, never.
func TestOfTwoTransactionsThatOverlapNoneIsMissed(t *testing.T) {
	t.Parallel()
	databasetest.Each(t, func(t *testing.T, dsn string) {
		one, other, db := openStore(t, dsn), openStore(t, dsn), raw(t, dsn)
		create(t, one, order("before", "acc-a", "acc-b"))
		gate, err := db.BeginTx(t.Context(), nil)
		if err != nil {
			t.Fatal(err)
		}
		defer func() { _ = gate.Rollback() }()
		// Whoever numbers a change of acc-b waits for the gate; acc-a comes before it.
		if _, err := gate.ExecContext(t.Context(), `UPDATE change_counts SET sequence = sequence WHERE account_id = 'acc-b'`); err != nil {
			t.Fatal(err)
		}
		var group sync.WaitGroup
		pay := func(s *store.Store, request, payee string) chan struct{} {
			done := make(chan struct{})
			group.Go(func() {
				defer close(done)
				if _, err := s.Create(context.Background(), made(order(request, "acc-a", payee))); err != nil {
					t.Error(err)
				}
			})
			return done
		}
		var cursor int64
		seen := follow(t, one, "acc-a", &cursor)
		first := pay(one, "first", "acc-b")
		waits(t, db, dsn, first, 1)
		second := pay(other, "second", "acc-c")
		waits(t, db, dsn, second, 2)
		seen = append(seen, follow(t, one, "acc-a", &cursor)...)
		if err := gate.Rollback(); err != nil {
			t.Fatal(err)
		}
		group.Wait()
		seen = append(seen, follow(t, one, "acc-a", &cursor)...)
		if len(seen) == 3 && seen[1] == "second" { // either may be first, if both are there
			seen[1], seen[2] = seen[2], seen[1]
		}
		if diff := cmp.Diff([]string{"before", "first", "second"}, seen); diff != "" {
			t.Errorf("what a watcher saw: -want +got:\n%s", diff)
		}
	})
}

// waits returns when so many transactions wait for a lock, or that of done has ended, which is not to be.
func waits(t *testing.T, db *sql.DB, dsn string, done chan struct{}, n int) {
	t.Helper()
	if strings.HasPrefix(dsn, "sqlite:") {
		return // the gate is the one writer: whenever the others begin, they wait
	}
	tick := time.NewTicker(5 * time.Millisecond)
	defer tick.Stop()
	for deadline := time.Now().Add(30 * time.Second); time.Now().Before(deadline); {
		var waiting int
		err := db.QueryRowContext(t.Context(), `SELECT count(*) FROM pg_stat_activity WHERE datname = current_database() AND wait_event_type = 'Lock'`).
			Scan(&waiting)
		if err != nil {
			t.Fatal(err)
		}
		if waiting >= n {
			return
		}
		select {
		case <-done:
			return
		case <-tick.C:
		}
	}
	t.Fatal("no transaction waits")
}

// Many replicas change payments of one account at once, over and over, while a watcher reads.
func TestAWatcherOfABusyAccountMissesNothingAndSeesNothingTwice(t *testing.T) {
	t.Parallel()
	databasetest.Each(t, func(t *testing.T, dsn string) {
		reader := openStore(t, dsn)
		const replicas, each = 3, 10
		var group sync.WaitGroup
		want := map[string]int{}
		for r := range replicas {
			s := openStore(t, dsn)
			for n := range each {
				request := fmt.Sprintf("request-%d-%d", r, n)
				want[request] = 1
				group.Go(func() {
					payee := fmt.Sprintf("acc-%d", n%3)
					if _, err := s.Create(context.Background(), made(order(request, "acc-x", payee))); err != nil {
						t.Error(err)
					}
				})
			}
		}
		ended := make(chan struct{})
		go func() { group.Wait(); close(ended) }()
		got := map[string]int{}
		var cursor int64
		for over := false; ; {
			for _, request := range follow(t, reader, "acc-x", &cursor) {
				got[request]++
			}
			if over {
				break
			}
			select {
			case <-ended:
				over = true // and read to the end
			default:
			}
		}
		if diff := cmp.Diff(want, got); diff != "" {
			t.Errorf("how often each was seen: -want +got:\n%s", diff)
		}
	})
}
