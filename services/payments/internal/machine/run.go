package machine

import (
	"context"
	"errors"
	"sync/atomic"
	"time"

	"github.com/countersign-mesh/countersign/services/payments/internal/payment"
)

// errStopping is why a payment is not finished by a machine that was closed.
var errStopping = errors.New("the service is stopping")

// run is one attempt to finish a payment. Whoever wants the payment at that time waits for the same run.
type run struct {
	done    chan struct{}
	payment atomic.Pointer[payment.Payment] // as it was last seen in the store
}

// carry runs a payment, of which the caller knows as much as p, and returns it when it can go no further, or as it stands when that takes
// longer than a caller's patience. It does not wait longer than ctx.
func (m *Machine) carry(ctx context.Context, p payment.Payment) (payment.Payment, error) {
	timer := time.NewTimer(m.patience)
	defer timer.Stop()
	for {
		r := m.start(ctx, p)
		patient := true
		select {
		case <-r.done:
		case <-timer.C:
			patient = false
		case <-ctx.Done():
			return payment.Payment{}, ctx.Err()
		}
		if got := *r.payment.Load(); got.Version >= p.Version {
			return got, nil
		}
		// The run had read the payment before it became what the caller knows.
		if !patient {
			return p, nil
		}
		m.forget(p.ID)
	}
}

// start runs a payment, of which the caller knows as much as p, unless it is running. The run does not end with ctx, but keeps what it
// carries, the trace among it.
func (m *Machine) start(ctx context.Context, p payment.Payment) *run {
	m.mu.Lock()
	defer m.mu.Unlock()
	if r, ok := m.runs[p.ID]; ok {
		return r
	}
	r := &run{done: make(chan struct{})}
	r.saw(p)
	if m.closed {
		close(r.done)
		return r
	}
	m.runs[p.ID] = r
	m.group.Go(func() {
		ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), askTimeout+storeTimeout)
		defer cancel()
		defer context.AfterFunc(m.life, cancel)() //nolint:contextcheck // the run ends with the machine, not with its caller
		m.end(ctx, r, m.finish(ctx, r))
	})
	return r
}

// end notes when a payment that was not finished, for the reason err, is to be run again.
func (m *Machine) end(ctx context.Context, r *run, err error) {
	p := r.payment.Load()
	m.mu.Lock()
	delete(m.runs, p.ID)
	if err == nil {
		delete(m.retries, p.ID)
	} else {
		failures := m.retries[p.ID].failures + 1
		m.retries[p.ID] = retry{failures: failures, due: time.Now().Add(m.backoff.after(failures))}
	}
	m.mu.Unlock()
	close(r.done)
	if err != nil {
		m.log.WarnContext(ctx, "payment is not finished yet", "payment_id", p.ID, "state", p.State.String(), "error", err)
		m.wakeWork()
	}
}

// finish takes one step after the other until none is left, or one cannot be taken at the moment; the error is then why.
func (m *Machine) finish(ctx context.Context, r *run) error {
	ask, cancel := context.WithTimeout(ctx, askTimeout)
	defer cancel()
	p, err := m.store.Get(ctx, r.payment.Load().ID)
	if err != nil {
		return err
	}
	for {
		r.saw(p)
		if !p.Unfinished() {
			return nil
		}
		if m.life.Err() != nil {
			return errStopping
		}
		next := m.ask(ask, p)
		if next.to == 0 {
			return next.stop
		}
		p, err = m.store.Advance(ctx, p, payment.Step{To: next.to, Reasons: next.reasons, Time: m.now()})
		if err != nil {
			return err
		}
		m.news.Changed(p.Accounts()...)
		if next.to == payment.Held && p.State == payment.Refused {
			m.holdCame(ctx, p.ID)
		}
		if next.stop != nil && p.State == next.to { // not where another process was first
			r.saw(p)
			return next.stop
		}
	}
}

// saw notes how a payment stands in the store.
func (r *run) saw(p payment.Payment) { r.payment.Store(&p) }
