package jwks_test

import (
	"context"
	"errors"
	"fmt"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/countersign-mesh/countersign/pkg/userauth"
	"github.com/countersign-mesh/countersign/pkg/userauth/jwks"
)

func TestANewKeyIsFound(t *testing.T) {
	t.Parallel()
	e := new(endpoint)
	a, b := newKey("a"), newKey("b")
	e.publish(a)
	run(t, e, func(t *testing.T, s *jwks.Set) {
		has(t, s, "a")
		changed := s.Changed()
		e.publish(a, b)
		hasNot(t, s, "b", userauth.ErrUnknownKey) // it was fetched a moment ago
		sleep(10 * time.Second)
		has(t, s, "ab") // at once, and not after a minute
		if n := e.fetches.Load(); n != 2 {
			t.Errorf("%d fetches (ATTACKS 57)", n)
		}
		select {
		case <-changed:
		default:
			t.Error("nobody is told of it")
		}
	})
}

func TestAWithdrawnKeyIsGone(t *testing.T) {
	t.Parallel()
	e := new(endpoint)
	a, b := newKey("a"), newKey("b")
	e.publish(a, b)
	run(t, e, func(t *testing.T, s *jwks.Set) {
		has(t, s, "ab")
		e.publish(b)
		sleep(time.Minute)
		has(t, s, "b")
		hasNot(t, s, "a", userauth.ErrUnknownKey)
		e.publish()
		sleep(time.Minute)
		hasNot(t, s, "b", userauth.ErrUnknownKey)
		if err := s.Ready(); err != nil {
			t.Errorf("an issuer that has withdrawn all keys: %v", err)
		}
	})
}

func TestAKeyThatIsReplacedUnderItsName(t *testing.T) {
	t.Parallel()
	e := new(endpoint)
	e.publish(newKey("a"))
	run(t, e, func(t *testing.T, s *jwks.Set) {
		before, _ := s.Key(t.Context(), "a")
		e.publish(newKey("a"))
		sleep(time.Minute)
		if after, err := s.Key(t.Context(), "a"); err != nil || after.Key == before.Key {
			t.Errorf("the key is the same: %v", err)
		}
	})
}

func TestTheEndpointIsAway(t *testing.T) {
	t.Parallel()
	e := new(endpoint)
	e.publish(newKey("a"))
	away := errors.New("away")
	run(t, e, func(t *testing.T, s *jwks.Set) {
		sleep(time.Minute)
		e.answer(nil, away)
		sleep(time.Hour - time.Second)
		has(t, s, "a")
		hasNot(t, s, "b", away) // it may be one that there is: that is not the caller's fault
		sleep(time.Minute)
		hasNot(t, s, "a", away)
		if s.Ready() == nil {
			t.Error("it is ready")
		}
		e.publish(newKey("a"))
		sleep(time.Minute)
		has(t, s, "a")
	})
}

func TestNoKeysAtFirst(t *testing.T) {
	t.Parallel()
	e := new(endpoint)
	away := errors.New("away")
	e.answer(nil, away)
	run(t, e, func(t *testing.T, s *jwks.Set) {
		hasNot(t, s, "a", away)
		if s.Ready() == nil {
			t.Error("it is ready")
		}
		sleep(10 * time.Minute) // however long
		e.publish(newKey("a"))
		sleep(2 * time.Second) // and not a minute: nobody can be let in meanwhile
		if err := s.Ready(); err != nil {
			t.Error(err)
		}
		has(t, s, "a")
	})
}

// A flood of names that nobody has ever given a key makes one fetch each ten seconds, however many ask.
func TestAFloodOfNames(t *testing.T) {
	t.Parallel()
	e := new(endpoint)
	e.publish(newKey("a"))
	run(t, e, func(t *testing.T, s *jwks.Set) {
		before := e.fetches.Load()
		for second := range 100 {
			var flood sync.WaitGroup
			for i := range 50 {
				flood.Go(func() { hasNot(t, s, fmt.Sprintf("%d-%d", second, i), userauth.ErrUnknownKey) })
			}
			flood.Wait()
			has(t, s, "a")
			sleep(time.Second)
		}
		if n := e.fetches.Load() - before; n < 9 || n > 12 { // one each ten seconds, and those of each minute
			t.Errorf("%d fetches in 100 s", n)
		}
	})
}

// All who wait for the same fetch are served by it, and one who gives up does not end it for the others.
func TestOneFetchAtATime(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		e := &endpoint{held: make(chan struct{})}
		e.publish(newKey("a"))
		s := jwks.New(e.fetch)
		impatient, giveUp := context.WithCancel(t.Context())
		var all sync.WaitGroup
		all.Go(func() {
			if _, err := s.Key(impatient, "a"); !errors.Is(err, context.Canceled) {
				t.Error(err)
			}
		})
		synctest.Wait()
		for range 50 {
			all.Go(func() { has(t, s, "a") })
		}
		synctest.Wait()
		giveUp()
		synctest.Wait()
		close(e.held)
		all.Wait()
		if n := e.fetches.Load(); n != 1 {
			t.Errorf("%d fetches", n)
		}
	})
}

func TestAFetchThatHangsEnds(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		e := &endpoint{held: make(chan struct{})}
		began := time.Now()
		hasNot(t, jwks.New(e.fetch), "a", context.DeadlineExceeded)
		if took := time.Since(began); took > 5*time.Second {
			t.Errorf("it took %v", took)
		}
	})
}

// The clock that matters is the one that was given.
func TestTheClock(t *testing.T) {
	t.Parallel()
	e := new(endpoint)
	e.publish(newKey("a"))
	now := time.Unix(1e9, 0)
	s := jwks.New(e.fetch, jwks.WithClock(func() time.Time { return now }), jwks.WithMaxAge(10*time.Minute), jwks.WithPause(time.Minute))
	has(t, s, "a")
	away := errors.New("away")
	e.answer(nil, away)
	now = now.Add(10*time.Minute - 1)
	has(t, s, "a")
	now = now.Add(1)
	hasNot(t, s, "a", away)
	for range 10 {
		hasNot(t, s, "a", away)
	}
	if n := e.fetches.Load(); n != 2 {
		t.Errorf("%d fetches", n)
	}
	now = now.Add(time.Minute)
	e.publish(newKey("a"))
	has(t, s, "a")
}
