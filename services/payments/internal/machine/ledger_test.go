package machine_test

import (
	"context"
	"fmt"
	"slices"

	"github.com/countersign-mesh/countersign/services/payments/internal/payment"
)

// hold is money that the bank's ledger has set aside.
type hold struct {
	account  string
	amount   int64
	captured bool
	released bool
}

func (h *hold) active() bool { return h != nil && !h.captured && !h.released }

// Reserve implements machine.Ledger.
func (b *bank) Reserve(ctx context.Context, p payment.Payment) error {
	b.wasStored(p.ID, payment.Assessed)
	if err := b.fault(ctx, beforeReserve, p.ID); err != nil {
		return err
	}
	if err := b.reserve(p); err != nil {
		return err
	}
	return b.fault(ctx, afterReserve, p.ID)
}

func (b *bank) reserve(p payment.Payment) error {
	b.mu.Lock()
	defer b.mu.Unlock()
	if h := b.holds[p.ID]; h != nil {
		if h.released {
			return payment.ErrHoldReleased
		}
		return nil
	}
	available := b.balances[p.PayerAccountID]
	for _, h := range b.holds {
		if h.active() && h.account == p.PayerAccountID {
			available -= h.amount
		}
	}
	if available < p.Amount.MinorUnits {
		return payment.ErrInsufficientFunds
	}
	b.holds[p.ID] = &hold{account: p.PayerAccountID, amount: p.Amount.MinorUnits}
	return nil
}

// Capture implements machine.Ledger.
func (b *bank) Capture(ctx context.Context, p payment.Payment) error {
	b.wasStored(p.ID, payment.Held)
	if err := b.fault(ctx, beforeLedger, p.ID); err != nil {
		return err
	}
	if err := b.capture(p); err != nil {
		return err
	}
	return b.fault(ctx, afterLedger, p.ID)
}

func (b *bank) capture(p payment.Payment) error {
	b.mu.Lock()
	defer b.mu.Unlock()
	b.attempts[p.ID]++
	h := b.holds[p.ID]
	_, posted := b.posted[p.ID]
	switch {
	case posted:
		return nil
	case h == nil:
		return payment.ErrNoHold
	case h.released:
		return payment.ErrHoldReleased
	case h.captured:
		return payment.ErrHoldCaptured
	}
	if err := b.refuse(p); err != nil {
		return err
	}
	h.captured = true
	b.book(p)
	return nil
}

// Release implements machine.Ledger.
func (b *bank) Release(ctx context.Context, id string) error {
	b.wasStored(id, payment.Releasing, payment.Refused) // refused when a hold may have come late
	if err := b.fault(ctx, beforeRelease, id); err != nil {
		return err
	}
	if err := b.release(id); err != nil {
		return err
	}
	return b.fault(ctx, afterRelease, id)
}

func (b *bank) release(id string) error {
	b.mu.Lock()
	defer b.mu.Unlock()
	h := b.holds[id]
	switch {
	case h == nil:
		return payment.ErrNoHold
	case h.captured:
		return payment.ErrHoldCaptured
	}
	h.released = true
	return nil
}

// Post implements machine.Ledger.
func (b *bank) Post(ctx context.Context, p payment.Payment) error {
	b.wasStored(p.ID, payment.Created)
	if err := b.fault(ctx, beforeLedger, p.ID); err != nil {
		return err
	}
	if err := b.post(p); err != nil {
		return err
	}
	return b.fault(ctx, afterLedger, p.ID)
}

func (b *bank) post(p payment.Payment) error {
	b.mu.Lock()
	defer b.mu.Unlock()
	b.attempts[p.ID]++
	if _, ok := b.posted[p.ID]; ok {
		return nil
	}
	if p.Kind == payment.Transfer && b.balances[p.PayerAccountID] < p.Amount.MinorUnits {
		return payment.ErrInsufficientFunds
	}
	if err := b.refuse(p); err != nil {
		return err
	}
	b.book(p)
	return nil
}

// book changes the balances, the vault's among them.
func (b *bank) book(p payment.Payment) {
	b.posted[p.ID] = p
	b.balances[p.PayerAccountID] -= p.Amount.MinorUnits
	b.balances[p.PayeeAccountID] += p.Amount.MinorUnits
}

// wasStored notes when somebody is asked about a payment who is not to be before it has been in one of the states.
func (b *bank) wasStored(id string, states ...payment.State) {
	b.mu.Lock()
	defer b.mu.Unlock()
	if !slices.ContainsFunc(states, func(s payment.State) bool { return slices.Contains(b.stored[id], s) }) {
		b.wrong = append(b.wrong, fmt.Sprintf("%s was sent before it was stored as one of %v: %v", id, states, b.stored[id]))
	}
}

// store notes that a payment is stored in a state.
func (b *bank) store(p payment.Payment) {
	if p.State == 0 { // it failed
		return
	}
	b.mu.Lock()
	defer b.mu.Unlock()
	if !slices.Contains(b.stored[p.ID], p.State) {
		b.stored[p.ID] = append(b.stored[p.ID], p.State)
	}
}

// history returns the states that a payment was in.
func (b *bank) history(p payment.Payment) ([]payment.State, error) {
	var states []payment.State
	for after := int64(0); ; {
		changes, err := b.observer.Changes(context.Background(), p.PayeeAccountID, after, 100)
		if err != nil {
			return nil, err
		}
		for _, c := range changes {
			after = c.Sequence
			if c.Payment.ID == p.ID {
				states = append(states, c.Payment.State)
			}
		}
		if len(changes) < 100 {
			return states, nil
		}
	}
}
