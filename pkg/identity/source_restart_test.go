package identity_test

import (
	"log/slog"
	"testing"
	"time"

	"github.com/countersign-mesh/countersign/pkg/identity"
	"github.com/countersign-mesh/countersign/pkg/meshtest"
)

// ATTACKS 28: the pauses of a Source are spread, and bounded: the first by 250 ms, each by 2 s.
func TestBackoffIsSpreadAndBounded(t *testing.T) {
	t.Parallel()
	for attempt, ceiling := range map[int]time.Duration{
		0: 250 * time.Millisecond, 1: 500 * time.Millisecond, 2: time.Second,
		3: 2 * time.Second, 4: 2 * time.Second, 100: 2 * time.Second, 1 << 40: 2 * time.Second,
	} {
		slots := make(map[time.Duration]int)
		for range 200 {
			pause := identity.Backoff(attempt)
			if pause < ceiling/5 || pause > ceiling {
				t.Fatalf("attempt %d after %v, want %v to %v", attempt, pause, ceiling/5, ceiling)
			}
			slots[pause*10/ceiling]++ // tenths of the ceiling: eight are possible
		}
		if len(slots) < 7 {
			t.Errorf("attempt %d: 200 pauses fall into %d tenths of the ceiling: %v", attempt, len(slots), slots)
		}
	}
}

// ATTACKS 28: the clients of an API that restarts do not all come back at once, and all come back within five seconds.
func TestFiftyClientsOfARestartedAPIComeBackSpread(t *testing.T) {
	t.Parallel()
	const clients = 50
	ca, api := meshtest.NewCA(t, "bank.test"), meshtest.NewWorkloadAPI(t)
	api.Grant(t, ca.SVID(t, "/payments"), ca.Bundle())
	sources := make([]*identity.Source, clients)
	for i := range sources {
		source, err := identity.New(t.Context(), identity.WithSocket(api.Addr()), identity.WithLogger(slog.New(slog.DiscardHandler)))
		if err != nil {
			t.Fatal(err)
		}
		t.Cleanup(func() { _ = source.Close() })
		sources[i] = source
	}
	// A machine that stands still for a moment bunches what was spread, but not three times. Clients that wait alike bunch each time.
	for round := 1; ; round++ {
		api.Stop()
		failures := make([]int, clients)
		for i, s := range sources {
			failures[i] = s.Status().Failures
		}
		for i, s := range sources {
			eventually(t, "the pauses are at their longest", func() bool { return s.Status().Failures >= failures[i]+4 })
		}
		arrivals := restart(t, api, clients)
		most, span := densest(arrivals, 100*time.Millisecond), arrivals[clients-1].Sub(arrivals[0])
		t.Logf("round %d: %d clients back within %v, at most %d within 100 ms", round, clients, span.Round(time.Millisecond), most)
		if span > 5*time.Second {
			t.Errorf("the last client is back after %v", span)
		}
		if most <= clients/2 {
			return
		}
		if round == 3 {
			t.Fatalf("%d of %d clients came back within the same 100 ms", most, clients)
		}
	}
}

// restart starts the API again and returns when, and how many streams after that were opened.
func restart(t *testing.T, api *meshtest.WorkloadAPI, clients int) []time.Time {
	t.Helper()
	before := api.Streams()
	arrivals := []time.Time{}
	api.Start(t)
	eventually(t, "every client is back", func() bool {
		for now := time.Now(); len(arrivals) < api.Streams()-before; {
			arrivals = append(arrivals, now)
		}
		return len(arrivals) >= clients
	})
	return arrivals
}

// densest returns how many of the times, which are in order, fall into the window that holds most of them.
func densest(times []time.Time, window time.Duration) int {
	most, first := 0, 0
	for last := range times {
		for times[last].Sub(times[first]) > window {
			first++
		}
		most = max(most, last-first+1)
	}
	return most
}

// An SVID that is about to expire makes the attempts more frequent: an API that is up for moments only would else be missed each time.
func TestSourceIsLessPatientTheLessIsLeft(t *testing.T) {
	t.Parallel()
	f := newFixture(t) // an SVID of an hour
	for _, c := range []struct {
		name     string
		jump     time.Duration
		min, max time.Duration
	}{
		{"most of an hour left", 0, 2 * time.Second, 2 * time.Second},
		{"ten seconds left", 59*time.Minute + 50*time.Second, 800 * time.Millisecond, time.Second},
		// What is left is up to a second less than it seems: an SVID's time of expiry has no fractions (RFC 5280, section 4.1.2.5).
		{"a second left, or two", 8 * time.Second, 250 * time.Millisecond, 250 * time.Millisecond},
		{"expired", time.Minute, 2 * time.Second, 2 * time.Second},
	} {
		f.clock.jump(c.jump)
		if got := f.source.Patience(); got < c.min || got > c.max {
			t.Errorf("%s: %v, want %v to %v", c.name, got, c.min, c.max)
		}
	}
}
