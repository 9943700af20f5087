package e2e

import (
	"context"
	"fmt"
	"sync"
	"sync/atomic"
	"syscall"
	"testing"
	"time"

	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"

	"github.com/countersign-mesh/countersign/e2e/internal/bank"
	ledgerv1 "github.com/countersign-mesh/countersign/proto/gen/bank/ledger/v1"
	mobilev1 "github.com/countersign-mesh/countersign/proto/gen/bank/mobile/v1"
	paymentsv1 "github.com/countersign-mesh/countersign/proto/gen/bank/payments/v1"
)

// customer is one customer with a phone, who pays a cent over and over.
type customer struct {
	name, account, shop string
	phone               *bank.Phone
	// cash is how many cents they began with.
	cash int64
	// paid counts the payments that the bank has said are done.
	paid atomic.Int64
}

// TestRollingRestart restarts every service in turn while customers pay, each by SIGTERM and then each again by kill -9. A
// customer who is told UNAVAILABLE sends the same request again, as the contract says. In the end every payment that a customer was
// told is done is in the books, once, and nothing else is.
func TestRollingRestart(t *testing.T) {
	mesh := dist.NewHome(t).Apart(t)
	mesh.StartAll(t)
	operator := mesh.Identity(t, "operator")
	customers := openFor(t, mesh, operator, 16, 10_000)
	rolled, stop := context.WithCancel(t.Context())
	var paying sync.WaitGroup
	for _, c := range customers {
		paying.Go(func() { c.pay(rolled, t) })
	}
	for _, sig := range []syscall.Signal{syscall.SIGTERM, syscall.SIGKILL} {
		for _, service := range []string{"payments", "ledger", "accounts", "risk", "gateway", "login", "audit"} {
			waitForPayments(t, customers)
			mesh.Process(service).Signal(t, sig)
			if code := mesh.Process(service).Wait(t, 15*time.Second); sig == syscall.SIGTERM && code != 0 {
				t.Errorf("%s ended with %d:\n%s", service, code, mesh.Process(service).Output())
			}
			mesh.Start(t, service)
		}
	}
	stop()
	paying.Wait()
	checkBooks(t, mesh, operator, customers)
}

// waitForPayments waits until a few more payments are done.
func waitForPayments(t *testing.T, customers []*customer) {
	t.Helper()
	total := func() (n int64) {
		for _, c := range customers {
			n += c.paid.Load()
		}
		return n
	}
	before := total()
	bank.Eventually(t, 20*time.Second, func() string {
		if n := total() - before; n < int64(len(customers)) {
			return fmt.Sprintf("%d payments done", n)
		}
		return ""
	})
}

// openFor opens an account each for a number of customers and for the shops that they pay, which are one merchant's, with so many cents in it.
func openFor(t *testing.T, mesh *bank.Apart, operator *bank.Identity, n int, cash int64) []*customer {
	t.Helper()
	counter := paymentsv1.NewPaymentServiceClient(mesh.Dial(t, operator, "payments"))
	list := []string{"merchant"}
	for i := range n {
		list = append(list, fmt.Sprintf("customer-%02d", i))
	}
	phones := mesh.Phones(t, list...)
	customers := make([]*customer, n)
	for i := range customers {
		phone, name := phones[1+i], list[1+i]
		customers[i] = &customer{
			name: name, phone: phone, cash: cash,
			account: openAccount(t, phone, "open-"+name, "EUR"), shop: openAccount(t, phones[0], "open-shop-of-"+name, "EUR"),
		}
		_, err := counter.DepositCash(t.Context(), &paymentsv1.DepositCashRequest{
			RequestId: "cash-for-" + name, AccountId: customers[i].account, Amount: euros(cash),
		})
		if err != nil {
			t.Fatal(err)
		}
	}
	return customers
}

// openAccount opens an account of a phone's customer.
func openAccount(t *testing.T, phone *bank.Phone, requestID, currency string) string {
	t.Helper()
	response, err := phone.Bank().OpenAccount(t.Context(), &mobilev1.OpenAccountRequest{RequestId: requestID, CurrencyCode: currency})
	if err != nil {
		t.Fatal(err)
	}
	return response.GetAccount().GetAccountId()
}

// pay pays until ctx ends, each payment to its end.
func (c *customer) pay(ctx context.Context, t *testing.T) {
	t.Helper()
	const patience = time.Minute
	for n := 0; ctx.Err() == nil; n++ {
		request := c.nth(n)
		for begin := time.Now(); ; {
			response, err := c.phone.Bank().Transfer(t.Context(), request) //nolint:contextcheck // a payment that has begun goes to its end
			if response.GetTransfer().GetStatus() == mobilev1.TransferStatus_TRANSFER_STATUS_DONE {
				c.paid.Add(1)
				break
			}
			if err != nil && status.Code(err) != codes.Unavailable {
				t.Errorf("%s: %v", request.GetRequestId(), err)
				return
			}
			if err == nil && !underWay(response.GetTransfer()) {
				t.Errorf("%s: %v", request.GetRequestId(), response.GetTransfer())
				return
			}
			if time.Since(begin) > patience {
				t.Errorf("%s: not done within %v: %v %v", request.GetRequestId(), patience, response, err)
				return
			}
			select {
			case <-t.Context().Done():
				return
			case <-time.After(50 * time.Millisecond):
			}
		}
	}
}

// underWay reports whether a payment is not over yet. It is held while risk is away for longer than payments waits for it, and assessed once risk is back.
func underWay(transfer *mobilev1.Transfer) bool {
	switch transfer.GetStatus() {
	case mobilev1.TransferStatus_TRANSFER_STATUS_PENDING, mobilev1.TransferStatus_TRANSFER_STATUS_HELD:
		return true
	default:
		return false
	}
}

// nth is the request of the customer's nth payment.
func (c *customer) nth(n int) *mobilev1.TransferRequest {
	return &mobilev1.TransferRequest{RequestId: fmt.Sprintf("%s-%06d", c.name, n), PayerAccountId: c.account, PayeeAccountId: c.shop, Amount: euros(1)}
}

// checkBooks compares the books with what the customers were told.
func checkBooks(t *testing.T, mesh *bank.Apart, operator *bank.Identity, customers []*customer) {
	t.Helper()
	books := ledgerv1.NewLedgerServiceClient(mesh.Dial(t, operator, "ledger"))
	balance := func(account string) int64 {
		response, err := books.GetBalance(t.Context(), &ledgerv1.GetBalanceRequest{AccountId: account})
		if err != nil {
			t.Fatal(err)
		}
		if len(response.GetBalances()) == 0 {
			return 0
		}
		return response.GetBalances()[0].GetMinorUnits()
	}
	var total int64
	for _, c := range customers {
		paid := c.paid.Load()
		total += paid
		if got := balance(c.shop); got != paid {
			t.Errorf("%s was told that %d payments are done, and %d are in the books", c.name, paid, got)
		}
		if got := balance(c.account); got != c.cash-paid {
			t.Errorf("%s has %d cents after %d payments", c.name, got, paid)
		}
	}
	trial, err := books.CheckTrialBalance(t.Context(), &ledgerv1.CheckTrialBalanceRequest{})
	if err != nil {
		t.Fatal(err)
	}
	if want := total + int64(len(customers)); !trial.GetBalanced() || trial.GetTransferCount() != want {
		t.Errorf("want %d transfers in balance, got %v", want, trial)
	}
	t.Logf("%d payments, each once in the books", total)
}
