package machine_test

import (
	"context"
	"fmt"
	"log/slog"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"github.com/countersign-mesh/countersign/services/payments/internal/machine"
	"github.com/countersign-mesh/countersign/services/payments/internal/payment"
)

// late counts the holds that are due at a time, to 1000.
func (b *bank) late(at time.Time) int {
	page, err := b.observer.LateHolds(context.Background(), at, payment.LateHold{}, 1000)
	if err != nil {
		return -1
	}
	return len(page)
}

// Somebody sends many transfers without the money for them; the last of them really has a hold. Those at the front cannot be released.
func TestHoweverManyLateHoldsAreDueEachHasItsTurn(t *testing.T) {
	t.Parallel()
	b := openBank(t)
	const all, stuck = 250, 120 // each more than a page
	broken := map[string]bool{}
	var last payment.Payment
	for i := range all {
		last = stored(t, b, transfer(fmt.Sprintf("request-%d", i), 1), []payment.State{payment.Assessed, payment.Refused})
		if i < stuck {
			broken[last.ID] = true
		}
	}
	b.given(last, "held")
	var mended atomic.Bool
	b.fault = func(_ context.Context, at, id string) error {
		if at == beforeRelease && broken[id] && !mended.Load() {
			return errGone
		}
		return nil
	}
	b.ahead.Add(int64(time.Hour))
	b.startFor(t).work()
	if err := eventually(func() bool { return b.late(b.now()) == stuck }); err != nil {
		t.Fatalf("%d are left, want %d: %v", b.late(b.now()), stuck, err)
	}
	if b.hold(last.ID).active() {
		t.Error("the last one was not released")
	}
	mended.Store(true)
	if err := eventually(func() bool { return b.late(b.now()) == 0 }); err != nil {
		t.Errorf("%d are left when all can be released: %v", b.late(b.now()), err)
	}
}

// A process that is given a hold, and then learns that another one has refused the payment, releases it at once, however long ago the refusal
// was worked off.
func TestWhoIsGivenAHoldForARefusedPaymentReleasesIt(t *testing.T) {
	t.Parallel()
	for name, test := range map[string]struct {
		workedOff bool // Work has released what the refusal may have left, which was nothing
		lost      bool // the ledger does not answer to the release at first
		left      int  // what Work finds to be done
	}{
		"at once":                              {},
		"at once, long after the refusal":      {workedOff: true},
		"or Work does":                         {lost: true, left: 1},
		"or Work does, long after the refusal": {workedOff: true, lost: true, left: 1},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			b := openBank(t)
			order := transfer("request-1", 100)
			p := stored(t, b, order, []payment.State{payment.Assessed})
			var lost atomic.Bool
			lost.Store(test.lost)
			b.fault = func(ctx context.Context, at, _ string) error {
				switch {
				case at == beforeRelease && lost.Load():
					return errGone
				case at != afterReserve: // this process has the hold; the other one was refused before, and is first to say so
					return nil
				}
				refused, err := b.observer.Advance(ctx, p, payment.Step{
					To: payment.Refused, Reasons: payment.Because(payment.CodeInsufficientFunds), Time: b.now(),
				})
				if err == nil && refused.State == payment.Refused && test.workedOff {
					err = b.observer.Released(ctx, p.ID)
				}
				return err
			}
			process := b.startFor(t)
			got, err := process.Create(t.Context(), order)
			if err != nil || got.State != payment.Refused {
				t.Fatalf("%s (%v), want refused", got.State, err)
			}
			if active := b.hold(p.ID).active(); active != test.lost || b.late(b.now().Add(time.Hour)) != test.left {
				t.Errorf("active: %t, %d left; want %t, %d", active, b.late(b.now().Add(time.Hour)), test.lost, test.left)
			}
			lost.Store(false)
			b.ahead.Add(int64(time.Hour))
			process.work()
			if err := eventually(func() bool { return b.late(b.now()) == 0 }); err != nil || b.hold(p.ID).active() {
				t.Errorf("%v, hold %v; want it released", err, b.hold(p.ID))
			}
		})
	}
}

// vanished is the store of a database whose host went without a word: who reads gets no answer, the first few times.
type vanished struct {
	machine.Store
	unfinished, late atomic.Int64
}

func (v *vanished) Unfinished(ctx context.Context, _ int64, _ int) ([]string, int64, error) {
	return nil, 0, silence(ctx, &v.unfinished)
}

func (v *vanished) LateHolds(ctx context.Context, _ time.Time, _ payment.LateHold, _ int) ([]payment.LateHold, error) {
	return nil, silence(ctx, &v.late)
}

func silence(ctx context.Context, times *atomic.Int64) error {
	if times.Add(1) > 3 {
		return nil
	}
	<-ctx.Done()
	return ctx.Err()
}

func TestADatabaseThatDoesNotAnswerIsReadAgain(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		v := &vanished{}
		m := machine.New(v, machine.Neighbours{}, nil, machine.WithLogger(slog.New(slog.DiscardHandler)))
		ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
		defer cancel()
		if err := m.Work(ctx); err != nil {
			t.Error(err)
		}
		if v.unfinished.Load() <= 3 || v.late.Load() <= 3 {
			t.Errorf("unfinished payments were read %d times in a minute and late holds %d times, want more than 3", v.unfinished.Load(), v.late.Load())
		}
		if err := m.Close(); err != nil {
			t.Error(err)
		}
	})
}
