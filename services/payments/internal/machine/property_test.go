package machine_test

import (
	"context"
	"testing"
	"time"

	"pgregory.net/rapid"

	"github.com/countersign-mesh/countersign/pkg/database/databasetest"
	"github.com/countersign-mesh/countersign/services/payments/internal/payment"
)

// Two processes on one database, neighbours that fail and answer anything, crashes, and persons who decide: whatever happens, every payment
// ends when the neighbours behave, nothing is posted without an allow or an approval, money moves at most once, what is final stays, no
// refused payment keeps money set aside, and nothing is sent before the state that says so is stored. ATTACKS 61, 62.
func TestWhateverHappensPaymentsAndLedgerAgreeInTheEnd(t *testing.T) {
	t.Parallel()
	for kind, fresh := range map[string]func(testing.TB) string{"sqlite": databasetest.SQLite, "postgres": databasetest.Postgres} {
		t.Run(kind, func(t *testing.T) {
			t.Parallel()
			over(t, fresh)
		})
	}
}

// settle mends everything and waits until no payment is under way, and no request can be any more.
func (w *world) settle(t *rapid.T) {
	w.mu.Lock()
	w.broken, w.freezes = "", false
	w.mu.Unlock()
	for range 2 {
		for i, p := range w.replicas { // no need to wait out the backoff
			if err := p.end(); err != nil {
				t.Fatal(err)
			}
			w.start(t, i)
		}
		err := eventually(func() bool {
			ids, _, err := w.bank.observer.Unfinished(context.Background(), 0, 1)
			late, errLate := w.bank.observer.LateHolds(context.Background(), w.bank.now(), payment.LateHold{}, 1)
			return err == nil && errLate == nil && len(ids) == 0 && len(late) == 0
		})
		if err != nil {
			t.Fatal(err)
		}
		w.bank.ahead.Add(int64(time.Hour)) // the second time over, holds that came late are released
	}
}

// check compares payments, ledger and promises.
func (w *world) check(t *rapid.T) {
	b, made := w.bank, 0
	b.mu.Lock()
	defer b.mu.Unlock()
	for _, order := range w.orders {
		p, err := b.observer.ByRequest(context.Background(), order)
		if err != nil {
			continue // never made
		}
		made++
		w.told(t, w.known(order), p)
		delete(w.final, order.RequestID)
		w.checkPayment(t, p)
	}
	if len(w.final) != 0 {
		t.Errorf("payments were answered that are not there: %v", w.final)
	}
	if len(b.posted) > made || len(b.holds) > made {
		t.Errorf("%d payments, %d in the ledger, %d holds", made, len(b.posted), len(b.holds))
	}
	if b.balances["acc-alice"] < 0 {
		t.Errorf("alice has %d", b.balances["acc-alice"])
	}
	for _, wrong := range b.wrong {
		t.Error(wrong)
	}
}

func (w *world) checkPayment(t *rapid.T, p payment.Payment) {
	b := w.bank
	_, posted := b.posted[p.ID]
	if posted != (p.State == payment.Posted) {
		t.Errorf("%s is %s, in the ledger: %t", p.ID, p.State, posted)
	}
	if p.Unfinished() || !p.State.Final() && p.State != payment.InReview {
		t.Errorf("%s ends as %s", p.ID, p.State)
	}
	if verdict := b.verdicts[p.ID]; posted && p.Kind == payment.Transfer && verdict != payment.Allow && !w.approved[p.ID] {
		t.Errorf("%s was posted with verdict %d and without approval", p.ID, verdict)
	}
	if h := b.holds[p.ID]; h.active() && p.State.Final() {
		t.Errorf("%s is %s, and %d are set aside for it", p.ID, p.State, h.amount)
	}
	if h := b.holds[p.ID]; h != nil && h.captured != posted {
		t.Errorf("%s is %s, its hold captured: %t", p.ID, p.State, h.captured)
	}
	checkHistory(t, b, p)
}
