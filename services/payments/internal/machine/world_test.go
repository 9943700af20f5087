package machine_test

import (
	"context"
	"errors"
	"fmt"
	"sync"
	"testing"

	"pgregory.net/rapid"

	"github.com/countersign-mesh/countersign/services/payments/internal/payment"
)

// world is a bank with two processes of payments, that any sequence of orders, failures, decisions and restarts happens to, and what was
// promised on the way.
type world struct {
	bank     *bank
	replicas [2]*process
	orders   []payment.Order

	mu       sync.Mutex
	broken   string                   // the point that fails
	freezes  bool                     // the payee's account is frozen as soon as money is to be set aside
	final    map[string]payment.State // by request: the final state that somebody was told
	approved map[string]bool          // by payment: a person was told that the payment goes on, or may have been
}

// ledgerAnswer is the ledger's own answer to what it is asked to post, the same one each time.
func ledgerAnswer(p payment.Payment) error {
	switch p.Amount.MinorUnits / 5 % 5 {
	case 0:
		return payment.ErrBalanceOutOfRange
	case 1:
		return payment.ErrLedgerRejected
	default:
		return nil
	}
}

// riskVerdict mostly allows, refuses some and holds some.
func riskVerdict(p payment.Payment) payment.Verdict {
	return payment.Verdict(p.Amount.MinorUnits%5%3) + payment.Allow
}

func newWorld(t *rapid.T, dsn string) *world {
	b, err := newBank(dsn)
	if err != nil {
		t.Fatal(err)
	}
	w := &world{bank: b, final: map[string]payment.State{}, approved: map[string]bool{}}
	b.decide, b.refuse = riskVerdict, ledgerAnswer
	b.fault = w.fault
	for i := range w.replicas {
		w.start(t, i)
	}
	t.Cleanup(func() {
		for _, p := range w.replicas {
			if err := p.end(); err != nil {
				t.Error(err)
			}
		}
		if err := b.observer.Close(); err != nil {
			t.Error(err)
		}
	})
	return w
}

// fault is asked at every point.
func (w *world) fault(_ context.Context, at, _ string) error {
	w.mu.Lock()
	broken, freezes := w.broken, w.freezes
	w.mu.Unlock()
	if freezes && at == beforeReserve {
		w.bank.use("acc-bob", payment.Frozen)
	}
	if broken == at {
		return errGone
	}
	return nil
}

func (w *world) start(t *rapid.T, i int) {
	p, err := w.bank.start()
	if err != nil {
		t.Fatal(err)
	}
	p.work()
	w.replicas[i] = p
}

func (w *world) restart(t *rapid.T) {
	i := rapid.IntRange(0, 1).Draw(t, "replica")
	if err := w.replicas[i].end(); err != nil {
		t.Fatal(err)
	}
	w.start(t, i)
}

// send sends some orders, new ones and ones from before, at once, each to one process or to both.
func (w *world) send(t *rapid.T) {
	w.bank.use("acc-bob", payment.Open)
	if rapid.Bool().Draw(t, "fails on the way") {
		w.breakOrMend(t)
	}
	var group sync.WaitGroup
	for range rapid.IntRange(1, 6).Draw(t, "orders") {
		order := w.order(t)
		for _, i := range rapid.SampledFrom([][]int{{0}, {1}, {0, 1}}).Draw(t, "to") {
			group.Go(func() {
				before := w.known(order)
				if p, err := w.replicas[i].Create(context.Background(), order); err == nil {
					w.told(t, before, p)
				}
			})
		}
	}
	group.Wait()
}

// order returns a new order, or one from before.
func (w *world) order(t *rapid.T) payment.Order {
	if len(w.orders) > 0 && rapid.IntRange(0, 2).Draw(t, "again") == 0 {
		return rapid.SampledFrom(w.orders).Draw(t, "order")
	}
	cents := rapid.Int64Range(1, openingBalance/4).Draw(t, "cents")
	request := fmt.Sprintf("request-%d", len(w.orders))
	order := transfer(request, cents)
	if rapid.IntRange(0, 2).Draw(t, "kind") == 0 {
		order = deposit(request, cents)
	}
	w.orders = append(w.orders, order)
	return order
}

