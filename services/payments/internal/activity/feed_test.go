package activity_test

import (
	"context"
	"errors"
	"fmt"
	"sync"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"go.uber.org/goleak"

	"github.com/countersign-mesh/countersign/pkg/database/databasetest"
	"github.com/countersign-mesh/countersign/services/payments/internal/activity"
	"github.com/countersign-mesh/countersign/services/payments/internal/payment"
	"github.com/countersign-mesh/countersign/services/payments/internal/store"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(databasetest.Main{M: m}) }

func open(t *testing.T, dsn string) *store.Store {
	t.Helper()
	s, err := store.Open(t.Context(), dsn)
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

func newFeed(t *testing.T, opts ...activity.Option) (*activity.Feed, *store.Store) {
	t.Helper()
	s := open(t, databasetest.SQLite(t))
	return activity.New(s, opts...), s
}

// poll runs Poll for as long as the test.
func poll(t *testing.T, f *activity.Feed) {
	t.Helper()
	ctx, cancel := context.WithCancel(t.Context())
	ended := make(chan error, 1)
	go func() { ended <- f.Poll(ctx) }()
	t.Cleanup(func() {
		cancel()
		if err := <-ended; err != nil {
			t.Errorf("Poll ended with %v", err)
		}
	})
}

// pay makes a payment from alice to bob without telling anybody.
func pay(t *testing.T, s *store.Store, n int) string {
	t.Helper()
	now := time.Now().UTC().Truncate(time.Microsecond)
	p, err := s.Create(context.Background(), payment.Payment{
		Order: payment.Order{
			Caller: "gateway", RequestID: fmt.Sprint(n), Kind: payment.Transfer, PayerAccountID: "acc-alice", PayeeAccountID: "acc-bob",
			Amount: payment.Amount{CurrencyCode: "EUR", MinorUnits: 1},
		},
		ID: payment.NewID(), State: payment.Created, Version: 1, CreateTime: now, UpdateTime: now,
	})
	if err != nil {
		t.Error(err)
	}
	return p.ID
}

// watcher is one Follow and what it has seen.
type watcher struct {
	seen chan payment.Change
	stop func() error
}

func watch(t *testing.T, f *activity.Feed, account string, after int64) *watcher {
	t.Helper()
	ctx, cancel := context.WithCancel(t.Context())
	w := &watcher{seen: make(chan payment.Change)}
	ended := make(chan error, 1)
	go func() {
		ended <- f.Follow(ctx, account, after, func(c payment.Change) error {
			select {
			case w.seen <- c:
				return nil
			case <-ctx.Done():
				return ctx.Err()
			}
		})
	}()
	w.stop = sync.OnceValue(func() error {
		cancel()
		return <-ended
	})
	t.Cleanup(func() {
		if err := w.stop(); !errors.Is(err, context.Canceled) {
			t.Errorf("Follow ended with %v, want context.Canceled", err)
		}
	})
	return w
}

// next returns the IDs of the next n changes, and the last one's sequence.
func (w *watcher) next(t *testing.T, n int) (ids []string, last int64) {
	t.Helper()
	for range n {
		select {
		case c := <-w.seen:
			ids, last = append(ids, c.Payment.ID), c.Sequence
		case <-time.After(10 * time.Second):
			t.Fatalf("only %d of %d changes came", len(ids), n)
		}
	}
	return ids, last
}

func TestAWatcherSeesWhatWasAndThenWhatComes(t *testing.T) {
	t.Parallel()
	f, s := newFeed(t)
	want := []string{pay(t, s, 1), pay(t, s, 2)}
	w := watch(t, f, "acc-bob", 0)
	got, _ := w.next(t, 2)
	want = append(want, pay(t, s, 3))
	f.Changed("acc-alice", "acc-bob")
	more, _ := w.next(t, 1)
	if diff := cmp.Diff(want, append(got, more...)); diff != "" {
		t.Errorf("-want +got:\n%s", diff)
	}
}

func TestAWatcherIsNotToldOfOthersAccounts(t *testing.T) {
	t.Parallel()
	f, s := newFeed(t, activity.WithPoll(time.Millisecond))
	poll(t, f)
	w := watch(t, f, "acc-carol", 0)
	pay(t, s, 1)
	f.Changed("acc-alice", "acc-bob", "acc-carol")
	select {
	case c := <-w.seen:
		t.Errorf("carol saw %s", c.Payment.ID)
	case <-time.After(50 * time.Millisecond):
	}
}

func TestAWatcherThatComesBackMissesNothingAndSeesNothingTwice(t *testing.T) {
	t.Parallel()
	f, s := newFeed(t)
	const total = 200 // more than a watcher holds at a time
	want := make(chan []string, 1)
	go func() {
		var ids []string
		for n := range total {
			ids = append(ids, pay(t, s, n))
			f.Changed("acc-alice", "acc-bob")
		}
		want <- ids
	}()
	var got []string
	var cursor int64
	for _, n := range []int{1, 2, 30, 67, 100} { // in pieces, while payments are made
		w := watch(t, f, "acc-bob", cursor)
		var ids []string
		ids, cursor = w.next(t, n)
		got = append(got, ids...)
		_ = w.stop() // checked by the cleanup
	}
	if diff := cmp.Diff(<-want, got); diff != "" {
		t.Errorf("-want +got:\n%s", diff)
	}
}

func TestASlowWatcherHoldsUpNobody(t *testing.T) {
	t.Parallel()
	f, s := newFeed(t)
	slow, quick := watch(t, f, "acc-bob", 0), watch(t, f, "acc-alice", 0)
	var want []string
	for n := range 100 {
		want = append(want, pay(t, s, n))
		f.Changed("acc-alice", "acc-bob")
		quick.next(t, 1) // while slow takes nothing
	}
	got, _ := slow.next(t, 100)
	if diff := cmp.Diff(want, got); diff != "" {
		t.Errorf("-want +got:\n%s", diff)
	}
}

func TestACursorThatIsNotTheAccountsIsRefused(t *testing.T) {
	t.Parallel()
	f, s := newFeed(t)
	pay(t, s, 1)
	for _, cursor := range []int64{2, 3, -1} {
		err := f.Follow(t.Context(), "acc-bob", cursor, func(payment.Change) error { return nil })
		if !errors.Is(err, activity.ErrUnknownCursor) {
			t.Errorf("cursor %d: %v, want ErrUnknownCursor", cursor, err)
		}
	}
}

func TestAReaderThatLeavesEndsItsWatch(t *testing.T) {
	t.Parallel()
	f, s := newFeed(t)
	pay(t, s, 1)
	left := errors.New("left")
	if err := f.Follow(t.Context(), "acc-bob", 0, func(payment.Change) error { return left }); !errors.Is(err, left) {
		t.Errorf("%v, want what send returned", err)
	}
}
