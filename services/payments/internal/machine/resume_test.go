package machine_test

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/countersign-mesh/countersign/services/payments/internal/payment"
)

func TestAnAnswerThatIsMissingLeavesThePaymentWhereItStandsUntilItIsThere(t *testing.T) {
	t.Parallel()
	for name, test := range map[string]struct {
		at       string
		state    payment.State
		postings int
	}{
		"risk is away":                         {beforeRisk, payment.Created, 0},
		"risk's answer is lost":                {afterRisk, payment.Created, 0},
		"the ledger is away":                   {beforeLedger, payment.Assessed, 0},
		"the ledger's answer is lost":          {afterLedger, payment.Assessed, 1},
		"a state could not be stored":          {beforeAdvance, payment.Created, 0},
		"a state was stored, as it turned out": {afterAdvance, payment.Assessed, 0},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			b := newBank(t.TempDir())
			var away atomic.Bool
			away.Store(true)
			b.fault = func(_ context.Context, at, _ string) error {
				if at == test.at && away.Load() {
					return errGone
				}
				return nil
			}
			p := b.startFor(t)
			if _, err := p.Create(t.Context(), transfer("request-1", 100)); !errors.Is(err, payment.ErrOutcomeUnknown) {
				t.Fatalf("%v, want ErrOutcomeUnknown", err)
			}
			got, err := p.store.ByRequest(t.Context(), transfer("request-1", 100))
			if err != nil || got.State != test.state || b.postings() != test.postings {
				t.Fatalf("state %s (%v), %d in the ledger; want %s, %d", got.State, err, b.postings(), test.state, test.postings)
			}
			p.work()
			away.Store(false)
			if err := p.settle(); err != nil {
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
	b := newBank(t.TempDir())
	b.decide = func(payment.Payment) payment.Verdict { return 0 }
	p := b.startFor(t)
	if _, err := p.Create(t.Context(), transfer("request-1", 100)); !errors.Is(err, payment.ErrOutcomeUnknown) {
		t.Errorf("%v, want ErrOutcomeUnknown", err)
	}
	if b.postings() != 0 {
		t.Error("the payment was posted")
	}
}

func TestOnePaymentThatCannotBeFinishedDoesNotHoldUpOthers(t *testing.T) {
	t.Parallel()
	b := newBank(t.TempDir())
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
		_, err := p.Create(t.Context(), transfer(fmt.Sprintf("request-%d", i), 1))
		if !errors.Is(err, payment.ErrOutcomeUnknown) {
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
	b := newBank(t.TempDir())
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
	if _, err := p.Create(t.Context(), transfer("request-0", 1)); !errors.Is(err, payment.ErrOutcomeUnknown) {
		t.Fatal(err)
	}
	if err := eventually(func() bool { return tried() >= 10 }); err != nil {
		t.Fatal(err)
	}
	before := tried()
	if _, err := p.Create(t.Context(), transfer("request-1", 1)); !errors.Is(err, payment.ErrOutcomeUnknown) {
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
	b := newBank(t.TempDir())
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
	if _, err := p.Create(t.Context(), transfer("request-1", 1)); !errors.Is(err, payment.ErrOutcomeUnknown) {
		t.Fatal(err)
	}
	if err := eventually(func() bool { return b.postings() == 1 }); err != nil {
		t.Fatal(err)
	}
	if ended.Load() {
		t.Error("the other payment was finished only after the one that hangs was given up")
	}
}

// crash makes the n-th point that a process reaches its last: it and all after it fail.
type crash struct {
	mu      sync.Mutex
	left    int
	crashed bool
}

func (c *crash) fault(context.Context, string, string) error {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.left == 0 {
		c.crashed = true
		return errGone
	}
	c.left--
	return nil
}

// ATTACKS 61.
func TestACrashAtAnyPointLosesNothingAndPostsNothingTwice(t *testing.T) {
	t.Parallel()
	for name, order := range map[string]payment.Order{"a transfer": transfer("request-1", 100), "a deposit": deposit("request-1", 100)} {
		for _, sentAgain := range []bool{true, false} {
			t.Run(fmt.Sprintf("%s, sent again: %t", name, sentAgain), func(t *testing.T) {
				t.Parallel()
				points := 0
				for crashAfter(t, order, points, sentAgain) {
					points++
				}
				if points < 8 {
					t.Errorf("only %d points were tried", points)
				}
			})
		}
	}
}

// crashAfter runs an order in a process that crashes after so many points, and what is left of it in a second one. It reports false
// when the first process came to the end before it could crash.
func crashAfter(t *testing.T, order payment.Order, points int, sentAgain bool) bool {
	t.Helper()
	b := newBank(t.TempDir())
	c := &crash{left: points}
	b.fault = c.fault
	first := b.startFor(t)
	_, err := first.Create(t.Context(), order)
	if !c.crashed {
		if err != nil {
			t.Errorf("without a crash: %v", err)
		}
		return false
	}
	if err := first.end(); err != nil {
		t.Fatal(err)
	}
	b.fault = func(context.Context, string, string) error { return nil }
	second := b.startFor(t)
	second.work()
	if sentAgain {
		p, err := second.Create(t.Context(), order)
		if err != nil || p.State != payment.Posted {
			t.Errorf("crash after %d: sent again, it is %s (%v)", points, p.State, err)
		}
	}
	if err := second.settle(); err != nil {
		t.Fatalf("crash after %d: %v", points, err)
	}
	page, err := second.store.List(t.Context(), "acc-alice", 0, 10)
	if err != nil {
		t.Fatal(err)
	}
	if len(page.Payments) > 1 || (sentAgain && len(page.Payments) != 1) {
		t.Errorf("crash after %d: %d payments", points, len(page.Payments))
	}
	if len(page.Payments) != b.postings() {
		t.Errorf("crash after %d: %d payments, %d in the ledger", points, len(page.Payments), b.postings())
	}
	if len(page.Payments) == 1 {
		checkHistory(t, second, page.Payments[0])
	}
	return true
}

// tester is a test, of package testing or of package rapid.
type tester interface {
	Helper()
	Errorf(format string, args ...any)
	Fatal(args ...any)
}

// checkHistory compares the changes of a payment, as its account sees them, with the way to where it is.
func checkHistory(t tester, p *process, end payment.Payment) {
	t.Helper()
	want := []payment.State{payment.Created}
	switch {
	case end.Kind == payment.Transfer && end.State == payment.Posted:
		want = append(want, payment.Assessed, payment.Posted)
	case end.State != payment.Created:
		want = append(want, end.State)
	}
	if end.Kind == payment.Transfer && slices.ContainsFunc(end.Reasons, func(r payment.Reason) bool { return r.Code == payment.CodeInsufficientFunds }) {
		want = []payment.State{payment.Created, payment.Assessed, payment.Refused}
	}
	changes, err := p.store.Changes(context.Background(), end.PayeeAccountID, 0, 1000)
	if err != nil {
		t.Fatal(err)
	}
	var got []payment.State
	for _, c := range changes {
		if c.Payment.ID == end.ID {
			got = append(got, c.Payment.State)
		}
	}
	if diff := cmp.Diff(want, got); diff != "" {
		t.Errorf("history of a %s that is %s: -want +got:\n%s", end.Kind, end.State, diff)
	}
}
