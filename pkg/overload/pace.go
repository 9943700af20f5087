package overload

import (
	"math/rand/v2"
	"sync"
	"time"
)

const (
	// minDelay is the shortest delay that a refused call is told. Coming back sooner is asking without a pause.
	minDelay = 5 * time.Millisecond
	// maxDelay is the longest: an estimate that says more is not to be relied on, and what took so long may be over.
	maxDelay = 10 * time.Second
)

// pace tells refused calls when to come back. It is asked by refused calls only, so that those that go on do not pay for it. It is safe for
// concurrent use; the zero value is ready.
type pace struct {
	mu sync.Mutex
	// free is how many places had come free at the last refusal, and moved when a refusal last found that there were more.
	free  float64
	moved time.Time
	// ahead is how many were told to come back and have not had a place come free for them since.
	ahead float64
}

// delay returns when a call that is refused now is to come back. Places come free at intervals, and free of them have so far.
//
// The next place is free after an interval; where none has come free for longer than that, it is taken to last at least as long again. Those
// refused before are to come back too, and there has to be a place for each: the delay is drawn from as much time as that takes. So the
// refused are spread over the time in which the server can take them, and do not come back together.
func (p *pace) delay(now time.Time, free float64, interval time.Duration) time.Duration {
	p.mu.Lock()
	if p.moved.IsZero() || free > p.free {
		p.ahead = max(0, p.ahead-(free-p.free))
		p.free, p.moved = free, now
	}
	p.ahead++
	least := max(interval, now.Sub(p.moved), minDelay).Seconds()
	spread := max(p.ahead*interval.Seconds(), least)
	p.mu.Unlock()
	least = min(least, maxDelay.Seconds()/2)
	spread = min(spread, maxDelay.Seconds()-least)
	return time.Duration((least + rand.Float64()*spread) * float64(time.Second)) //nolint:gosec // spreads callers, and is no secret
}
