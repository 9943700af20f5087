// Package activity lets watchers follow the changes of an account's payments.
//
// The changes are in a table; what passes between goroutines is only the news that there is something to read. So a watcher that is
// slow, or away for a week, costs no memory: it reads on from its own position.
package activity

import (
	"context"
	"errors"
	"sync"
	"time"

	"github.com/countersign-mesh/countersign/services/payments/internal/payment"
)

// ErrUnknownCursor is returned for a position at which the account has no change.
var ErrUnknownCursor = errors.New("cursor was not issued for this account")

const (
	// batch is how many changes a watcher holds at a time.
	batch = 64
	// defaultPoll is how often a watcher reads without news: it finds what another process on the same database has changed.
	defaultPoll = 5 * time.Second
)

// Store reads changes.
type Store interface {
	// Changes returns at most limit changes of an account's payments after a sequence, in order.
	Changes(ctx context.Context, accountID string, after int64, limit int) ([]payment.Change, error)
	// HasChange reports whether a sequence is that of a change of the account's payments.
	HasChange(ctx context.Context, accountID string, sequence int64) (bool, error)
}

// Feed is the one place of news. It is safe for concurrent use.
type Feed struct {
	store Store
	poll  time.Duration

	mu       sync.Mutex
	watchers map[string]map[chan struct{}]struct{} // by account
}

// Option changes a default of New.
type Option func(*Feed)

// WithPoll sets how often a watcher reads without news; 5 s by default.
func WithPoll(d time.Duration) Option { return func(f *Feed) { f.poll = d } }

// New returns a Feed of the changes in a store.
func New(store Store, opts ...Option) *Feed {
	f := &Feed{store: store, poll: defaultPoll, watchers: map[string]map[chan struct{}]struct{}{}}
	for _, opt := range opts {
		opt(f)
	}
	return f
}

// Changed tells the watchers of accounts that there is something to read. It does not wait for them.
func (f *Feed) Changed(accountIDs ...string) {
	f.mu.Lock()
	defer f.mu.Unlock()
	for _, id := range accountIDs {
		for news := range f.watchers[id] {
			select {
			case news <- struct{}{}:
			default: // it has not yet read for the news before; that reading will find this too
			}
		}
	}
}

// Follow calls send with every change of an account's payments after a sequence, 0 being before the first: those that have
// happened, then new ones as they happen. Each is sent once, in order. It returns when ctx ends or send fails, always
// with an error.
func (f *Feed) Follow(ctx context.Context, accountID string, after int64, send func(payment.Change) error) error {
	if after != 0 {
		// A position past the end, after a restore from a backup, would otherwise wait in silence while changes go by.
		known, err := f.store.HasChange(ctx, accountID, after)
		if err != nil {
			return err
		}
		if !known {
			return ErrUnknownCursor
		}
	}
	// Before the first reading: what changes after the reading is news.
	news := f.subscribe(accountID)
	defer f.unsubscribe(accountID, news)
	poll := time.NewTicker(f.poll)
	defer poll.Stop()
	for {
		changes, err := f.store.Changes(ctx, accountID, after, batch)
		if err != nil {
			return err
		}
		for _, change := range changes {
			if err := send(change); err != nil {
				return err
			}
			after = change.Sequence
		}
		if len(changes) == batch {
			continue // there may be more
		}
		select {
		case <-news:
		case <-poll.C:
		case <-ctx.Done():
			return ctx.Err()
		}
	}
}

func (f *Feed) subscribe(accountID string) chan struct{} {
	news := make(chan struct{}, 1)
	f.mu.Lock()
	defer f.mu.Unlock()
	if f.watchers[accountID] == nil {
		f.watchers[accountID] = map[chan struct{}]struct{}{}
	}
	f.watchers[accountID][news] = struct{}{}
	return news
}

func (f *Feed) unsubscribe(accountID string, news chan struct{}) {
	f.mu.Lock()
	defer f.mu.Unlock()
	delete(f.watchers[accountID], news)
	if len(f.watchers[accountID]) == 0 {
		delete(f.watchers, accountID)
	}
}
