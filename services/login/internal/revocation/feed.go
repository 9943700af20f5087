// Package revocation tells what is not believed any more though its signature is good.
package revocation

import (
	"context"
	"log/slog"
	"sync"
	"time"

	"golang.org/x/time/rate"
)

// Kind is what is revoked.
type Kind string

// The kinds.
const (
	Token       Kind = "token"
	Session     Kind = "session"
	Certificate Kind = "certificate"
)

// Revocation names what is not believed any more.
type Revocation struct {
	Kind    Kind
	Subject string
	// Expires is from when on nobody would believe it anyway.
	Expires time.Time
}

const (
	// poll is how often Run looks for what another process on the same database has revoked. A second is what all have until the last of them knows.
	poll = 200 * time.Millisecond
	// beat is how often a watcher is told something at least, be it that there is nothing new: from silence it cannot tell a quiet day from a process that hangs.
	beat = time.Second
	// readTimeout bounds each reading.
	readTimeout = 5 * time.Second
	// logEvery is how often the log has that Run cannot look: a database that is away is so for each poll.
	logEvery = 10 * time.Second
)

// Store reads revocations.
type Store interface {
	// Revocations returns what was revoked after a sequence and has not expired at a time, in the order of the commits, and the sequence of the last. Sequences appear
	// in their order: what is read later has a greater one.
	Revocations(ctx context.Context, after int64, now time.Time) ([]Revocation, int64, error)
	// LastRevocation returns the sequence of the last revocation.
	LastRevocation(ctx context.Context) (int64, error)
}

// Feed lets watchers follow revocations. It is safe for concurrent use.
type Feed struct {
	store Store
	now   func() time.Time
	log   *slog.Logger

	mu       sync.Mutex
	changed  chan struct{}
	watchers int
}

// New returns a Feed.
func New(store Store, now func() time.Time, log *slog.Logger) *Feed {
	return &Feed{store: store, now: now, log: log, changed: make(chan struct{})}
}

// Run makes news of what is revoked, by this process or another on the same database, until ctx ends; it returns nil then. It reads one number, however many watchers there are.
// While it cannot read that, what was revoked elsewhere is not known here: watchers do not go on as if nothing had been, unless they can read for themselves.
func (f *Feed) Run(ctx context.Context) error {
	tick := time.NewTicker(poll)
	defer tick.Stop()
	sometimes := rate.Sometimes{First: 1, Interval: logEvery}
	var last int64
	for {
		select {
		case <-tick.C:
		case <-ctx.Done():
			return nil
		}
		if !f.watched() {
			continue
		}
		now, err := f.last(ctx)
		switch {
		case err != nil && ctx.Err() == nil:
			sometimes.Do(func() { f.log.WarnContext(ctx, "cannot look for revocations", "error", err) })
			f.Changed() // followers look themselves, and end if they cannot: their watchers may find a replica that can
		case err == nil && now != last:
			last = now
			f.Changed()
		}
	}
}

func (f *Feed) last(ctx context.Context) (int64, error) {
	ctx, cancel := context.WithTimeout(ctx, readTimeout)
	defer cancel()
	return f.store.LastRevocation(ctx)
}

// Changed tells the watchers at once that there is something to read.
func (f *Feed) Changed() {
	f.mu.Lock()
	defer f.mu.Unlock()
	close(f.changed)
	f.changed = make(chan struct{})
}

// Follow calls send with all that is revoked, even when there is nothing, and then with what is revoked as it happens, and each second with what the database then has, even
// when that is nothing. It returns when ctx ends, send fails or the database does not answer, always with an error.
func (f *Feed) Follow(ctx context.Context, send func([]Revocation) error) error {
	f.watch(1)
	defer f.watch(-1)
	var after int64
	beats := time.NewTicker(beat)
	defer beats.Stop()
	for due := true; ; {
		news := f.news() // before the reading: what is revoked after it is news
		revoked, last, err := f.read(ctx, after)
		if err != nil {
			return err
		}
		if due || len(revoked) > 0 {
			if err := send(revoked); err != nil {
				return err
			}
		}
		after, due = last, false
		select {
		case <-news:
		case <-beats.C:
			due = true
		case <-ctx.Done():
			return ctx.Err()
		}
	}
}

func (f *Feed) read(ctx context.Context, after int64) ([]Revocation, int64, error) {
	ctx, cancel := context.WithTimeout(ctx, readTimeout)
	defer cancel()
	return f.store.Revocations(ctx, after, f.now())
}

func (f *Feed) news() <-chan struct{} {
	f.mu.Lock()
	defer f.mu.Unlock()
	return f.changed
}

func (f *Feed) watch(n int) {
	f.mu.Lock()
	defer f.mu.Unlock()
	f.watchers += n
}

func (f *Feed) watched() bool {
	f.mu.Lock()
	defer f.mu.Unlock()
	return f.watchers > 0
}
