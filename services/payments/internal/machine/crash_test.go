package machine_test

import (
	"context"
	"fmt"
	"sync"
	"testing"

	"github.com/countersign-mesh/countersign/services/payments/internal/payment"
)

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
	b := openBank(t)
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
	if err := b.settle(); err != nil {
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
		checkHistory(t, b, page.Payments[0])
	}
	return true
}

// tester is a test, of package testing or of package rapid.
type tester interface {
	Helper()
	Errorf(format string, args ...any)
	Fatal(args ...any)
}

// checkHistory checks that the changes of a payment, as its account sees them, are a way to where it is.
func checkHistory(t tester, b *bank, end payment.Payment) {
	t.Helper()
	states, err := b.history(end)
	if err != nil {
		t.Fatal(err)
	}
	if states[0] != payment.Created || states[len(states)-1] != end.State {
		t.Errorf("history of a %s that is %s: %v", end.Kind, end.State, states)
	}
	for i := 1; i < len(states); i++ {
		if !end.Kind.MayBecome(states[i-1], states[i]) {
			t.Errorf("history of a %s: %v", end.Kind, states)
		}
	}
}
