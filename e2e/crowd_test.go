package e2e

import (
	"context"
	"fmt"
	"math/rand/v2"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"

	"github.com/countersign-mesh/countersign/e2e/internal/bank"
	mobilev1 "github.com/countersign-mesh/countersign/proto/gen/bank/mobile/v1"
	moneyv1 "github.com/countersign-mesh/countersign/proto/gen/bank/money/v1"
	paymentsv1 "github.com/countersign-mesh/countersign/proto/gen/bank/payments/v1"
)

// account is an account of a customer, and what was paid in at the counter.
type account struct {
	customer, id, currency string
	phone                  *bank.Phone
	cash                   int64
	deposit                string // the payment ID
}

// told is what the bank has said of a payment in the end.
type told struct {
	request *mobilev1.TransferRequest
	id      string
	done    bool // otherwise refused
}

// crowd is customers whose phones pay each other at random, now and then more than there is, several payments of one phone at a time. Whoever makes
// a payment asks until it is known what has become of it. They have crypto/tls and grpc-go as they come.
type crowd struct {
	accounts []account
	seed     uint64
	known    atomic.Int64  // how many payments have come to their end
	news     chan struct{} // one has

	mu   sync.Mutex
	told []told
}

const (
	// crowdCash is what an account begins with, in minor units. Few payments are that large, and many together are.
	crowdCash = 10_000
	// crowdPatience is how long a client asks for one payment.
	crowdPatience = 90 * time.Second
)

// lenient lets everybody pay as much and as often as they like, so that nothing but the money in an account limits them.
func lenient(t *testing.T, home *bank.Home) {
	t.Helper()
	overwrite(t, home.RiskRules(), `amount_ceilings:
  EUR: {hold_above: 1000000000000, refuse_above: 1000000000000}
  USD: {hold_above: 1000000000000, refuse_above: 1000000000000}
velocity:
  - {per: account, window: 1m, max_payments: 1000000000, verdict: refuse}
blocked_payees: []
`)
}

// openCrowd opens accounts in two currencies and pays cash into them.
func openCrowd(t *testing.T, mesh *bank.Apart, operator *bank.Identity, euro, dollar int) *crowd {
	t.Helper()
	counter := paymentsv1.NewPaymentServiceClient(mesh.Dial(t, operator, "payments"))
	c := &crowd{seed: rand.Uint64(), news: make(chan struct{}, 1)}
	t.Logf("the seed of what the clients do is %d", c.seed)
	for i := range euro + dollar {
		a := account{customer: fmt.Sprintf("crowd-%02d", i), currency: "EUR", cash: crowdCash}
		if i >= euro {
			a.currency = "USD"
		}
		c.accounts = append(c.accounts, a)
	}
	phones := mesh.Phones(t, names(c.accounts, func(a account) string { return a.customer })...)
	for i := range c.accounts {
		a := &c.accounts[i]
		a.phone = phones[i]
		a.id = openAccount(t, a.phone, "open-"+a.customer, a.currency)
		paid, err := counter.DepositCash(t.Context(), &paymentsv1.DepositCashRequest{
			RequestId: "cash-for-" + a.customer, AccountId: a.id, Amount: &moneyv1.Money{CurrencyCode: a.currency, MinorUnits: a.cash},
		})
		if err != nil {
			t.Fatal(err)
		}
		a.deposit = paid.GetPayment().GetPaymentId()
	}
	return c
}

// pay lets a number of clients pay until ctx ends, each payment to its end, and returns what waits for them. Each payment comes from the phone of its
// payer, whichever client makes it.
func (c *crowd) pay(ctx context.Context, t *testing.T, clients int) (wait func()) {
	t.Helper()
	var paying sync.WaitGroup
	for n := range clients {
		random := rand.New(rand.NewPCG(c.seed, uint64(n)))
		paying.Go(func() {
			for i := 0; ctx.Err() == nil; i++ {
				if !c.payOne(t, random, c.choose(random, n, i)) { //nolint:contextcheck // a payment that has begun goes to its end
					return
				}
			}
		})
	}
	t.Cleanup(paying.Wait) // a test that has failed does not wait itself
	return paying.Wait
}

