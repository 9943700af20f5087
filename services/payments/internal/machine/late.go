package machine

import (
	"context"
	"errors"
	"fmt"
	"time"

	"golang.org/x/sync/errgroup"

	"github.com/countersign-mesh/countersign/services/payments/internal/payment"
)

// releaseLate releases what was set aside for payments that had been refused, whenever it is due, until ctx ends. It has its own pace and its
// own room: however many such payments somebody makes, and however slow the ledger is to release, the others are carried on.
func (m *Machine) releaseLate(ctx context.Context) {
	for failures := 0; ; {
		err := m.releaseDue(ctx)
		if ctx.Err() != nil {
			return
		}
		if err != nil {
			m.log.WarnContext(ctx, "cannot release everything that may be set aside for refused payments", "error", err)
			failures++
			pause(ctx, m.backoff.after(failures))
			continue
		}
		failures = 0
		pause(ctx, idleSweep)
	}
}

// releaseDue goes once through all that is due by now. What cannot be released stays due, and those behind it have their turn all the same.
// It returns an error when something is left.
func (m *Machine) releaseDue(ctx context.Context) error {
	var running errgroup.Group
	running.SetLimit(sweepWidth)
	now := m.now() // what comes due on the way is for the next time
	for after := (payment.LateHold{}); ; {
		page, err := m.lateHolds(ctx, now, after)
		if err != nil {
			return errors.Join(err, running.Wait())
		}
		for _, late := range page {
			running.Go(func() error { return m.releaseHold(ctx, late.PaymentID) })
		}
		if len(page) < sweepPage || ctx.Err() != nil {
			return running.Wait()
		}
		after = page[len(page)-1]
	}
}

func (m *Machine) lateHolds(ctx context.Context, now time.Time, after payment.LateHold) ([]payment.LateHold, error) {
	ctx, cancel := context.WithTimeout(ctx, readTimeout)
	defer cancel()
	return m.store.LateHolds(ctx, now, after, sweepPage)
}

// holdCame releases the hold that a run was given for a payment which another process has refused meanwhile. This run alone knows of it for
// sure: what Work knows of the refusal may be worked off by now. It is noted first, for Work to release it if this process ends here.
func (m *Machine) holdCame(ctx context.Context, id string) {
	err := errors.Join(m.store.HoldCame(ctx, id, m.now()), m.releaseHold(ctx, id))
	if err != nil {
		m.log.WarnContext(ctx, "cannot release at once what was set aside for a refused payment", "payment_id", id, "error", err)
	}
}

// releaseHold releases what may be set aside for a refused payment.
func (m *Machine) releaseHold(ctx context.Context, id string) error {
	ctx, cancel := context.WithTimeout(ctx, askTimeout+storeTimeout)
	defer cancel()
	ask, cancelAsk := context.WithTimeout(ctx, askTimeout)
	defer cancelAsk()
	err := m.neighbours.Ledger.Release(ask, id)
	if errors.Is(err, payment.ErrHoldCaptured) { // by whom? Nobody asks to capture for a payment that never was held
		m.log.ErrorContext(ctx, "the hold of a refused payment was captured", "payment_id", id)
	} else if err != nil && !errors.Is(err, payment.ErrNoHold) {
		return fmt.Errorf("release the hold of refused payment %s: %w", id, err)
	}
	if err := m.store.Released(ctx, id); err != nil {
		return fmt.Errorf("refused payment %s: %w", id, err) // it is released once more
	}
	return nil
}
