package machine_test

import (
	"context"
	"fmt"
	"math/rand/v2"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/countersign-mesh/countersign/pkg/database/databasetest"
	"github.com/countersign-mesh/countersign/services/payments/internal/payment"
)

// pair is two processes on one database, each of which may be another one a moment later.
type pair struct {
	bank *bank
	mu   sync.Mutex
	both [2]*process
}

func (p *pair) one(i int) *process {
	p.mu.Lock()
	defer p.mu.Unlock()
	return p.both[i]
}

func (p *pair) start(t *testing.T, i int) {
	t.Helper()
	fresh, err := p.bank.start()
	if err != nil {
		t.Fatal(err)
	}
	fresh.work()
	p.mu.Lock()
	defer p.mu.Unlock()
	p.both[i] = fresh
}

// crash ends a process wherever its payments are, and starts another one in its place.
func (p *pair) crash(t *testing.T, i int) {
	t.Helper()
	if err := p.one(i).end(); err != nil {
		t.Error(err)
	}
	p.start(t, i)
}

// Clients send each order to either process until it is answered, while the processes end at random moments, and answers of neighbours get
// lost. ATTACKS 61.
func TestTwoReplicasThatCrashPostEachPaymentOnce(t *testing.T) {
	t.Parallel()
	databasetest.Each(t, func(t *testing.T, dsn string) {
		b := openBankOver(t, dsn)
		var asked atomic.Int64
		b.fault = func(context.Context, string, string) error {
			if asked.Add(1)%13 == 0 { // somewhere
				return errGone
			}
			return nil
		}
		p := &pair{bank: b}
		for i := range p.both {
			p.start(t, i)
		}
		t.Cleanup(func() {
			for _, process := range p.both {
				if err := process.end(); err != nil {
					t.Error(err)
				}
			}
		})
		const clients, orders, crashes = 6, 4, 8
		var group sync.WaitGroup
		for c := range clients {
			group.Go(func() {
				for n := range orders {
					p.pay(t, clientOrder(c, n))
				}
			})
		}
		var paid atomic.Bool
		go func() { group.Wait(); paid.Store(true) }()
		for range crashes {
			later := asked.Load() + rand.Int64N(20)
			if err := eventually(func() bool { return asked.Load() > later || paid.Load() }); err != nil {
				t.Error(err)
			}
			p.crash(t, rand.IntN(2))
		}
		group.Wait()
		if err := b.settle(); err != nil {
			t.Fatal(err)
		}
		b.mu.Lock()
		defer b.mu.Unlock()
		for c := range clients {
			for n := range orders {
				made, err := b.observer.ByRequest(t.Context(), clientOrder(c, n))
				if err != nil || made.State != payment.Posted {
					t.Errorf("order %d of client %d: %s (%v)", n, c, made.State, err)
				}
				if _, ok := b.posted[made.ID]; !ok {
					t.Errorf("order %d of client %d is not in the books", n, c)
				}
			}
		}
		if len(b.posted) != clients*orders || b.balances["acc-bob"] != clients*orders/2*10 {
			t.Errorf("%d payments in the books, bob has %d; want %d, %d", len(b.posted), b.balances["acc-bob"], clients*orders, clients*orders/2*10)
		}
	})
}

// clientOrder is a transfer or a deposit of 10 cents.
func clientOrder(client, n int) payment.Order {
	request := fmt.Sprintf("request-%d-%d", client, n)
	if n%2 == 0 {
		return transfer(request, 10)
	}
	return deposit(request, 10)
}

// pay sends an order until it is answered.
func (p *pair) pay(t *testing.T, order payment.Order) {
	t.Helper()
	err := eventually(func() bool {
		ctx, cancel := context.WithTimeout(context.Background(), 10*time.Second)
		defer cancel()
		_, err := p.one(rand.IntN(2)).Create(ctx, order)
		return err == nil
	})
	if err != nil {
		t.Error(err)
	}
}

// Both processes are refused and given the hold of one payment, and who is refused is the first to say so: the payment is refused, and what
// is set aside for it must not stay so.
func TestAHoldThatCameTooLateIsReleased(t *testing.T) {
	t.Parallel()
	b := openBank(t)
	order := transfer("request-1", openingBalance+100)
	p := stored(t, b, order, []payment.State{payment.Assessed})
	one, other := b.startFor(t), b.startFor(t)
	refused, goOn := make(chan struct{}), make(chan struct{})
	var first atomic.Bool
	b.fault = func(_ context.Context, at, _ string) error {
		if at == beforeAdvance && first.CompareAndSwap(false, true) { // the one that was refused
			close(refused)
			<-goOn
		}
		if at == afterReserve { // the other one; it does not come to store that it has the hold
			close(goOn)
			return errGone
		}
		return nil
	}
	answer := make(chan payment.Payment, 1)
	go func() {
		got, err := one.Create(context.Background(), order)
		if err != nil {
			t.Error(err)
		}
		answer <- got
	}()
	<-refused
	b.mu.Lock()
	b.balances["acc-alice"] += 100
	b.mu.Unlock()
	if _, err := other.Create(t.Context(), order); err != nil {
		t.Fatal(err)
	}
	if got := <-answer; got.State != payment.Refused || !b.hold(p.ID).active() {
		t.Fatalf("%s with hold %v, want refused with an active one: the test does not do what it is to do", got.State, b.hold(p.ID))
	}
	b.ahead.Add(int64(time.Hour)) // no request can be under way any more
	third := b.startFor(t)
	third.work()
	err := eventually(func() bool {
		late, err := b.observer.LateHolds(context.Background(), b.now(), payment.LateHold{}, 1)
		return err == nil && len(late) == 0
	})
	if err != nil || b.hold(p.ID).active() {
		t.Errorf("%v, hold %v; want it released", err, b.hold(p.ID))
	}
}

func (b *bank) hold(id string) *hold {
	b.mu.Lock()
	defer b.mu.Unlock()
	return b.holds[id]
}
