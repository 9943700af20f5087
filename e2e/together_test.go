package e2e

import (
	"context"
	"fmt"
	"sync"
	"testing"
	"time"

	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"

	"github.com/countersign-mesh/countersign/e2e/internal/bank"
	"github.com/countersign-mesh/countersign/pkg/database/databasetest"
	ledgerv1 "github.com/countersign-mesh/countersign/proto/gen/bank/ledger/v1"
	mobilev1 "github.com/countersign-mesh/countersign/proto/gen/bank/mobile/v1"
	paymentsv1 "github.com/countersign-mesh/countersign/proto/gen/bank/payments/v1"
)

// many is how many clients do the same at once.
const many = 64

// TestManyAtOnce lets 64 clients, each with a connection of its own, do the same at the same moment.
func TestManyAtOnce(t *testing.T) {
	onEach(t, func(t *testing.T, mesh *bank.Apart, _ *databasetest.Server) {
		mesh.StartAll(t)
		operator := mesh.Identity(t, "operator")
		crowd := openCrowd(t, mesh, operator, 4, 0)
		clients := make(map[string][]*grpc.ClientConn)
		for _, account := range crowd.accounts {
			for range many {
				clients[account.id] = append(clients[account.id], account.phone.Dial(t))
			}
		}
		a := newAuditor(t, mesh, operator)
		t.Run("the same request has one effect", func(t *testing.T) { testSameRequest(t, clients, crowd.accounts, a) })
		t.Run("the same request ID for other content is an error", func(t *testing.T) { testOtherContent(t, clients, crowd.accounts, a) })
		t.Run("more than there is cannot be spent", func(t *testing.T) { testOverdraft(t, clients, crowd.accounts[2:], a) })
		t.Run("money that goes round is neither lost nor made", func(t *testing.T) { testCircle(t, clients, crowd.accounts, a) })
		verifyOffline(t, mesh)
	})
}

// together makes a call from each client at once, on one of the connections that the payer's phone has, and returns what each was told. Clients who do
// not know ask again.
func together(t *testing.T, clients map[string][]*grpc.ClientConn, request func(client int) *mobilev1.TransferRequest) ([]*mobilev1.Transfer, []error) {
	t.Helper()
	transfers, errs := make([]*mobilev1.Transfer, many), make([]error, many)
	var calling sync.WaitGroup
	begin := make(chan struct{})
	for i := range many {
		request := request(i)
		conn := clients[request.GetPayerAccountId()][i]
		if err := bank.Connected(t.Context(), conn); err != nil {
			t.Fatal(err)
		}
		calling.Go(func() {
			<-begin
			transfers[i], errs[i] = untilKnown(t.Context(), mobilev1.NewMobileBankServiceClient(conn), request)
		})
	}
	close(begin)
	calling.Wait()
	return transfers, errs
}

// untilKnown sends a request until its end is known, or it fails for good.
func untilKnown(ctx context.Context, phone mobilev1.MobileBankServiceClient, request *mobilev1.TransferRequest) (*mobilev1.Transfer, error) {
	ctx, cancel := context.WithTimeout(ctx, time.Minute)
	defer cancel()
	for {
		response, err := phone.Transfer(ctx, request)
		switch s := response.GetTransfer().GetStatus(); {
		case ctx.Err() != nil:
			return response.GetTransfer(), fmt.Errorf("its end is not known after a minute: %v: %w", response, ctx.Err())
		case err != nil && !askAgain(err):
			return nil, err
		case s == mobilev1.TransferStatus_TRANSFER_STATUS_DONE, s == mobilev1.TransferStatus_TRANSFER_STATUS_REFUSED:
			return response.GetTransfer(), nil
		}
		select {
		case <-ctx.Done():
		case <-time.After(50 * time.Millisecond):
		}
	}
}

