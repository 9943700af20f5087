package workload

import (
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"slices"
	"time"

	"github.com/countersign-mesh/countersign/services/authority/internal/attest"
	"github.com/countersign-mesh/countersign/services/authority/internal/registration"
)

const (
	// clockInterval is how often a stream looks at the wall clock. A timer alone would stand still while the machine sleeps, and
	// would not notice a clock that is set.
	clockInterval = time.Second
	// clockStep is how far back the clock must go to be noticed.
	clockStep = time.Second
	// jitter spreads the renewals of workloads that started together.
	jitter = 0.1
	// minRenewal keeps an SVID whose authority is about to end from being renewed without pause.
	minRenewal = 500 * time.Millisecond
)

// entitled returns the caller and its entries. It asks the kernel each time: what was true of the process at the last message
// need not be true any more.
func (s *Server) entitled(ctx context.Context) (attest.Process, []*registration.Entry, error) {
	caller, err := attest.FromContext(ctx)
	if err != nil {
		return attest.Process{}, nil, err
	}
	process, err := caller.Process()
	registry := s.entries.Current()
	// Everybody on the machine may call: what is dear is done only for whom it can make a difference.
	if err == nil && registry.NeedsSum(process.Selectors()) {
		process, err = caller.Measured(ctx)
	}
	switch {
	case errors.Is(err, attest.ErrNoProcess):
		s.metrics.denied.Inc()
		s.denials.unattested(ctx, err)
		return attest.Process{}, nil, err
	case err != nil:
		return attest.Process{}, nil, err
	}
	entries := registry.Match(process.Selectors())
	if len(entries) == 0 {
		s.metrics.denied.Inc()
		s.denials.unmatched(ctx, process, caller.Measured)
		return attest.Process{}, nil, fmt.Errorf("%w: the caller matches none: %v", errNoIdentity, process.Selectors())
	}
	return process, entries, nil
}

// follow pushes a complete message at once, and again when changed says so, when the caller's entries change, and when the time
// that push has returned is there. The caller is attested and matched before each.
func (s *Server) follow(ctx context.Context, method string, changed func() <-chan struct{},
	push func(attest.Process, []*registration.Entry) (renew time.Time, err error),
) error {
	streams := s.metrics.streams.WithLabelValues(method)
	streams.Inc()
	defer streams.Dec()
	var held []*registration.Entry
	var pushed, renew time.Time
	for due := true; ; {
		// Before anything is read, so that no change falls between reading and waiting.
		bundleChanged, entriesChanged := changed(), s.entries.Changed()
		process, entries, err := s.entitled(ctx)
		if err != nil {
			return err
		}
		if due || !slices.EqualFunc(held, entries, (*registration.Entry).Equal) {
			pushed = s.authority.Now()
			if renew, err = push(process, entries); err != nil {
				return err
			}
			held = entries
		}
		due, err = s.wait(ctx, pushed, renew, bundleChanged, entriesChanged)
		if err != nil {
			return err
		}
	}
}

// wait returns when there may be something to push. due says that there is; otherwise the entries have to be compared.
func (s *Server) wait(ctx context.Context, pushed, renew time.Time, bundleChanged, entriesChanged <-chan struct{}) (due bool, err error) {
	for {
		var timer <-chan time.Time
		if !renew.IsZero() {
			now := s.authority.Now()
			if !now.Before(renew) || now.Before(pushed.Add(-clockStep)) {
				return true, nil
			}
			timer = time.After(min(renew.Sub(now), clockInterval))
		}
		select {
		case <-ctx.Done():
			return false, ctx.Err()
		case <-s.stopping:
			return false, errStopping
		case <-bundleChanged:
			return true, nil
		case <-entriesChanged:
			return false, nil
		case <-timer:
		}
	}
}

// renewal is half of the life that is left, give or take a tenth.
func renewal(issued, notAfter time.Time) time.Time {
	half := notAfter.Sub(issued) / 2
	spread := time.Duration(jitter * (2*rand.Float64() - 1) * float64(half)) //nolint:gosec // nobody gains from guessing it
	return issued.Add(max(half+spread, minRenewal))
}
