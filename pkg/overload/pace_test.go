package overload

import (
	"math"
	"testing"
	"time"
)

// at is a moment so many seconds after the start.
func at(seconds float64) time.Time {
	return time.Unix(1_000_000_000, 0).Add(time.Duration(seconds * float64(time.Second)))
}

// within asks a pace often enough that a delay outside of the range would show.
func within(t *testing.T, what string, least, most time.Duration, delay func() time.Duration) {
	t.Helper()
	lowest, highest := time.Duration(math.MaxInt64), time.Duration(0)
	for range 1000 {
		d := delay()
		lowest, highest = min(lowest, d), max(highest, d)
	}
	if lowest < least || highest > most {
		t.Errorf("%s: delays from %v to %v, want them from %v to %v", what, lowest, highest, least, most)
	}
	if highest-lowest < (most-least)/2 {
		t.Errorf("%s: delays from %v to %v do not spread the refused over %v to %v", what, lowest, highest, least, most)
	}
}

func TestTheDelayIsWhatASlotTakesToComeFree(t *testing.T) {
	t.Parallel()
	fresh := func(now time.Time, free float64, interval time.Duration) func() time.Duration {
		return func() time.Duration { return new(pace).delay(now, free, interval) }
	}
	within(t, "slots come free every 100 ms", 100*time.Millisecond, 200*time.Millisecond, fresh(at(0), 7, 100*time.Millisecond))
	within(t, "nothing is known yet", minDelay, 2*minDelay, fresh(at(0), 0, 0))
	within(t, "slots come free after a day", maxDelay/2, maxDelay, fresh(at(0), 7, 24*time.Hour))
}

// Those who were refused are to come back one after another, at the pace of the slots that come free for them.
func TestTheMoreAreRefusedTheLongerTheyAreSpread(t *testing.T) {
	t.Parallel()
	waiting := func(refused int, free float64) func() time.Duration {
		return func() time.Duration {
			p := &pace{free: 7, moved: at(0), ahead: float64(refused)}
			return p.delay(at(0.001), 7+free, 10*time.Millisecond)
		}
	}
	within(t, "a hundredth, with nothing free since", 10*time.Millisecond, 1010*time.Millisecond, waiting(99, 0))
	within(t, "a hundredth, with half of them free since", 10*time.Millisecond, 510*time.Millisecond, waiting(99, 50))
	within(t, "a hundredth, long after the others", 10*time.Millisecond, 20*time.Millisecond, waiting(99, 1e6))
	within(t, "a ten thousandth", 10*time.Millisecond, maxDelay, waiting(9999, 0))
}

// A server whose handlers hang gives its callers more and more time, whatever calls took before.
func TestTheDelayGrowsWhileNothingComesFree(t *testing.T) {
	t.Parallel()
	hanging := func(since float64) func() time.Duration {
		return func() time.Duration {
			p := new(pace)
			p.delay(at(0), 7, time.Microsecond)
			return p.delay(at(since), 7, time.Microsecond)
		}
	}
	within(t, "for a second", time.Second, 2*time.Second, hanging(1))
	within(t, "for an hour", maxDelay/2, maxDelay, hanging(3600))
	p := new(pace)
	p.delay(at(0), 7, time.Microsecond)
	p.delay(at(3600), 7, time.Microsecond)
	if d := p.delay(at(3600), 8, time.Microsecond); d > 2*minDelay {
		t.Errorf("when one has come free: %v", d)
	}
}

func TestTheTimeOfACallIsEstimated(t *testing.T) {
	t.Parallel()
	var s slots
	s.allot(10)
	if got := s.interval(); got != 0 {
		t.Errorf("before the first call: %v", got)
	}
	s.time(time.Second)
	if got := s.interval(); got != 100*time.Millisecond {
		t.Errorf("after a call of a second in ten slots: %v", got)
	}
	for range 100 {
		s.time(100 * time.Millisecond)
	}
	if got := s.interval(); got < 10*time.Millisecond || got > 11*time.Millisecond {
		t.Errorf("after many of a tenth of that: %v", got)
	}
}

func TestOnePeersShare(t *testing.T) {
	t.Parallel()
	for n, want := range map[int]int32{1: 1, 2: 2, 3: 3, 4: 3, 5: 4, 8: 6, 512: 384, 1024: 768} {
		var s slots
		if s.allot(n); s.share != want {
			t.Errorf("of %d: %d, want %d", n, s.share, want)
		}
	}
}
