// Package limit bounds how often something is tried, by whom.
package limit

import (
	"sync"
	"time"

	lru "github.com/hashicorp/golang-lru/v2"
	"golang.org/x/time/rate"
)

// remembered bounds how many names are remembered: those that took an attempt last. A name that is forgotten has all its attempts again, so whoever is
// counted must not come by other names faster than a forgotten one would have rested anyway.
const remembered = 10_000

// Limiter bounds attempts by name. Each process counts for itself. It is safe for concurrent use.
type Limiter struct {
	every time.Duration
	burst int
	now   func() time.Time

	mu    sync.Mutex
	names *lru.Cache[string, *rate.Limiter]
}

// New returns a Limiter that lets each name have one attempt every so often, and burst at once after a rest.
func New(every time.Duration, burst int, now func() time.Time) *Limiter {
	names, err := lru.New[string, *rate.Limiter](remembered)
	if err != nil {
		panic(err) // it fails for a size that is not positive
	}
	return &Limiter{every: every, burst: burst, now: now, names: names}
}

// Wait returns how long a name has to wait for its next attempt, and takes none. A name that has taken none yet is not remembered for it.
func (l *Limiter) Wait(name string) time.Duration {
	l.mu.Lock()
	defer l.mu.Unlock()
	attempts, ok := l.names.Get(name)
	if !ok {
		return 0
	}
	now := l.now()
	next := attempts.ReserveN(now, 1)
	defer next.CancelAt(now)
	return next.DelayFrom(now)
}

// Take takes an attempt. When there is none left, it takes none and returns how long to wait for the next.
func (l *Limiter) Take(name string) (wait time.Duration) {
	l.mu.Lock()
	defer l.mu.Unlock()
	attempts, ok := l.names.Get(name)
	if !ok {
		attempts = rate.NewLimiter(rate.Every(l.every), l.burst)
		l.names.Add(name, attempts)
	}
	now := l.now()
	next := attempts.ReserveN(now, 1)
	if wait = next.DelayFrom(now); wait > 0 {
		next.CancelAt(now)
	}
	return wait
}
