package e2e

import (
	"context"
	"fmt"
	"math/rand/v2"
	"slices"
	"sync"
	"testing"
	"time"

	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/credentials"
	"google.golang.org/grpc/status"

	"github.com/countersign-mesh/countersign/e2e/internal/bank"
	"github.com/countersign-mesh/countersign/pkg/database/databasetest"
	mobilev1 "github.com/countersign-mesh/countersign/proto/gen/bank/mobile/v1"
	paymentsv1 "github.com/countersign-mesh/countersign/proto/gen/bank/payments/v1"
)

// change is one message of a watch.
type change struct {
	payment, cursor, state string
	minor                  int64
}

// source opens a watch of an account after a cursor and returns what receives from it.
type source func(ctx context.Context, a account, cursor string) (receive func() (change, error), err error)

// activity is WatchActivity, as the phone has it.
func activity(conn grpc.ClientConnInterface) source {
	phone := mobilev1.NewMobileBankServiceClient(conn)
	return func(ctx context.Context, a account, cursor string) (func() (change, error), error) {
		stream, err := phone.WatchActivity(ctx, &mobilev1.WatchActivityRequest{AccountId: a.id, Cursor: cursor})
		return func() (change, error) {
			m, err := stream.Recv()
			p := m.GetTransfer()
			return change{p.GetPaymentId(), m.GetCursor(), p.GetStatus().String(), p.GetAmount().GetMinorUnits()}, err
		}, err
	}
}

// changes is WatchPayments, as the operator has it.
func changes(conn grpc.ClientConnInterface) source {
	payments := paymentsv1.NewPaymentServiceClient(conn)
	return func(ctx context.Context, a account, cursor string) (func() (change, error), error) {
		stream, err := payments.WatchPayments(ctx, &paymentsv1.WatchPaymentsRequest{AccountId: a.id, Cursor: cursor})
		return func() (change, error) {
			m, err := stream.Recv()
			p := m.GetPayment()
			return change{p.GetPaymentId(), m.GetCursor(), p.GetState().String(), p.GetAmount().GetMinorUnits()}, err
		}, err
	}
}

// watcher watches an account and resumes whenever it is cut off, from the last cursor that it has seen.
type watcher struct {
	name    string
	account account
	// phone is whether it is told of payments to the account only that the money has come in.
	phone bool
	// open is how it watches, direct the same with nothing in between that could be cut.
	open, direct source

	mu   sync.Mutex
	seen []change
	cuts int
}

// watch watches until ctx ends, or the bank says what no watcher should hear.
func (w *watcher) watch(ctx context.Context, t *testing.T) {
	t.Helper()
	for cursor := ""; ctx.Err() == nil; {
		receive, err := w.open(ctx, w.account, cursor)
		for err == nil {
			var c change
			if c, err = receive(); err == nil {
				cursor = c.cursor
				w.mu.Lock()
				w.seen = append(w.seen, c)
				w.mu.Unlock()
			}
		}
		if code := status.Code(err); ctx.Err() == nil && code != codes.Unavailable {
			t.Errorf("%s: a watch ended with %v", w.name, err)
			return
		}
		w.mu.Lock()
		w.cuts++
		w.mu.Unlock()
		select {
		case <-ctx.Done():
		case <-time.After(20 * time.Millisecond):
		}
	}
}

// all returns what was seen so far.
func (w *watcher) all() []change {
	w.mu.Lock()
	defer w.mu.Unlock()
	return slices.Clone(w.seen)
}

// ends returns how each payment ended that the watcher is told of.
func (w *watcher) ends(payments map[string]*paymentsv1.Payment) map[string]bool {
	ends := make(map[string]bool)
	for id, p := range payments {
		posted, pays := p.GetState() == paymentsv1.PaymentState_PAYMENT_STATE_POSTED, p.GetPayerAccountId() == w.account.id
		if pays || p.GetPayeeAccountId() == w.account.id && (posted || !w.phone) {
			ends[id] = posted
		}
	}
	return ends
}

// history reads all that has happened, at once and undisturbed, until the last payment has ended.
func (w *watcher) history(t *testing.T, payments map[string]*paymentsv1.Payment) []change {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), 30*time.Second)
	defer cancel()
	receive, err := w.direct(ctx, w.account, "")
	if err != nil {
		t.Fatal(err)
	}
	var all []change
	for open := w.ends(payments); len(open) > 0; {
		c, err := receive()
		if err != nil {
			t.Fatalf("%s: after %d changes, with %d payments that have not ended: %v", w.name, len(all), len(open), err)
		}
		all = append(all, c)
		if c.final() {
			if posted, ok := open[c.payment]; !ok || posted != c.posted() {
				t.Errorf("%s: payment %s ends as %s, and was to be posted: %t (known: %t)", w.name, c.payment, c.state, posted, ok)
			}
			delete(open, c.payment)
		}
	}
	return all
}

