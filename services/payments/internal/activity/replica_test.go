package activity_test

import (
	"context"
	"errors"
	"log/slog"
	"sync"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/countersign-mesh/countersign/pkg/database/databasetest"
	"github.com/countersign-mesh/countersign/services/payments/internal/activity"
	"github.com/countersign-mesh/countersign/services/payments/internal/payment"
	"github.com/countersign-mesh/countersign/services/payments/internal/store"
)

// counted is a store that counts what is read of it, and what of that is in the hands of watchers.
type counted struct {
	*store.Store
	mu     sync.Mutex
	polls  int
	away   bool // it cannot be polled
	in     int  // changes that were read and not yet sent
	most   int  // the largest that in was
	polled [][]string
}

func (c *counted) Changes(ctx context.Context, accountID string, after int64, limit int) ([]payment.Change, error) {
	changes, err := c.Store.Changes(ctx, accountID, after, limit)
	c.mu.Lock()
	defer c.mu.Unlock()
	c.in += len(changes)
	c.most = max(c.most, c.in)
	return changes, err
}

func (c *counted) sent() {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.in--
}

func (c *counted) Latest(ctx context.Context, accountIDs []string) (map[string]int64, error) {
	c.mu.Lock()
	c.polls++
	c.polled = append(c.polled, accountIDs)
	away := c.away
	c.mu.Unlock()
	if away {
		return nil, errors.New("away")
	}
	return c.Store.Latest(ctx, accountIDs)
}

func (c *counted) times() int {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.polls
}

func eventually(t *testing.T, what string, holds func() bool) {
	t.Helper()
	tick := time.NewTicker(2 * time.Millisecond)
	defer tick.Stop()
	for deadline := time.Now().Add(20 * time.Second); !holds(); <-tick.C {
		if time.Now().After(deadline) {
			t.Fatal(what)
		}
	}
}

// Another process on the same database tells nobody here. Watchers come back from time to time, with the last cursor that they saw.
func TestChangesOfAnotherProcessAreFoundEachOnce(t *testing.T) {
	t.Parallel()
	databasetest.Each(t, func(t *testing.T, dsn string) {
		here, there := open(t, dsn), open(t, dsn)
		f := activity.New(here, activity.WithPoll(2*time.Millisecond))
		poll(t, f)
		const total = 60
		want := make(chan []string, 1)
		go func() {
			var ids []string
			for n := range total {
				ids = append(ids, pay(t, there, n))
			}
			want <- ids
		}()
		var got []string
		var cursor int64
		for range total / 20 {
			w := watch(t, f, "acc-bob", cursor)
			var ids []string
			ids, cursor = w.next(t, 20)
			got = append(got, ids...)
			_ = w.stop() // checked by the cleanup
		}
		if diff := cmp.Diff(<-want, got); diff != "" {
			t.Errorf("-want +got:\n%s", diff)
		}
	})
}

func TestManyWatchersAreOneQuery(t *testing.T) {
	t.Parallel()
	c := &counted{Store: open(t, databasetest.SQLite(t))}
	f := activity.New(c, activity.WithPoll(time.Millisecond))
	poll(t, f)
	var watchers []*watcher
	for range 20 {
		watchers = append(watchers, watch(t, f, "acc-alice", 0), watch(t, f, "acc-bob", 0))
	}
	id := pay(t, c.Store, 1)
	for _, w := range watchers {
		if got, _ := w.next(t, 1); got[0] != id {
			t.Errorf("saw %s, want %s", got[0], id)
		}
	}
	c.mu.Lock()
	for _, accounts := range c.polled {
		if len(accounts) > 2 {
			t.Errorf("asked for %v, want each account once", accounts)
		}
	}
	c.mu.Unlock()
}

func TestNobodyWhoWatchesIsNoQuery(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		c := &counted{} // without a store behind it
		ctx, cancel := context.WithTimeout(t.Context(), time.Hour)
		defer cancel()
		if err := activity.New(c).Poll(ctx); err != nil {
			t.Error(err)
		}
		if c.polls != 0 {
			t.Errorf("%d queries in an hour while nobody watches", c.polls)
		}
	})
}