// known returns the final state of an order's payment that somebody was told, 0 when nobody was.
func (w *world) known(o payment.Order) payment.State {
	w.mu.Lock()
	defer w.mu.Unlock()
	return w.final[o.RequestID]
}

// told remembers final states. Before is what was known when the question was asked.
func (w *world) told(t *rapid.T, before payment.State, p payment.Payment) {
	w.mu.Lock()
	defer w.mu.Unlock()
	if before == 0 && p.State.Final() {
		before = w.final[p.RequestID] // told to somebody who asked at the same time
	}
	if before != 0 && before != p.State {
		t.Errorf("%s was %s and is %s", p.ID, before, p.State)
	}
	if p.State.Final() {
		w.final[p.RequestID] = p.State
	}
}

// review lets a person decide on a payment: on one in review if there is one, and now and then on one that is not.
func (w *world) review(t *rapid.T) {
	if len(w.orders) == 0 {
		return
	}
	orders := w.orders
	if rapid.IntRange(0, 3).Draw(t, "any") != 0 {
		if waiting := w.waiting(); len(waiting) > 0 {
			orders = waiting
		}
	}
	order := rapid.SampledFrom(orders).Draw(t, "order")
	decision := rapid.SampledFrom([]payment.Decision{payment.Approve, payment.Reject}).Draw(t, "decision")
	i := rapid.IntRange(0, 1).Draw(t, "replica")
	p, err := w.bank.observer.ByRequest(context.Background(), order)
	if err != nil {
		return // never made
	}
	before := w.known(order)
	if p.State == payment.InReview && decision == payment.Approve {
		w.mu.Lock()
		w.approved[p.ID] = true // also when the answer gets lost
		w.mu.Unlock()
	}
	p, err = w.replicas[i].Review(context.Background(), p.ID, payment.Review{
		Version: p.Version, Decision: decision, By: "spiffe://bank.test/operator",
	})
	switch {
	case err == nil:
		w.told(t, before, p)
	case !errors.Is(err, payment.ErrNotInReview) && !errors.Is(err, errGone):
		t.Errorf("review: %v", err)
	}
}

// waiting returns the orders whose payments are in review.
func (w *world) waiting() (orders []payment.Order) {
	for _, order := range w.orders {
		if p, err := w.bank.observer.ByRequest(context.Background(), order); err == nil && p.State == payment.InReview {
			orders = append(orders, order)
		}
	}
	return orders
}

// breakOrMend breaks one point, or none. Were more broken, the first would keep calls away from the others.
func (w *world) breakOrMend(t *rapid.T) {
	at := rapid.SampledFrom([]string{
		"", "", atAccounts, beforeRisk, afterRisk, beforeReserve, afterReserve, beforeLedger, beforeRelease, afterRelease,
		afterLedger, afterLedger, afterLedger, // what is hardest to get right
		atByRequest, beforeCreate, afterCreate, atGet, beforeAdvance, afterAdvance,
	}).Draw(t, "at")
	w.mu.Lock()
	defer w.mu.Unlock()
	w.broken = at
}

// freezeOrThaw lets the account of who is paid be usable, or not from the middle of payments on.
func (w *world) freezeOrThaw(t *rapid.T) {
	w.mu.Lock()
	w.freezes = rapid.Bool().Draw(t, "freezes")
	w.mu.Unlock()
	w.bank.use("acc-bob", payment.Open)
}

func over(t *testing.T, fresh func(testing.TB) string) {
	t.Helper()
	visits := map[string]int{}
	rapid.Check(t, func(rt *rapid.T) {
		w := newWorld(rt, fresh(t))
		rt.Repeat(map[string]func(*rapid.T){
			"send":           w.send,
			"send more":      w.send,
			"review":         w.review,
			"break or mend":  w.breakOrMend,
			"freeze or thaw": w.freezeOrThaw,
			"restart":        w.restart,
		})
		w.settle(rt)
		w.check(rt)
		for _, states := range w.bank.stored {
			for _, state := range states {
				visits[state.String()]++
			}
		}
	})
	t.Logf("states that were stored: %v", visits)
}
