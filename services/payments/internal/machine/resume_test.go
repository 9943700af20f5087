package machine_test

import (
	"context"
	"errors"
	"fmt"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/countersign-mesh/countersign/services/payments/internal/payment"
)

func TestAnAnswerThatIsMissingLeavesThePaymentWhereItStandsUntilItIsThere(t *testing.T) {
	t.Parallel()
	for name, test := range map[string]struct {
		at       string
		answered payment.State
		stored   payment.State
		postings int
	}{
		"risk is away":                         {beforeRisk, payment.InReview, payment.InReview, 0},
		"risk's answer is lost":                {afterRisk, payment.InReview, payment.InReview, 0},
		"money could not be set aside":         {beforeReserve, payment.Assessed, payment.Assessed, 0},
		"that it was set aside is lost":        {afterReserve, payment.Assessed, payment.Assessed, 0},
		"the ledger is away":                   {beforeLedger, payment.Unknown, payment.Unknown, 0},
		"the ledger's answer is lost":          {afterLedger, payment.Unknown, payment.Unknown, 1},
		"a state could not be stored":          {beforeAdvance, payment.Created, payment.Created, 0},
		"a state was stored, as it turned out": {afterAdvance, payment.Created, payment.Assessed, 0},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			b := openBank(t)
			var away atomic.Bool
			away.Store(true)
			b.fault = func(_ context.Context, at, _ string) error {
				if at == test.at && away.Load() {
					return errGone
				}
				return nil
			}
			p := b.startFor(t)
			got, err := p.Create(t.Context(), transfer("request-1", 100))
			if err != nil || got.State != test.answered {
				t.Fatalf("answered as %s (%v), want %s", got.State, err, test.answered)
			}
			got, err = p.store.ByRequest(t.Context(), transfer("request-1", 100))
			if err != nil || got.State != test.stored || b.postings() != test.postings {
				t.Fatalf("state %s (%v), %d in the ledger; want %s, %d", got.State, err, b.postings(), test.stored, test.postings)
			}
			p.work()
			away.Store(false)
			if err := b.settle(); err != nil {
				t.Fatal(err)
			}
			if b.balances["acc-bob"] != 100 {
				t.Errorf("bob has %d, want 100", b.balances["acc-bob"])
			}
		})
	}
}

func TestAnAnswerThatIsNoVerdictPostsNothing(t *testing.T) {
	t.Parallel()
	b := openBank(t)
	b.decide = func(payment.Payment) payment.Verdict { return 0 }
	p := b.startFor(t)
	got, err := p.Create(t.Context(), transfer("request-1", 100))
	if err != nil || got.State != payment.InReview || !got.Unfinished() {
		t.Errorf("%s (%v), want in review until there is a verdict", got.State, err)
	}
	if b.postings() != 0 {
		t.Error("the payment was posted")
	}
}

func TestOnePaymentThatCannotBeFinishedDoesNotHoldUpOthers(t *testing.T) {
	t.Parallel()
	b := openBank(t)
	var mu sync.Mutex
	var stuck string
	away := true
	b.fault = func(_ context.Context, at, id string) error {
		mu.Lock()
		defer mu.Unlock()
		if at == beforeRisk && (away || id == stuck) {
			return errGone
		}
		return nil
	}
	p := b.startFor(t)
	for i := range 120 { // more than a sweep holds at a time
		if _, err := p.Create(t.Context(), transfer(fmt.Sprintf("request-%d", i), 1)); err != nil {
			t.Fatal(err)
		}
	}
	first, err := p.store.ByRequest(t.Context(), transfer("request-0", 1))
	if err != nil {
		t.Fatal(err)
	}
	mu.Lock()
	away, stuck = false, first.ID
	mu.Unlock()
	p.work()
	if err := eventually(func() bool { return b.postings() == 119 }); err != nil {
		t.Errorf("%d of 119 others were posted: %v", b.postings(), err)
	}
}

// Each payment waits for as long as it has failed itself.
func TestAPaymentIsTriedAgainSoonWhateverHappensToOthers(t *testing.T) {
	t.Parallel()
	b := openBank(t)
	b.longest = time.Hour
	var mu sync.Mutex
	var stuck string // the first payment; never finished
	failed := map[string]int{}
	b.fault = func(_ context.Context, at, id string) error {
		mu.Lock()
		defer mu.Unlock()
		if at != beforeRisk {
			return nil
		}
		if stuck == "" {
			stuck = id
		}
		if failed[id]++; id == stuck || failed[id] <= 5 {
			return errGone
		}
		return nil
	}
	tried := func() int {
		mu.Lock()
		defer mu.Unlock()
		return failed[stuck]
	}
	p := b.startFor(t)
	p.work()
	if _, err := p.Create(t.Context(), transfer("request-0", 1)); err != nil {
		t.Fatal(err)
	}
	if err := eventually(func() bool { return tried() >= 10 }); err != nil {
		t.Fatal(err)
	}
	before := tried()
	if _, err := p.Create(t.Context(), transfer("request-1", 1)); err != nil {
		t.Fatal(err)
	}
	if err := eventually(func() bool { return b.postings() == 1 }); err != nil {
		t.Fatal(err)
	}
	// The other one has taken five more tries.
	if more := tried() - before; more > 3 {
		t.Errorf("a payment that had failed ten times was tried %d times while another one was retried", more)
	}
}

func TestAPaymentThatHangsDoesNotHoldUpOthers(t *testing.T) {
	t.Parallel()
	b := openBank(t)
	hangs := make(chan struct{})
	var first, failed, ended atomic.Bool
	b.fault = func(ctx context.Context, at, _ string) error {
		switch {
		case at != beforeLedger:
			return nil
		case first.CompareAndSwap(false, true):
			close(hangs)
			<-ctx.Done()
			ended.Store(true)
			return ctx.Err()
		case failed.CompareAndSwap(false, true):
			return errGone
		default:
			return nil
		}
	}
	p := b.startFor(t)
	ctx, leave := context.WithCancel(t.Context())
	left := make(chan error, 1)
	go func() {
		_, err := p.Create(ctx, transfer("request-0", 1))
		left <- err
	}()
	<-hangs
	leave()
	if err := <-left; !errors.Is(err, context.Canceled) {
		t.Error(err)
	}
	p.work()
	if _, err := p.Create(t.Context(), transfer("request-1", 1)); err != nil {
		t.Fatal(err)
	}
	if err := eventually(func() bool { return b.postings() == 1 }); err != nil {
		t.Fatal(err)
	}
	if ended.Load() {
		t.Error("the other payment was finished only after the one that hangs was given up")
	}
}
