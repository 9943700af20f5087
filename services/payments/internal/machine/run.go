package machine

import (
	"context"
	"errors"
	"fmt"
	"time"

	"github.com/countersign-mesh/countersign/services/payments/internal/payment"
)

// run is one attempt to finish a payment. Whoever wants the payment at that time waits for the same run.
type run struct {
	done    chan struct{}
	payment payment.Payment
	err     error
}

// wait returns what the run has come to; it does not wait longer than ctx.
func (r *run) wait(ctx context.Context) (payment.Payment, error) {
	select {
	case <-r.done:
		return r.payment, r.err
	case <-ctx.Done():
		return payment.Payment{}, ctx.Err()
	}
}

// start runs a payment, unless it is running. The run does not end with ctx, but keeps what it carries, the trace among it.
func (m *Machine) start(ctx context.Context, id string) *run {
	m.mu.Lock()
	defer m.mu.Unlock()
	if r, ok := m.runs[id]; ok {
		return r
	}
	r := &run{done: make(chan struct{})}
	if m.closed {
		r.err = fmt.Errorf("%w: the service is stopping", payment.ErrOutcomeUnknown)
		close(r.done)
		return r
	}
	m.runs[id] = r
	m.group.Go(func() {
		ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), m.runTimeout)
		defer cancel()
		defer context.AfterFunc(m.life, cancel)() //nolint:contextcheck // the run ends with the machine, not with its caller
		r.payment, r.err = m.finish(ctx, id)
		m.end(ctx, id, r)
	})
	return r
}

func (m *Machine) end(ctx context.Context, id string, r *run) {
	m.mu.Lock()
	delete(m.runs, id)
	if r.err == nil {
		delete(m.retries, id)
	} else {
		failures := m.retries[id].failures + 1
		m.retries[id] = retry{failures: failures, due: time.Now().Add(m.backoff.after(failures))}
	}
	m.mu.Unlock()
	close(r.done)
	if r.err != nil {
		m.log.WarnContext(ctx, "payment is not finished yet", "payment_id", id, "state", r.payment.State.String(), "error", r.err)
		m.wakeWork()
	}
}

// finish takes one step after the other until none is left. On an error it returns the payment as far as it is known.
func (m *Machine) finish(ctx context.Context, id string) (payment.Payment, error) {
	p, err := m.store.Get(ctx, id)
	for err == nil && p.State.Unfinished() {
		var next payment.Payment
		if next, err = m.step(ctx, p); err == nil {
			p = next
			m.news.Changed(p.Accounts()...)
		}
	}
	if err != nil {
		return p, fmt.Errorf("%w: %w", payment.ErrOutcomeUnknown, err)
	}
	return p, nil
}

// step asks whoever is next about a payment and stores the answer.
func (m *Machine) step(ctx context.Context, p payment.Payment) (payment.Payment, error) {
	var next payment.State
	var reasons []payment.Reason
	var err error
	if p.State == payment.Created && p.Kind == payment.Transfer {
		next, reasons, err = m.assess(ctx, p)
	} else {
		next, reasons, err = m.post(ctx, p)
	}
	if err != nil {
		return payment.Payment{}, err
	}
	return m.store.Advance(ctx, p.ID, p.State, next, reasons, m.now())
}

// assess asks risk. Only a clear yes lets a payment go on.
func (m *Machine) assess(ctx context.Context, p payment.Payment) (payment.State, []payment.Reason, error) {
	verdict, reasons, err := m.neighbours.Risk.Assess(ctx, p)
	if err != nil {
		return 0, nil, fmt.Errorf("assess: %w", err)
	}
	switch verdict {
	case payment.Allow:
		return payment.Assessed, nil, nil
	case payment.Refuse:
		return payment.Refused, reasons, nil
	case payment.Hold:
		return payment.Held, reasons, nil
	default:
		return 0, nil, fmt.Errorf("assess: risk gave no verdict that payments knows (%d)", verdict)
	}
}

// post asks the ledger to move the money. A payment is refused or held only on the ledger's word that nothing moved and nothing will;
// any other failure says nothing about the books, so the payment stays where it is and is posted again, under the same ID.
func (m *Machine) post(ctx context.Context, p payment.Payment) (payment.State, []payment.Reason, error) {
	err := m.neighbours.Ledger.Post(ctx, p)
	switch {
	case err == nil:
		return payment.Posted, nil, nil
	case errors.Is(err, payment.ErrInsufficientFunds):
		return payment.Refused, []payment.Reason{{
			Code:    payment.CodeInsufficientFunds,
			Message: "there is not enough money in the account",
		}}, nil
	case errors.Is(err, payment.ErrBalanceOutOfRange):
		return payment.Refused, []payment.Reason{{
			Code:    payment.CodeBalanceOutOfRange,
			Message: "a balance would become larger than the bank can keep",
		}}, nil
	case errors.Is(err, payment.ErrLedgerRejected):
		// A mistake in this service, or somebody at the books: not the customer's doing, and nothing that becomes right by itself.
		m.log.ErrorContext(ctx, "the ledger rejects a payment; it is held until a person has looked", "payment_id", p.ID, "error", err)
		return payment.Held, []payment.Reason{{
			Code:    payment.CodeLedgerRejected,
			Message: "the bank has to look at this payment",
		}}, nil
	default:
		return 0, nil, fmt.Errorf("post: %w", err)
	}
}