// choose makes up the i-th payment of a client.
func (c *crowd) choose(random *rand.Rand, client, i int) wish {
	payer := c.accounts[random.IntN(len(c.accounts))]
	payee := payer
	for payee.id == payer.id || payee.currency != payer.currency {
		payee = c.accounts[random.IntN(len(c.accounts))]
	}
	amount := 1 + random.Int64N(crowdCash/40)
	if random.IntN(5) == 0 {
		amount = 1 + random.Int64N(2*crowdCash)
	}
	return wish{payer.phone.Bank(), &mobilev1.TransferRequest{
		RequestId: fmt.Sprintf("crowd-%02d-%06d", client, i), PayerAccountId: payer.id, PayeeAccountId: payee.id,
		Amount: &moneyv1.Money{CurrencyCode: payer.currency, MinorUnits: amount}, Reference: fmt.Sprintf("%d of client %d%70s", i, client, "."),
	}}
}

// wish is a payment that a customer wants to make, and the bank as the customer's phone has it.
type wish struct {
	bank    mobilev1.MobileBankServiceClient
	request *mobilev1.TransferRequest
}

// payOne sends one wish again and again until the bank has said what has become of it, and remembers that. It is false when the client
// gives up, which is an error.
func (c *crowd) payOne(t *testing.T, random *rand.Rand, w wish) bool {
	t.Helper()
	request, id, last := w.request, "", ""
	for begin := time.Now(); time.Since(begin) < crowdPatience && t.Context().Err() == nil; {
		transfer, err := w.attempt(t.Context(), random)
		switch last = fmt.Sprintf("%v %v", transfer, err); {
		case t.Context().Err() != nil:
			return false
		case err != nil && !askAgain(err):
			t.Errorf("%s: %v", request.GetRequestId(), err)
			return false
		case err == nil && id != "" && transfer.GetPaymentId() != id:
			t.Errorf("%s: was payment %s and is %s now", request.GetRequestId(), id, transfer.GetPaymentId())
			return false
		case err == nil:
			id = transfer.GetPaymentId()
		}
		done := transfer.GetStatus() == mobilev1.TransferStatus_TRANSFER_STATUS_DONE
		if done || transfer.GetStatus() == mobilev1.TransferStatus_TRANSFER_STATUS_REFUSED {
			c.mu.Lock()
			c.told = append(c.told, told{request: request, id: id, done: done})
			c.mu.Unlock()
			c.known.Add(1)
			select {
			case c.news <- struct{}{}:
			default: // whoever waits for news has some
			}
			return true
		}
		select {
		case <-t.Context().Done():
		case <-time.After(time.Duration(5+random.IntN(30)) * time.Millisecond):
		}
	}
	if t.Context().Err() == nil {
		t.Errorf("%s: its end is not known after %v: %s", request.GetRequestId(), crowdPatience, last)
	}
	return false
}

// attempt is one call of a client, some of whom do not wait long.
func (w wish) attempt(ctx context.Context, random *rand.Rand) (*mobilev1.Transfer, error) {
	deadline := 20 * time.Second
	if random.IntN(8) == 0 {
		deadline = time.Duration(1+random.IntN(200)) * time.Millisecond
	}
	ctx, cancel := context.WithTimeout(ctx, deadline)
	defer cancel()
	response, err := w.bank.Transfer(ctx, w.request)
	return response.GetTransfer(), err
}

// askAgain reports whether an error leaves open what has become of a payment.
func askAgain(err error) bool {
	switch status.Code(err) {
	case codes.Unavailable, codes.DeadlineExceeded, codes.ResourceExhausted:
		return true
	default:
		return false
	}
}

// waitForSome waits until a few more payments have come to their end.
func (c *crowd) waitForSome(t *testing.T, n int64) {
	t.Helper()
	before := c.known.Load()
	bank.Eventually(t, crowdPatience, func() string {
		if got := c.known.Load() - before; got < n {
			return fmt.Sprintf("%d payments have come to their end", got)
		}
		return ""
	})
}

// waitForNext waits until a payment comes to its end.
func (c *crowd) waitForNext(t *testing.T) {
	t.Helper()
	late := time.NewTimer(crowdPatience)
	defer late.Stop()
	for range 2 { // the first may be long ago
		select {
		case <-c.news:
		case <-late.C:
			t.Fatalf("no payment has come to its end within %v", crowdPatience)
		}
	}
}
