// Package activity lets watchers follow the changes of an account's payments.
//
// The changes are in a table; what passes between goroutines is only the news that there is something to read. So a watcher that is
// slow, or away for a week, costs no memory: it reads on from its own position. Changes of this process make news at once, those of other
// processes on the same database within a second; see Poll.
package activity

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"maps"
	"slices"
	"sync"
	"time"

	"github.com/countersign-mesh/countersign/services/payments/internal/payment"
)

// ErrUnknownCursor is returned for a position at which the account has no change.
var ErrUnknownCursor = errors.New("cursor was not issued for this account")

const (
	// batch is how many changes a watcher holds at a time.
	batch = 64
	// defaultPoll is how often Poll looks for what another process on the same database has changed.
	defaultPoll = time.Second
	// readTimeout bounds each reading: a database that went without a word gives no error for many minutes, unless somebody gives up.
	readTimeout = 10 * time.Second
)

// Store reads changes.
type Store interface {
	// Changes returns at most limit changes of an account's payments after a sequence, in order.
	Changes(ctx context.Context, accountID string, after int64, limit int) ([]payment.Change, error)
	// HasChange reports whether a sequence is that of a change of the account's payments.
	HasChange(ctx context.Context, accountID string, sequence int64) (bool, error)
	// Latest returns the sequence of the last change of each account's payments; accounts without changes are not in it.
	Latest(ctx context.Context, accountIDs []string) (map[string]int64, error)
}

// Feed is the one place of news. It is safe for concurrent use.
type Feed struct {
	store Store
	poll  time.Duration
	log   *slog.Logger

	mu       sync.Mutex
	watchers map[string]map[chan struct{}]struct{} // by account
}

// Option changes a default of New.
type Option func(*Feed)

// WithPoll sets how often Poll looks for what others have changed; 1 s by default.
func WithPoll(d time.Duration) Option { return func(f *Feed) { f.poll = d } }

// WithLogger sets where failures of Poll are logged; slog.Default by default.
func WithLogger(log *slog.Logger) Option { return func(f *Feed) { f.log = log } }

// New returns a Feed of the changes in a store.
func New(store Store, opts ...Option) *Feed {
	f := &Feed{store: store, poll: defaultPoll, log: slog.Default(), watchers: map[string]map[chan struct{}]struct{}{}}
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

// Poll makes news of what other processes on the same database have changed, until ctx ends; it then returns nil. However many watchers
// there are, it reads the numbers of their accounts' last changes at once, and nothing while nobody watches.
func (f *Feed) Poll(ctx context.Context) error {
	tick := time.NewTicker(f.poll)
	defer tick.Stop()
	told := map[string]int64{} // by watched account, the last change that its watchers were told of here
	for {
		select {
		case <-tick.C:
		case <-ctx.Done():
			return nil
		}
		watched := f.watched()
		latest, err := f.latest(ctx, watched)
		if err != nil && ctx.Err() == nil {
			f.log.WarnContext(ctx, "cannot look for changes that other processes have made", "error", err)
		}
		if err != nil {
			continue
		}
		for id, sequence := range latest {
			// Who has begun to watch since has read what was there: to be told once more costs a reading.
			if sequence != told[id] {
				f.Changed(id)
			}
		}
		told = latest
	}
}

func (f *Feed) latest(ctx context.Context, watched []string) (map[string]int64, error) {
	if len(watched) == 0 {
		return nil, nil //nolint:nilnil // a map that nobody writes to
	}
	return read(ctx, func(ctx context.Context) (map[string]int64, error) { return f.store.Latest(ctx, watched) })
}

func (f *Feed) watched() []string {
	f.mu.Lock()
	defer f.mu.Unlock()
	return slices.Collect(maps.Keys(f.watchers))
}

// Follow calls send with every change of an account's payments after a sequence, 0 being before the first: those that have
// happened, then new ones as they happen. Each is sent once, in order. It holds a few dozen changes at a time, however slow send is. It
// returns when ctx ends or send fails, always with an error, and when the database does not serve, with payment.ErrOutcomeUnknown: the watcher
// may come back.
func (f *Feed) Follow(ctx context.Context, accountID string, after int64, send func(payment.Change) error) error {
	if after != 0 {
		// A position past the end, after a restore from a backup, would otherwise wait in silence while changes go by.
		known, err := read(ctx, func(ctx context.Context) (bool, error) { return f.store.HasChange(ctx, accountID, after) })
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
	for {
		changes, err := read(ctx, func(ctx context.Context) ([]payment.Change, error) {
			return f.store.Changes(ctx, accountID, after, batch)
		})
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
		case <-ctx.Done():
			return ctx.Err()
		}
	}
}

// read calls f, for so long. That f has taken longer is the database's fault and not the reader's: the error then is payment.ErrOutcomeUnknown.
func read[T any](ctx context.Context, f func(context.Context) (T, error)) (T, error) {
	bounded, cancel := context.WithTimeout(ctx, readTimeout)
	defer cancel()
	got, err := f(bounded)
	if err != nil && bounded.Err() != nil && ctx.Err() == nil {
		err = fmt.Errorf("%w: the database has not answered within %s: %w", payment.ErrOutcomeUnknown, readTimeout, err)
	}
	return got, err
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
