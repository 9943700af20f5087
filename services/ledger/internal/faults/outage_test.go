package faults_test

import (
	"context"
	"errors"
	"fmt"
	"sync/atomic"
	"testing"

	"golang.org/x/sync/errgroup"
)

// enough transfers go well, or not, before an outage begins or ends.
const enough = 3 * payers

// outage is something that takes the books' database away while transfers are on their way.
type outage struct {
	// strike takes it away, and mend gives it back.
	strike, mend func() error
	// times is how often that happens.
	times int
}

// seen is what one payer was told during outages.
type seen struct {
	*payer
	count            int  // of transfers, whatever became of them
	open             []op // that are not known to have taken place
	refused, unknown atomic.Int64
}

// try sends the next transfer once.
func (s *seen) try(ctx context.Context, once caller) error {
	s.count++
	o := s.transfer(s.count)
	a, err := once(ctx, o)
	if err != nil {
		return err
	}
	switch a.Code {
	case done:
		s.acknowledged.Add(1)
		return nil
	case refused:
		s.refused.Add(1)
	case unknown:
		s.unknown.Add(1)
	default:
		return fmt.Errorf("a transfer in an outage was answered %v: %s", a.Code, a.Text)
	}
	s.open = append(s.open, o)
	return nil
}

// honest checks what is in the books against what was said: all that was acknowledged, nothing that was refused, and of what is unknown
// whatever it is.
func (s *seen) honest(ctx context.Context, call caller) error {
	a, err := call(ctx, op{Kind: balance, Group: s.group, Whose: s.to})
	if least := s.acknowledged.Load(); err == nil && (a.Code != done || a.Balance < least || a.Balance > least+s.unknown.Load()) {
		err = fmt.Errorf("the balance is %d (%v), with %d transfers acknowledged and %d unknown", a.Balance, a.Code, least, s.unknown.Load())
	}
	return err
}

// settle sends again what is open.
func (s *seen) settle(ctx context.Context, call caller) error {
	for _, o := range s.open {
		a, err := call(ctx, o)
		if err != nil {
			return err
		}
		if a.Code != done {
			return fmt.Errorf("a transfer that was sent again was answered %v: %s", a.Code, a.Text)
		}
		s.acknowledged.Add(1)
	}
	return nil
}

// mustSurvive is survive for books without a fault.
func mustSurvive(t *testing.T, once caller, o outage) (refusals, unknowns int64) {
	t.Helper()
	refusals, unknowns, err := survive(t, once, o)
	if err != nil {
		t.Fatal(err)
	}
	t.Logf("%d were refused and %d unknown", refusals, unknowns)
	if refusals+unknowns == 0 {
		t.Error("no transfer met with the outage")
	}
	return refusals, unknowns
}

// survive lets payers pay through outages: every transfer is acknowledged for good, or refused, or said to be unknown; and when the database is
// back, the same transfers again all succeed, once. once sends an operation a single time. It returns how often each was said.
func survive(t *testing.T, once caller, o outage) (refusals, unknowns int64, err error) {
	t.Helper()
	all := make([]*seen, payers)
	for i, p := range newPayers() {
		all[i] = &seen{payer: p}
	}
	running, ctx := errgroup.WithContext(t.Context())
	var (
		stopped           atomic.Bool
		answers, failures atomic.Int64
	)
	for _, one := range all {
		running.Go(func() error {
			for !stopped.Load() {
				before := one.acknowledged.Load()
				if err := one.try(ctx, once); err != nil {
					return err
				}
				if one.acknowledged.Load() > before {
					answers.Add(1)
				} else if failures.Add(1) > 2*enough { // more of the same tells nothing more
					await(ctx, func() bool { return stopped.Load() || failures.Load() <= 2*enough })
				}
			}
			return nil
		})
	}
	for range o.times {
		answers.Store(0)
		await(ctx, func() bool { return answers.Load() > enough })
		failures.Store(0)
		err = o.strike()
		bounded(ctx, func() bool { return failures.Load() > enough })
		err = errors.Join(err, o.mend())
		failures.Store(0)
		if err != nil {
			break
		}
	}
	answers.Store(0)
	await(ctx, func() bool { failures.Store(0); return err != nil || answers.Load() > enough }) // it serves again, by itself
	stopped.Store(true)
	if err := errors.Join(err, running.Wait()); err != nil {
		return 0, 0, err
	}
	return settleAll(t, once, all)
}

// settleAll compares the books with what the payers were told, and lets them send again what is open.
func settleAll(t *testing.T, once caller, all []*seen) (refusals, unknowns int64, err error) {
	t.Helper()
	call := func(ctx context.Context, o op) (answer, error) {
		return insist(ctx, func(ctx context.Context) (answer, error) { return once(ctx, o) })
	}
	settling, ctx := errgroup.WithContext(t.Context())
	plain := make([]*payer, len(all))
	for i, one := range all {
		settling.Go(func() error {
			if err := one.honest(ctx, call); err != nil {
				return err
			}
			return one.settle(ctx, call)
		})
		plain[i] = one.payer
		refusals += one.refused.Load()
		unknowns += one.unknown.Load()
	}
	if err := settling.Wait(); err != nil {
		return 0, 0, err
	}
	return refusals, unknowns, settled(t, call, plain)
}