// testSameRequest: ATTACKS 62.
func testSameRequest(t *testing.T, clients map[string][]*grpc.ClientConn, accounts []account, a auditor) {
	payer, payee := accounts[0], accounts[1]
	before, _ := a.balance(t, payee.id)
	transfers, errs := together(t, clients, func(int) *mobilev1.TransferRequest { return pays(payer, payee, "the-same", 1234) })
	for i, err := range errs {
		if err != nil {
			t.Fatalf("client %d: %v", i, err)
		}
		if transfers[i].GetPaymentId() != transfers[0].GetPaymentId() || transfers[i].GetStatus() != mobilev1.TransferStatus_TRANSFER_STATUS_DONE {
			t.Errorf("client %d was told %v, and client 0 %v", i, transfers[i], transfers[0])
		}
	}
	if got, _ := a.balance(t, payee.id); got != before+1234 {
		t.Errorf("the payee had %d and has %d after one payment of 1234", before, got)
	}
	all := make(map[string]*paymentsv1.Payment)
	if err := a.list(t.Context(), payer.id, all); err != nil {
		t.Fatal(err)
	}
	if len(all) != 2 { // the cash, and this
		t.Errorf("want one payment, got %v", all)
	}
}

// testOtherContent: ATTACKS 62. One of the clients comes first, whoever it is.
func testOtherContent(t *testing.T, clients map[string][]*grpc.ClientConn, accounts []account, a auditor) {
	payer, payee := accounts[0], accounts[1]
	before, _ := a.balance(t, payee.id)
	transfers, errs := together(t, clients, func(i int) *mobilev1.TransferRequest { return pays(payer, payee, "not-the-same", int64(1+i)) })
	var done []int64
	for i, err := range errs {
		switch {
		case err == nil && transfers[i].GetStatus() == mobilev1.TransferStatus_TRANSFER_STATUS_DONE:
			done = append(done, transfers[i].GetAmount().GetMinorUnits())
		case status.Code(err) != codes.AlreadyExists:
			t.Errorf("client %d: %v, %v", i, transfers[i], err)
		}
	}
	if got, _ := a.balance(t, payee.id); len(done) != 1 || got != before+done[0] {
		t.Errorf("want one payment done, got those of %v; the payee had %d and has %d", done, before, got)
	}
}

// testOverdraft: ATTACKS 63. There is enough for seven of the payments.
func testOverdraft(t *testing.T, clients map[string][]*grpc.ClientConn, accounts []account, a auditor) {
	payer, payee := accounts[0], accounts[1]
	const amount, enough = crowdCash/7 - 1, 7
	transfers, errs := together(t, clients, func(i int) *mobilev1.TransferRequest {
		return pays(payer, payee, fmt.Sprintf("overdraft-%02d", i), amount)
	})
	done := 0
	for i, err := range errs {
		if err != nil {
			t.Errorf("client %d: %v", i, err)
		}
		if transfers[i].GetStatus() == mobilev1.TransferStatus_TRANSFER_STATUS_DONE {
			done++
		}
	}
	got, held := a.balance(t, payer.id)
	if done != enough || got != payer.cash-enough*amount || held != 0 {
		t.Errorf("%d payments are done, want %d; %d are left, %d held", done, enough, got, held)
	}
	a.entries(t, payer.id) // none of its balances is below zero
	a.noHolds(t, payer.id)
}

// testCircle: ATTACKS 63. Each client pays nearly all that an account ever has on to the next one.
func testCircle(t *testing.T, clients map[string][]*grpc.ClientConn, accounts []account, a auditor) {
	total := func() (sum int64) {
		for _, account := range accounts {
			got, _ := a.balance(t, account.id)
			sum += got
		}
		return sum
	}
	before := total()
	_, errs := together(t, clients, func(i int) *mobilev1.TransferRequest {
		payer, payee := accounts[i%len(accounts)], accounts[(i+1)%len(accounts)]
		return pays(payer, payee, fmt.Sprintf("circle-%02d", i), crowdCash-crowdCash/10)
	})
	for i, err := range errs {
		if err != nil {
			t.Errorf("client %d: %v", i, err)
		}
	}
	if after := total(); after != before {
		t.Errorf("the accounts had %d together, and have %d", before, after)
	}
	for _, account := range accounts {
		a.entries(t, account.id)
		a.noHolds(t, account.id)
	}
	trial, err := a.books.CheckTrialBalance(t.Context(), &ledgerv1.CheckTrialBalanceRequest{})
	if err != nil || !trial.GetBalanced() {
		t.Errorf("the books: %v, %v", trial, err)
	}
}

// pays is the request of a payment.
func pays(payer, payee account, requestID string, minor int64) *mobilev1.TransferRequest {
	return &mobilev1.TransferRequest{
		RequestId: requestID, PayerAccountId: payer.id, PayeeAccountId: payee.id, Amount: euros(minor),
	}
}