func TestADatabaseThatIsAwayForAMomentIsPolledAgain(t *testing.T) {
	t.Parallel()
	c := &counted{Store: open(t, databasetest.SQLite(t)), away: true}
	f := activity.New(c, activity.WithPoll(time.Millisecond))
	poll(t, f)
	w := watch(t, f, "acc-bob", 0)
	id := pay(t, c.Store, 1)
	tried := c.times()
	eventually(t, "it is not tried again", func() bool { return c.times() > tried+2 })
	c.mu.Lock()
	c.away = false
	c.mu.Unlock()
	if got, _ := w.next(t, 1); got[0] != id {
		t.Errorf("saw %s, want %s", got[0], id)
	}
}

// However much there is to read, a reader who takes nothing has one batch in memory, and gets all of it when it reads on.
func TestASlowWatcherHoldsOneBatchInMemory(t *testing.T) {
	t.Parallel()
	c := &counted{Store: open(t, databasetest.SQLite(t))}
	f := activity.New(c)
	var want []string
	for n := range 300 {
		want = append(want, pay(t, c.Store, n))
	}
	ctx, leave := context.WithCancel(t.Context())
	defer leave()
	stalled, goOn := make(chan struct{}), make(chan struct{})
	stall := sync.OnceFunc(func() { close(stalled); <-goOn })
	var got []string
	ended := make(chan error, 1)
	go func() {
		ended <- f.Follow(ctx, "acc-bob", 0, func(change payment.Change) error {
			stall()
			got = append(got, change.Payment.ID)
			c.sent()
			if len(got) == len(want) {
				leave()
			}
			return nil
		})
	}()
	<-stalled
	for range 100 {
		f.Changed("acc-bob") // news that it has no time for
	}
	close(goOn)
	if err := <-ended; !errors.Is(err, context.Canceled) {
		t.Errorf("%v, want context.Canceled", err)
	}
	if diff := cmp.Diff(want, got); diff != "" {
		t.Errorf("-want +got:\n%s", diff)
	}
	if c.most > 64 {
		t.Errorf("%d changes were held at a time, want at most 64", c.most)
	}
}

// vanished is the store of a database whose host went without a word: who reads gets no answer.
type vanished struct{ polls atomic.Int64 }

func (v *vanished) Changes(ctx context.Context, _ string, _ int64, _ int) ([]payment.Change, error) {
	<-ctx.Done()
	return nil, ctx.Err()
}

func (v *vanished) HasChange(ctx context.Context, _ string, _ int64) (bool, error) {
	<-ctx.Done()
	return false, ctx.Err()
}

func (v *vanished) Latest(ctx context.Context, _ []string) (map[string]int64, error) {
	v.polls.Add(1)
	<-ctx.Done()
	return nil, ctx.Err()
}

func TestADatabaseThatDoesNotAnswerHoldsUpNobodyForLong(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		v := &vanished{}
		f := activity.New(v, activity.WithLogger(slog.New(slog.DiscardHandler)), activity.WithPoll(time.Second))
		ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
		defer cancel()
		poll := make(chan error, 1)
		go func() { poll <- f.Poll(ctx) }()
		for ctx.Err() == nil {
			for _, cursor := range []int64{0, 1} {
				err := f.Follow(ctx, "acc-bob", cursor, func(payment.Change) error { return nil })
				if ctx.Err() == nil && !errors.Is(err, payment.ErrOutcomeUnknown) {
					t.Errorf("cursor %d: %v, want ErrOutcomeUnknown", cursor, err)
				}
			}
		}
		if err := <-poll; err != nil || v.polls.Load() < 3 {
			t.Errorf("Poll read %d times in a minute (%v), want 3 or more", v.polls.Load(), err)
		}
		if ended := f.Follow(ctx, "acc-bob", 0, nil); errors.Is(ended, payment.ErrOutcomeUnknown) {
			t.Errorf("%v: the watcher has left", ended)
		}
	})
}
