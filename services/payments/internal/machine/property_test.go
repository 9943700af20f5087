package machine_test

import (
	"context"
	"fmt"
	"os"
	"sync"
	"testing"

	"pgregory.net/rapid"

	"github.com/countersign-mesh/countersign/services/payments/internal/payment"
)

// world is a bank that any sequence of orders, failures and restarts happens to, and what was promised on the way.
type world struct {
	bank    *bank
	process *process
	orders  []payment.Order
	answers map[string]payment.Payment // by payment: the final state that a caller was told

	mu     sync.Mutex
	broken string // the point that fails
}

func newWorld(t *rapid.T) *world {
	dir, err := os.MkdirTemp("", "payments")
	if err != nil {
		t.Fatal(err)
	}
	w := &world{bank: newBank(dir), answers: map[string]payment.Payment{}}
	w.bank.fault = func(_ context.Context, at, _ string) error {
		w.mu.Lock()
		defer w.mu.Unlock()
		if w.broken == at {
			return errGone
		}
		return nil
	}
	w.bank.decide = func(p payment.Payment) payment.Verdict {
		return payment.Verdict(p.Amount.MinorUnits%5%3) + payment.Allow // mostly allow, some refuse, some hold
	}
	w.start(t)
	t.Cleanup(func() {
		if err := w.process.end(); err != nil {
			t.Error(err)
		}
		if err := os.RemoveAll(dir); err != nil {
			t.Error(err)
		}
	})
	return w
}

func (w *world) start(t *rapid.T) {
	p, err := w.bank.start()
	if err != nil {
		t.Fatal(err)
	}
	p.work()
	w.process = p
}

// send sends a new order or one from before, and remembers what was answered.
func (w *world) send(t *rapid.T) {
	if len(w.orders) == 0 || rapid.Bool().Draw(t, "new") {
		cents := rapid.Int64Range(1, openingBalance/2).Draw(t, "cents")
		request := fmt.Sprintf("request-%d", len(w.orders))
		order := transfer(request, cents)
		if rapid.IntRange(0, 3).Draw(t, "kind") == 0 {
			order = deposit(request, cents)
		}
		w.orders = append(w.orders, order)
	}
	order := rapid.SampledFrom(w.orders).Draw(t, "order")
	p, err := w.process.Create(context.Background(), order)
	if err != nil {
		return // checked at the end: the payment is there, finished, or was never made
	}
	if p.State.Unfinished() {
		t.Fatalf("%s was answered as %s", p.ID, p.State)
	}
	if before, ok := w.answers[p.ID]; ok && before.State != p.State {
		t.Fatalf("%s was %s and is %s", p.ID, before.State, p.State)
	}
	w.answers[p.ID] = p
}

// breakOrMend breaks one point, or none. Were more broken, the first would keep calls away from the others.
func (w *world) breakOrMend(t *rapid.T) {
	at := rapid.SampledFrom([]string{
		"", atAccounts, beforeRisk, afterRisk, beforeLedger, afterLedger,
		atByRequest, beforeCreate, afterCreate, atGet, beforeAdvance, afterAdvance,
	}).Draw(t, "at")
	w.mu.Lock()
	defer w.mu.Unlock()
	w.broken = at
}

func (w *world) restart(t *rapid.T) {
	if err := w.process.end(); err != nil {
		t.Fatal(err)
	}
	w.start(t)
}

// settle mends everything and waits until no payment is under way.
func (w *world) settle(t *rapid.T) {
	w.mu.Lock()
	w.broken = ""
	w.mu.Unlock()
	w.restart(t) // no need to wait out the backoff
	if err := w.process.settle(); err != nil {
		t.Fatal(err)
	}
}

// check compares payments, ledger and promises.
func (w *world) check(t *rapid.T) {
	made := 0
	for _, order := range w.orders {
		p, err := w.process.store.ByRequest(context.Background(), order)
		if err != nil {
			continue // never made
		}
		made++
		_, posted := w.bank.posted[p.ID]
		if posted != (p.State == payment.Posted) {
			t.Errorf("%s is %s, in the ledger: %t", p.ID, p.State, posted)
		}
		if answer, ok := w.answers[p.ID]; ok && answer.State != p.State {
			t.Errorf("%s was answered as %s and is %s", p.ID, answer.State, p.State)
		}
		if verdict := w.bank.verdicts[p.ID]; posted && p.Kind == payment.Transfer && verdict != payment.Allow {
			t.Errorf("%s was posted with verdict %d", p.ID, verdict)
		}
		checkHistory(t, w.process, p)
		delete(w.answers, p.ID)
	}
	if len(w.answers) != 0 {
		t.Errorf("payments were answered that are not there: %v", w.answers)
	}
	if len(w.bank.posted) > made {
		t.Errorf("%d payments, %d in the ledger", made, len(w.bank.posted))
	}
	if w.bank.balances["acc-alice"] < 0 {
		t.Errorf("alice has %d", w.bank.balances["acc-alice"])
	}
}

// ATTACKS 61, 62.
func TestWhateverHappensPaymentsAndLedgerAgreeInTheEnd(t *testing.T) {
	t.Parallel()
	rapid.Check(t, func(t *rapid.T) {
		w := newWorld(t)
		t.Repeat(map[string]func(*rapid.T){
			"send":          w.send,
			"break or mend": w.breakOrMend,
			"restart":       w.restart,
		})
		w.settle(t)
		w.check(t)
	})
}
