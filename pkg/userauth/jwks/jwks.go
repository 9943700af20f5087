// Package jwks keeps the public keys of an issuer of tokens, a JWK Set (RFC 7517 §5) that is fetched again and again.
//
// What strangers send makes it fetch no more than now and then, and an issuer that cannot be reached is no outage for a while.
package jwks

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"sync"
	"sync/atomic"
	"time"

	"github.com/go-jose/go-jose/v4"
	"golang.org/x/sync/singleflight"

	"github.com/countersign-mesh/countersign/pkg/userauth"
)

// fetchTimeout bounds one fetch.
const fetchTimeout = 5 * time.Second

// errNone is why there are no keys before the first fetch that succeeded.
var errNone = errors.New("the keys were not fetched yet")

// Set is the keys of one issuer. It is safe for concurrent use.
type Set struct {
	fetch    func(context.Context) ([]byte, error)
	interval time.Duration
	pause    time.Duration
	maxAge   time.Duration
	now      func() time.Time
	log      *slog.Logger

	flights singleflight.Group
	current atomic.Pointer[keys]

	mu      sync.Mutex
	changed chan struct{}
	// tried is when the last fetch began, fetching whether it is under way, and failed why the last that ended gave nothing; nil if it gave keys.
	tried    time.Time
	fetching bool
	failed   error
}

// Option changes a default of New.
type Option func(*Set)

// WithInterval sets how often Run fetches; a minute by default. A key that is withdrawn is believed for that long.
func WithInterval(d time.Duration) Option { return func(s *Set) { s.interval = d } }

// WithPause sets how much time must be between two fetches that keys of unknown names ask for; 10 s by default.
func WithPause(d time.Duration) Option { return func(s *Set) { s.pause = d } }

// WithMaxAge sets for how long keys are believed when they cannot be fetched again; an hour by default.
func WithMaxAge(d time.Duration) Option { return func(s *Set) { s.maxAge = d } }

// WithClock sets the clock; time.Now by default.
func WithClock(now func() time.Time) Option { return func(s *Set) { s.now = now } }

// WithLogger sets where it is said that keys are bad or cannot be fetched; nowhere by default.
func WithLogger(log *slog.Logger) Option { return func(s *Set) { s.log = log } }

// New returns a Set without keys. fetch returns a JWK Set as JSON; it is called by one goroutine at a time.
func New(fetch func(ctx context.Context) ([]byte, error), opts ...Option) *Set {
	s := &Set{
		fetch: fetch, interval: time.Minute, pause: 10 * time.Second, maxAge: time.Hour, now: time.Now,
		log: slog.New(slog.DiscardHandler),
	}
	for _, opt := range opts {
		opt(s)
	}
	return s
}

// Key returns the key of a name. For a name that is not known the keys are fetched anew, unless they were a moment ago. It fails with
// userauth.ErrUnknownKey when there is none of that name, and with another error when that cannot be said: there are no keys yet, those that there are
// have become too old, or the last fetch failed.
func (s *Set) Key(ctx context.Context, kid string) (jose.JSONWebKey, error) {
	if key, ok := s.find(kid); ok {
		return key, nil
	}
	if err := s.refresh(ctx); err != nil {
		return jose.JSONWebKey{}, err
	}
	if key, ok := s.find(kid); ok {
		return key, nil
	}
	return jose.JSONWebKey{}, s.absence()
}

// Ready fails while there are no keys, or only such as have become too old.
func (s *Set) Ready() error {
	now := s.current.Load()
	switch {
	case now == nil:
		return errNone
	case s.now().Sub(now.fetched) >= s.maxAge:
		return fmt.Errorf("the keys are %v old", s.now().Sub(now.fetched).Round(time.Second))
	default:
		return nil
	}
}

// Changed returns a channel that is closed when the keys are others than now.
func (s *Set) Changed() <-chan struct{} {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.changed == nil {
		s.changed = make(chan struct{})
	}
	return s.changed
}

func (s *Set) find(kid string) (jose.JSONWebKey, bool) {
	now := s.current.Load()
	if now == nil || s.now().Sub(now.fetched) >= s.maxAge {
		return jose.JSONWebKey{}, false
	}
	key, ok := now.byID[kid]
	return key, ok
}

// absence is why there is no key of a name.
func (s *Set) absence() error {
	s.mu.Lock()
	failed := s.failed
	s.mu.Unlock()
	if failed != nil {
		return fmt.Errorf("fetch the keys: %w", failed)
	}
	if err := s.Ready(); err != nil {
		return err
	}
	return userauth.ErrUnknownKey
}