func (c change) posted() bool {
	return c.state == "PAYMENT_STATE_POSTED" || c.state == "TRANSFER_STATUS_DONE"
}

func (c change) final() bool {
	return c.posted() || c.state == "PAYMENT_STATE_REFUSED" || c.state == "TRANSFER_STATUS_REFUSED"
}

// check waits until a watcher has seen all that there is, and compares it with the history.
func (w *watcher) check(t *testing.T, payments map[string]*paymentsv1.Payment) {
	t.Helper()
	want := w.history(t, payments)
	cursors := make(map[string]bool)
	for _, c := range want {
		if cursors[c.cursor] {
			t.Errorf("%s: the history has the cursor %s twice", w.name, c.cursor)
		}
		cursors[c.cursor] = true
	}
	bank.Eventually(t, 20*time.Second, func() string {
		if got := len(w.all()); got < len(want) {
			return fmt.Sprintf("%s has seen %d changes of %d", w.name, got, len(want))
		}
		return ""
	})
	w.same(t, want)
}

// same compares what a watcher has seen with the history.
func (w *watcher) same(t *testing.T, want []change) {
	t.Helper()
	got := w.all()
	for i := range max(len(got), len(want)) {
		if i >= len(got) || i >= len(want) || got[i] != want[i] {
			t.Errorf("%s: change %d of %d differs:\nhas seen %v\nof       %v", w.name, i, len(want), at(got, i), at(want, i))
			return
		}
	}
}

func at(list []change, i int) any {
	if i < len(list) {
		return list[i]
	}
	return "nothing"
}

// TestWatchesAreWhole watches accounts from phones and from the counter while clients pay, payments and the gateway are killed, and the network
// between them is cut. Every watcher resumes from its last cursor, and sees in the end what one sees who reads it all at once
// and undisturbed: nothing is missing, nothing comes twice, all of it in order. What is seen last of a payment is how it ended.
func TestWatchesAreWhole(t *testing.T) {
	onEach(t, func(t *testing.T, mesh *bank.Apart, _ *databasetest.Server) {
		mesh.StartAll(t)
		operator := mesh.Identity(t, "operator")
		crowd := openCrowd(t, mesh, operator, 4, 0)
		network := []*bank.Relay{bank.NewRelay(t, mesh.Edge(t).GRPC), bank.NewRelay(t, mesh.Address("payments"))}
		watchers := watchersOf(t, mesh, operator, crowd, network)
		watching, stopWatching := context.WithCancel(t.Context())
		defer stopWatching()
		var group sync.WaitGroup
		t.Cleanup(group.Wait)
		for _, w := range watchers {
			group.Go(func() { w.watch(watching, t) })
		}
		disturb(t, mesh, crowd, network)
		payments := newAuditor(t, mesh, operator).atRest(t, crowd)
		seen, cuts := 0, 0
		for _, w := range watchers {
			w.check(t, payments)
		}
		stopWatching()
		group.Wait()
		for _, w := range watchers {
			w.same(t, w.history(t, payments)) // nothing has come after all had been seen
			seen, cuts = seen+len(w.seen), cuts+w.cuts
		}
		t.Logf("%d watchers saw %d changes of %d payments, and were cut off %d times", len(watchers), seen, len(payments), cuts)
	})
}

// watchersOf returns two watchers of each account: its phone at the gateway and the operator at payments.
func watchersOf(t *testing.T, mesh *bank.Apart, operator *bank.Identity, c *crowd, network []*bank.Relay) []*watcher {
	t.Helper()
	counter := changes(mesh.Dial(t, operator, "payments"))
	var list []*watcher
	for _, a := range c.accounts {
		list = append(list,
			&watcher{
				name: "the phone of " + a.customer, account: a, phone: true,
				open: activity(a.phone.DialAt(t, network[0].Address())), direct: activity(a.phone.Conn()),
			},
			&watcher{
				name: "the operator on " + a.customer, account: a,
				open:   changes(bank.Dial(t, network[1].Address(), credentials.NewTLS(operator.TLS("payments")))),
				direct: counter,
			})
	}
	return list
}

// disturb lets clients pay, and meanwhile kills what carries the watches and cuts the network.
func disturb(t *testing.T, mesh *bank.Apart, c *crowd, network []*bank.Relay) {
	t.Helper()
	paying, stop := context.WithCancel(t.Context())
	defer stop()
	wait := c.pay(paying, t, 8)
	random := rand.New(rand.NewPCG(c.seed, 1<<32))
	for n := range rounds(12, 120) {
		c.waitForSome(t, 8)
		pause(t, time.Duration(random.IntN(200))*time.Millisecond)
		switch n % 4 {
		case 0:
			mesh.Kill(t, "payments")
			mesh.Start(t, "payments")
		case 1:
			network[0].Cut()
		case 2:
			mesh.Kill(t, "gateway")
			mesh.Start(t, "gateway")
		default:
			network[1].Cut()
		}
	}
	c.waitForSome(t, 8)
	stop()
	wait()
}
