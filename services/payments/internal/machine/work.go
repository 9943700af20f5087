package machine

import (
	"context"
	"maps"
	"math/rand/v2"
	"sync"
	"time"

	"golang.org/x/sync/errgroup"

	"github.com/countersign-mesh/countersign/services/payments/internal/payment"
)

const (
	// sweepPage is how many unfinished payments a sweep reads at a time, sweepWidth how many of them run at once.
	sweepPage  = 100
	sweepWidth = 8
	// idleSweep is how often Work looks for unfinished payments when it knows of none: another process on the same database may
	// have left some.
	idleSweep = 30 * time.Second
)

// retry is when an unfinished payment is to be run again. Each has its own: one that cannot be finished does not hold up others.
type retry struct {
	failures int // in a row
	due      time.Time
}

// Work takes up unfinished payments, at once and then whenever one was left, until ctx ends; it then returns nil. The longer a
// payment cannot be finished, the less often it is tried. Meanwhile it releases what was set aside for payments that had been refused.
func (m *Machine) Work(ctx context.Context) error {
	var releasing sync.WaitGroup
	releasing.Go(func() { m.releaseLate(ctx) })
	defer releasing.Wait()
	var running errgroup.Group
	running.SetLimit(sweepWidth)
	defer func() { _ = running.Wait() }() // what runs return is logged by them
	for failures := 0; ; {
		err := m.sweep(ctx, &running)
		if ctx.Err() != nil {
			return nil // the process stops; what was not finished is taken up by the next one
		}
		if err != nil {
			m.log.ErrorContext(ctx, "cannot take up unfinished payments", "error", err)
			failures++
			pause(ctx, m.backoff.after(failures))
			continue
		}
		failures = 0
		pause(ctx, m.backoff.after(1)) // however many payments come due one after the other, the database is read now and then
		m.idle(ctx)
	}
}

// sweep starts every unfinished payment that is due. It waits for room, and not for what it has started.
func (m *Machine) sweep(ctx context.Context, running *errgroup.Group) error {
	began, unfinished := time.Now(), map[string]bool{}
	for after := int64(0); ; {
		ids, last, err := m.unfinished(ctx, after)
		if err != nil {
			return err
		}
		if len(ids) == 0 {
			m.tidy(began, unfinished)
			return nil
		}
		for _, id := range ids {
			unfinished[id] = true
			if m.running(id) || !m.due(id) {
				continue
			}
			running.Go(func() error {
				r := m.start(ctx, payment.Payment{ID: id})
				select {
				case <-r.done: // what it has come to is logged by the run
				case <-ctx.Done():
				}
				return nil
			})
		}
		if ctx.Err() != nil {
			return ctx.Err()
		}
		after = last
	}
}

// unfinished reads a page. A database that went without a word gives no error for many minutes, unless somebody gives up.
func (m *Machine) unfinished(ctx context.Context, after int64) (ids []string, last int64, err error) {
	ctx, cancel := context.WithTimeout(ctx, readTimeout)
	defer cancel()
	return m.store.Unfinished(ctx, after, sweepPage)
}

func (m *Machine) running(id string) bool {
	m.mu.Lock()
	defer m.mu.Unlock()
	_, runs := m.runs[id]
	return runs
}

// due reports whether a payment is to be run by now: not so soon after a run that failed.
func (m *Machine) due(id string) bool {
	m.mu.Lock()
	defer m.mu.Unlock()
	return !m.retries[id].due.After(time.Now())
}

// forget makes a payment be due, as if no run of it had failed.
func (m *Machine) forget(id string) {
	m.mu.Lock()
	defer m.mu.Unlock()
	delete(m.retries, id)
}

// tidy drops what was due by the beginning of a sweep that did not find it: another process has finished it.
func (m *Machine) tidy(began time.Time, unfinished map[string]bool) {
	m.mu.Lock()
	defer m.mu.Unlock()
	maps.DeleteFunc(m.retries, func(id string, r retry) bool { return !unfinished[id] && !r.due.After(began) })
}

// untilDue returns how long it is until the next payment is due, at most idleSweep.
func (m *Machine) untilDue() time.Duration {
	m.mu.Lock()
	defer m.mu.Unlock()
	next := idleSweep
	for id, r := range m.retries {
		if _, runs := m.runs[id]; !runs { // one that runs tells when it ends
			next = min(next, time.Until(r.due))
		}
	}
	return max(next, 0)
}

func (m *Machine) wakeWork() {
	select {
	case m.wake <- struct{}{}:
	default: // it will wake up anyway
	}
}

// idle waits until there is something to do, or may be.
func (m *Machine) idle(ctx context.Context) {
	timer := time.NewTimer(m.untilDue())
	defer timer.Stop()
	select {
	case <-m.wake:
	case <-timer.C:
	case <-ctx.Done():
	}
}

func pause(ctx context.Context, d time.Duration) {
	timer := time.NewTimer(d)
	defer timer.Stop()
	select {
	case <-timer.C:
	case <-ctx.Done():
	}
}

// backoff doubles from least to most.
type backoff struct {
	least, most time.Duration
}

// after returns how long to wait after so many failures in a row. It is spread over the upper half, so that instances that
// failed together do not come back together.
func (b backoff) after(failures int) time.Duration {
	d := b.most
	if shift := failures - 1; shift < 30 && b.least<<shift < b.most {
		d = b.least << shift
	}
	return d/2 + rand.N(d/2+1) //nolint:gosec // G404: jitter is no secret
}
