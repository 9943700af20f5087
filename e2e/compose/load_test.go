package compose

import (
	"context"
	"fmt"
	"slices"
	"sync"
	"testing"
	"time"

	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"

	"github.com/countersign-mesh/countersign/e2e/internal/bank"
	mobilev1 "github.com/countersign-mesh/countersign/proto/gen/bank/mobile/v1"
	moneyv1 "github.com/countersign-mesh/countersign/proto/gen/bank/money/v1"
	paymentsv1 "github.com/countersign-mesh/countersign/proto/gen/bank/payments/v1"
)

const (
	payers = 6
	// pace is the time between two payments of one payer. An account pays and is paid less often than the risk service finds remarkable.
	pace = 150 * time.Millisecond
	// cash is what an account begins with, in minor units, and more than all its payments together.
	cash = 1_000_000
	// patience is how long a payer asks for one payment.
	patience = 90 * time.Second
)

// payment is one that a payer was told is done.
type payment struct {
	id, payer, payee string
	amount           int64
	end              time.Time
}

// load is payers outside of the containers, whose phones pay each other through the gateway's published port. Each asks for a payment until the bank
// says that it is done. It is safe for concurrent use.
type load struct {
	phones   []*bank.Phone // one a payer
	accounts []string
	stop     context.CancelFunc
	paying   sync.WaitGroup

	mu     sync.Mutex
	done   []payment
	failed []string // attempts that were answered with an error
	wrong  []string // what must never be
}

// newLoad opens an account for each payer and pays cash into it, and starts to pay.
func newLoad(t *testing.T, p *project) *load {
	t.Helper()
	l := new(load)
	var customers []string
	for n := range payers {
		customers = append(customers, customer(n))
	}
	l.phones = p.phones(t, customers...)
	for n, phone := range l.phones {
		opened, err := phone.Bank().OpenAccount(t.Context(), &mobilev1.OpenAccountRequest{RequestId: "open-" + customer(n), CurrencyCode: "EUR"})
		if err != nil {
			t.Fatal(err)
		}
		account := opened.GetAccount().GetAccountId()
		l.accounts = append(l.accounts, account)
		paid := &paymentsv1.DepositCashResponse{}
		if err := p.call(t.Context(), "payments", "DepositCash", &paymentsv1.DepositCashRequest{
			RequestId: "cash-" + customer(n), AccountId: account, Amount: &moneyv1.Money{CurrencyCode: "EUR", MinorUnits: cash},
		}, paid); err != nil {
			t.Fatal(err)
		}
	}
	var ctx context.Context
	ctx, l.stop = context.WithCancel(t.Context())
	for n := range payers {
		l.paying.Go(func() { l.pay(ctx, n) })
	}
	t.Cleanup(l.end)
	return l
}

func customer(n int) string { return fmt.Sprintf("payer-%d", n) }

// end stops every payer after the payment that it has begun.
func (l *load) end() {
	l.stop()
	l.paying.Wait()
}

// pay makes one payment after another.
func (l *load) pay(ctx context.Context, n int) {
	tick := time.NewTicker(pace)
	defer tick.Stop()
	for i := 0; ctx.Err() == nil; i++ {
		payee := l.accounts[(n+1+i%(payers-1))%payers]
		l.one(ctx, l.phones[n], &mobilev1.TransferRequest{
			RequestId: fmt.Sprintf("%s-%06d", customer(n), i), PayerAccountId: l.accounts[n], PayeeAccountId: payee,
			Amount: &moneyv1.Money{CurrencyCode: "EUR", MinorUnits: int64(1 + i%50)}, Reference: "under load",
		})
		select {
		case <-tick.C:
		case <-ctx.Done():
		}
	}
}

// one sends one request again and again until the bank says that the payment is done. One that has begun goes to its end.
func (l *load) one(ctx context.Context, phone *bank.Phone, request *mobilev1.TransferRequest) {
	ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), patience)
	defer cancel()
	for id := ""; ctx.Err() == nil; {
		transfer, err := attempt(ctx, phone, request)
		if ended := l.note(request, transfer, err, &id); ended {
			return
		}
		select {
		case <-ctx.Done():
		case <-time.After(50 * time.Millisecond): // a client's wait between two attempts
		}
	}
	l.mu.Lock()
	defer l.mu.Unlock()
	l.wrong = append(l.wrong, fmt.Sprintf("%s: its end is not known after %v", request.GetRequestId(), patience))
}

func attempt(ctx context.Context, phone *bank.Phone, request *mobilev1.TransferRequest) (*mobilev1.Transfer, error) {
	ctx, cancel := context.WithTimeout(ctx, 10*time.Second)
	defer cancel()
	response, err := phone.Bank().Transfer(ctx, request)
	return response.GetTransfer(), err
}

// note keeps what an attempt has shown and reports whether it was the last for this payment.
func (l *load) note(request *mobilev1.TransferRequest, transfer *mobilev1.Transfer, err error, id *string) bool {
	l.mu.Lock()
	defer l.mu.Unlock()
	if err != nil {
		l.failed = append(l.failed, fmt.Sprintf("%s %s: %v", time.Now().Format("15:04:05.000"), request.GetRequestId(), err))
		if code := status.Code(err); code == codes.Unavailable || code == codes.DeadlineExceeded || code == codes.ResourceExhausted {
			return false
		}
		l.wrong = append(l.wrong, fmt.Sprintf("%s: %v", request.GetRequestId(), err))
		return true
	}
	if *id != "" && *id != transfer.GetPaymentId() {
		l.wrong = append(l.wrong, fmt.Sprintf("%s: was payment %s and is %s now", request.GetRequestId(), *id, transfer.GetPaymentId()))
	}
	*id = transfer.GetPaymentId()
	switch transfer.GetStatus() {
	case mobilev1.TransferStatus_TRANSFER_STATUS_DONE:
		l.done = append(l.done, payment{
			id: *id, payer: request.GetPayerAccountId(), payee: request.GetPayeeAccountId(), amount: request.GetAmount().GetMinorUnits(), end: time.Now(),
		})
		return true
	case mobilev1.TransferStatus_TRANSFER_STATUS_REFUSED:
		l.wrong = append(l.wrong, fmt.Sprintf("%s: refused: %v", request.GetRequestId(), transfer))
		return true
	default:
		return false
	}
}

// count returns how many payments are done, and how many attempts were answered with an error.
func (l *load) count() (done, failed int) {
	l.mu.Lock()
	defer l.mu.Unlock()
	return len(l.done), len(l.failed)
}

// payments returns those that are done.
func (l *load) payments() []payment {
	l.mu.Lock()
	defer l.mu.Unlock()
	return slices.Clone(l.done)
}

// goesOn waits until each payer could have had a few more payments done, and returns how long that took.
func (l *load) goesOn(t *testing.T) time.Duration {
	t.Helper()
	begin, before := time.Now(), 0
	before, _ = l.count()
	bank.Eventually(t, patience, func() string {
		if done, _ := l.count(); done < before+3*payers {
			return fmt.Sprintf("%d payments are done since", done-before)
		}
		return ""
	})
	return time.Since(begin)
}

// sound fails the test for what must never be.
func (l *load) sound(t *testing.T) {
	t.Helper()
	l.mu.Lock()
	defer l.mu.Unlock()
	for _, w := range l.wrong {
		t.Error(w)
	}
	l.wrong = nil
}
