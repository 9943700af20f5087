package bank

import (
	"context"
	"fmt"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"google.golang.org/grpc/status"
)

// Outcome is how one call went.
type Outcome struct {
	Caller     string
	Begin, End time.Time
	Err        error
}

// Callers are clients that call over and over, each one call after another, and try nothing again: a call that failed has failed.
// They are safe for concurrent use.
type Callers struct {
	stop    context.CancelFunc
	calling sync.WaitGroup

	mu       sync.Mutex
	outcomes []Outcome
	failed   int
}

const (
	// pace is the time between the beginnings of two calls of one caller, as long as calls take less.
	pace = 20 * time.Millisecond
	// answerTime is how long a call may take before it has failed.
	answerTime = 20 * time.Second
)

// NewCallers returns no callers yet. Those that are added stop with Stop, and at the latest with the test.
func NewCallers(t testing.TB) *Callers {
	t.Helper()
	c := &Callers{stop: func() {}}
	t.Cleanup(func() { c.Stop() })
	return c
}

// Add starts callers that go by these names. Each is given the numbers of its calls, from 0 on.
func (c *Callers) Add(ctx context.Context, call func(ctx context.Context, caller string, n int) error, names ...string) {
	ctx, cancel := context.WithCancel(ctx)
	c.mu.Lock()
	stop := c.stop
	c.stop = func() { stop(); cancel() }
	c.mu.Unlock()
	for _, name := range names {
		c.calling.Go(func() {
			tick := time.NewTicker(pace)
			defer tick.Stop()
			for n := 0; ctx.Err() == nil; n++ {
				c.one(ctx, name, n, call)
				select {
				case <-tick.C:
				case <-ctx.Done():
				}
			}
		})
	}
}

// one makes one call. One that has begun goes to its end, though its caller is told to stop.
func (c *Callers) one(ctx context.Context, name string, n int, call func(context.Context, string, int) error) {
	ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), answerTime)
	defer cancel()
	o := Outcome{Caller: name, Begin: time.Now()}
	o.Err = call(ctx, name, n)
	o.End = time.Now()
	c.mu.Lock()
	defer c.mu.Unlock()
	c.outcomes = append(c.outcomes, o)
	if o.Err != nil {
		c.failed++
	}
}

// Failed returns how many calls have failed so far.
func (c *Callers) Failed() int {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.failed
}

// Outcomes returns how the calls of some callers went so far, in the order of their ends; of all callers when none is named.
func (c *Callers) Outcomes(names ...string) []Outcome {
	c.mu.Lock()
	defer c.mu.Unlock()
	return slices.DeleteFunc(slices.Clone(c.outcomes), func(o Outcome) bool {
		return len(names) > 0 && !slices.Contains(names, o.Caller)
	})
}

// Stop ends every caller after its call and returns all outcomes.
func (c *Callers) Stop() []Outcome {
	c.mu.Lock()
	stop := c.stop
	c.mu.Unlock()
	stop()
	c.calling.Wait()
	return c.Outcomes()
}

// Failures returns the outcomes that are errors.
func Failures(outcomes []Outcome) []Outcome {
	return slices.DeleteFunc(slices.Clone(outcomes), func(o Outcome) bool { return o.Err == nil })
}

// Describe says how the first few of these calls went, one a line.
func Describe(outcomes []Outcome) string {
	const few = 10
	var b strings.Builder
	for i, o := range outcomes {
		if i == few {
			fmt.Fprintf(&b, "… and %d more\n", len(outcomes)-few)
			break
		}
		fmt.Fprintf(&b, "%s %s after %v: %v: %s\n", o.Begin.Format(clock), o.Caller,
			o.End.Sub(o.Begin).Round(time.Millisecond), status.Code(o.Err), status.Convert(o.Err).Message())
	}
	return b.String()
}

// Durations says how long calls took.
func Durations(outcomes []Outcome) string {
	if len(outcomes) == 0 {
		return "no call"
	}
	took := make([]time.Duration, len(outcomes))
	for i, o := range outcomes {
		took[i] = o.End.Sub(o.Begin)
	}
	slices.Sort(took)
	at := func(percent int) time.Duration { return took[(len(took)-1)*percent/100].Round(100 * time.Microsecond) }
	return fmt.Sprintf("half of them within %v, 99 %% within %v, all within %v", at(50), at(99), at(100))
}

// clock is how logs and outcomes write the time of day.
const clock = "15:04:05.000"
