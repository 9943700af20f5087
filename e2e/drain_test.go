package e2e

import (
	"context"
	"fmt"
	"strings"
	"syscall"
	"testing"
	"time"

	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"

	"github.com/countersign-mesh/countersign/e2e/internal/bank"
	accountsv1 "github.com/countersign-mesh/countersign/proto/gen/bank/accounts/v1"
	ledgerv1 "github.com/countersign-mesh/countersign/proto/gen/bank/ledger/v1"
	mobilev1 "github.com/countersign-mesh/countersign/proto/gen/bank/mobile/v1"
	moneyv1 "github.com/countersign-mesh/countersign/proto/gen/bank/money/v1"
	paymentsv1 "github.com/countersign-mesh/countersign/proto/gen/bank/payments/v1"
	riskv1 "github.com/countersign-mesh/countersign/proto/gen/bank/risk/v1"
	auditv1 "github.com/countersign-mesh/countersign/proto/gen/mesh/audit/v1"
)

// drained is how one service is loaded while it is told to stop.
type drained struct {
	service, actor, method string
	call                   func(ctx context.Context, conn *grpc.ClientConn, n int) error
	// effects returns the requests whose effect is there after a restart; nil when there is nothing to see from outside.
	effects func(t *testing.T) map[string]bool
}

// request is the name of the nth request to a service.
func request(service string, n int) string { return fmt.Sprintf("drain-%s-%06d", service, n) }

// TestDrain sends SIGTERM to each service in turn while 32 callers call it. A call is either answered OK, and then its effect is
// there after a restart, or UNAVAILABLE, and then there is none and the policy was never asked about it: nothing that was
// accepted is lost.
func TestDrain(t *testing.T) {
	mesh := dist.NewHome(t, "gateway", "payments").Apart(t)
	mesh.StartAll(t)
	operator := mesh.Identity(t, "operator")
	payer, payee := fundedAccounts(t, mesh)
	for _, test := range []drained{
		drainRisk(payer, payee),
		drainLedger(mesh, operator),
		drainAccounts(mesh, operator),
		drainPayments(mesh, operator, payer, payee),
		drainGateway(mesh, operator),
		{
			service: "audit", actor: "operator", method: auditv1.AuditService_ListDecisions_FullMethodName,
			call: func(ctx context.Context, conn *grpc.ClientConn, _ int) error {
				_, err := auditv1.NewAuditServiceClient(conn).ListDecisions(ctx, &auditv1.ListDecisionsRequest{PageSize: 5})
				return err
			},
		},
	} {
		t.Run(test.service, func(t *testing.T) { testDrain(t, mesh, test) })
	}
	t.Run("an open stream does not hold the drain up", func(t *testing.T) { testDrainStream(t, mesh, payer) })
}

func testDrain(t *testing.T, mesh *bank.Apart, test drained) {
	actor := mesh.Identity(t, test.actor)
	counted := test.service != "audit" // which does not report to itself
	conns := make([]*grpc.ClientConn, 4)
	for i := range conns {
		conns[i] = mesh.Dial(t, actor, test.service)
	}
	// What the service calls may have been restarted, and connections come back when they have waited long enough.
	bank.Eventually(t, 15*time.Second, func() string {
		if err := test.call(t.Context(), conns[0], 0); err != nil {
			return err.Error()
		}
		return ""
	})
	before := 0
	if counted {
		before = settled(t, func() int { return letIn(t, mesh, test, actor) })
	}
	load := bank.Drive(t.Context(), conns, test.call)
	bank.Eventually(t, 30*time.Second, func() string {
		if n := load.Done(); n < 300 {
			return fmt.Sprintf("%d calls done", n)
		}
		return ""
	})
	mesh.Process(test.service).Signal(t, syscall.SIGTERM)
	start := time.Now()
	if code := mesh.Process(test.service).Wait(t, 15*time.Second); code != 0 {
		t.Errorf("exit code %d after SIGTERM:\n%s", code, mesh.Process(test.service).Output())
	}
	stopped := time.Since(start)
	ok, refused, wrong := load.Outcome()
	for _, w := range wrong {
		t.Error(w)
	}
	t.Logf("%d calls answered, %d refused, stopped after %v", len(ok), len(refused), stopped.Round(time.Millisecond))
	mesh.Start(t, test.service)
	if test.effects != nil {
		effects := test.effects(t)
		for n := range ok {
			if !effects[request(test.service, n)] {
				t.Errorf("call %d was answered OK, and its effect is lost", n)
			}
		}
		for n := range refused {
			if effects[request(test.service, n)] {
				t.Errorf("call %d was accepted, and its answer is lost", n)
			}
		}
	}
	if counted {
		bank.Eventually(t, 10*time.Second, func() string {
			if got := letIn(t, mesh, test, actor) - before; got != len(ok) {
				return fmt.Sprintf("%d calls were let in and %d answered", got, len(ok))
			}
			return ""
		})
	}
}

// settled reads a number until it is above zero and stays the same for a second: decisions reach the audit service a little later.
func settled(t *testing.T, read func() int) int {
	t.Helper()
	last, since := 0, time.Now()
	bank.Eventually(t, 10*time.Second, func() string {
		if now := read(); now != last || now == 0 {
			last, since = now, time.Now()
		}
		if time.Since(since) < time.Second {
			return "the number of decisions changes"
		}
		return ""
	})
	return last
}

// letIn counts the calls of an actor that a service's policy let in, by the audit service.
func letIn(t *testing.T, mesh *bank.Apart, test drained, actor *bank.Identity) int {
	t.Helper()
	client := auditv1.NewAuditServiceClient(mesh.Dial(t, mesh.Identity(t, "operator"), "audit"))
	n, token := 0, ""
	for {
		page, err := client.ListDecisions(t.Context(), &auditv1.ListDecisionsRequest{
			Filter: &auditv1.DecisionFilter{
				PeerId: actor.ID(), ServerId: "spiffe://bank.test/" + test.service, Method: test.method, Verdict: auditv1.Verdict_VERDICT_ALLOWED,
			},
			PageSize: 1000, PageToken: token,
		})
		if err != nil {
			t.Fatal(err)
		}
		n += len(page.GetRecords())
		if token = page.GetNextPageToken(); token == "" {
			return n
		}
	}
}

// testDrainStream tells payments to stop while a stream is open that would never end by itself.
func testDrainStream(t *testing.T, mesh *bank.Apart, account string) {
	operator := mesh.Identity(t, "operator")
	stream, err := paymentsv1.NewPaymentServiceClient(mesh.Dial(t, operator, "payments")).
		WatchPayments(t.Context(), &paymentsv1.WatchPaymentsRequest{AccountId: account})
	if err != nil {
		t.Fatal(err)
	}
	if _, err := stream.Recv(); err != nil {
		t.Fatal(err)
	}
	start := time.Now()
	mesh.Process("payments").Signal(t, syscall.SIGTERM)
	for err == nil {
		_, err = stream.Recv()
	}
	if status.Code(err) != codes.Unavailable {
		t.Errorf("the stream ended with %v, want UNAVAILABLE, so that the caller comes back", err)
	}
	if code := mesh.Process("payments").Wait(t, 15*time.Second); code != 0 {
		t.Errorf("exit code %d", code)
	}
	t.Logf("stopped after %v", time.Since(start).Round(time.Millisecond))
	mesh.Start(t, "payments")
}

func drainLedger(mesh *bank.Apart, operator *bank.Identity) drained {
	const account = "acc-drainledgeraaaaaaaaaaaaaaa"
	return drained{
		service: "ledger", actor: "payments", method: ledgerv1.LedgerService_PostTransfer_FullMethodName,
		call: func(ctx context.Context, conn *grpc.ClientConn, n int) error {
			_, err := ledgerv1.NewLedgerServiceClient(conn).PostTransfer(ctx, &ledgerv1.PostTransferRequest{
				TransferId: request("ledger", n),
				Postings:   []*ledgerv1.Posting{{AccountId: "bank-cash", Amount: euros(-1)}, {AccountId: account, Amount: euros(1)}},
			})
			return err
		},
		effects: func(t *testing.T) map[string]bool {
			client := ledgerv1.NewLedgerServiceClient(mesh.Dial(t, operator, "ledger"))
			return collect(t, func(token string) ([]string, string, error) {
				page, err := client.ListEntries(t.Context(), &ledgerv1.ListEntriesRequest{AccountId: account, PageSize: 200, PageToken: token})
				return names(page.GetEntries(), (*ledgerv1.Entry).GetTransferId), page.GetNextPageToken(), err
			})
		},
	}
}

func drainAccounts(mesh *bank.Apart, operator *bank.Identity) drained {
	return drained{
		service: "accounts", actor: "gateway", method: accountsv1.AccountService_OpenAccount_FullMethodName,
		call: func(ctx context.Context, conn *grpc.ClientConn, n int) error {
			_, err := accountsv1.NewAccountServiceClient(conn).OpenAccount(ctx, &accountsv1.OpenAccountRequest{
				CustomerId: "drain-accounts", RequestId: request("accounts", n), DisplayName: request("accounts", n), CurrencyCode: "EUR",
			})
			return err
		},
		effects: func(t *testing.T) map[string]bool { return accountsOf(t, mesh, operator, "drain-accounts") },
	}
}

func drainGateway(mesh *bank.Apart, operator *bank.Identity) drained {
	return drained{
		service: "gateway", actor: "mobile", method: mobilev1.MobileBankService_OpenAccount_FullMethodName,
		call: func(ctx context.Context, conn *grpc.ClientConn, n int) error {
			_, err := mobilev1.NewMobileBankServiceClient(conn).OpenAccount(ctx, &mobilev1.OpenAccountRequest{
				CustomerId: "drain-gateway", RequestId: request("gateway", n), DisplayName: request("gateway", n), CurrencyCode: "EUR",
			})
			return err
		},
		effects: func(t *testing.T) map[string]bool { return accountsOf(t, mesh, operator, "drain-gateway") },
	}
}

func accountsOf(t *testing.T, mesh *bank.Apart, operator *bank.Identity, customer string) map[string]bool {
	t.Helper()
	client := accountsv1.NewAccountServiceClient(mesh.Dial(t, operator, "accounts"))
	return collect(t, func(token string) ([]string, string, error) {
		page, err := client.ListAccounts(t.Context(), &accountsv1.ListAccountsRequest{CustomerId: customer, PageSize: 200, PageToken: token})
		return names(page.GetAccounts(), (*accountsv1.Account).GetDisplayName), page.GetNextPageToken(), err
	})
}

func drainPayments(mesh *bank.Apart, operator *bank.Identity, payer, payee string) drained {
	return drained{
		service: "payments", actor: "gateway", method: paymentsv1.PaymentService_CreatePayment_FullMethodName,
		call: func(ctx context.Context, conn *grpc.ClientConn, n int) error {
			_, err := paymentsv1.NewPaymentServiceClient(conn).CreatePayment(ctx, &paymentsv1.CreatePaymentRequest{
				RequestId: request("payments", n), PayerAccountId: payer, PayeeAccountId: payee, Amount: euros(1),
			})
			return err
		},
		effects: func(t *testing.T) map[string]bool {
			client := paymentsv1.NewPaymentServiceClient(mesh.Dial(t, operator, "payments"))
			return collect(t, func(token string) ([]string, string, error) {
				page, err := client.ListPayments(t.Context(), &paymentsv1.ListPaymentsRequest{AccountId: payer, PageSize: 200, PageToken: token})
				return names(page.GetPayments(), (*paymentsv1.Payment).GetRequestId), page.GetNextPageToken(), err
			})
		},
	}
}

func drainRisk(payer, payee string) drained {
	return drained{
		service: "risk", actor: "payments", method: riskv1.RiskService_AssessPayment_FullMethodName,
		call: func(ctx context.Context, conn *grpc.ClientConn, n int) error {
			_, err := riskv1.NewRiskServiceClient(conn).AssessPayment(ctx, &riskv1.AssessPaymentRequest{
				PaymentId:       "pay-" + strings.Repeat("a", 19) + base32(n),
				PayerCustomerId: "drain-risk", PayerAccountId: payer, PayeeAccountId: payee, Amount: euros(1),
			})
			return err
		},
	}
}

// base32 writes a number as seven characters of a to z and 2 to 7.
func base32(n int) string {
	const alphabet = "abcdefghijklmnopqrstuvwxyz234567"
	text := make([]byte, 7)
	for i := range text {
		text[i] = alphabet[n>>(5*i)&31]
	}
	return string(text)
}

func euros(cents int64) *moneyv1.Money { return &moneyv1.Money{CurrencyCode: "EUR", MinorUnits: cents} }

// fundedAccounts opens two accounts and pays cash into the first.
func fundedAccounts(t *testing.T, mesh *bank.Apart) (payer, payee string) {
	t.Helper()
	phone := mobilev1.NewMobileBankServiceClient(mesh.Dial(t, mesh.Identity(t, "mobile"), "gateway"))
	open := func(customer string) string {
		response, err := phone.OpenAccount(t.Context(), &mobilev1.OpenAccountRequest{
			CustomerId: customer, RequestId: "open-" + customer, CurrencyCode: "EUR",
		})
		if err != nil {
			t.Fatal(err)
		}
		return response.GetAccount().GetAccountId()
	}
	payer, payee = open("alice"), open("bob")
	counter := paymentsv1.NewPaymentServiceClient(mesh.Dial(t, mesh.Identity(t, "operator"), "payments"))
	deposit, err := counter.DepositCash(t.Context(), &paymentsv1.DepositCashRequest{
		RequestId: "cash-for-alice", AccountId: payer, Amount: euros(1_000_000),
	})
	if err != nil {
		t.Fatal(err)
	}
	if state := deposit.GetPayment().GetState(); state != paymentsv1.PaymentState_PAYMENT_STATE_POSTED {
		t.Fatalf("the deposit is %v: %v", state, deposit.GetPayment().GetReasons())
	}
	return payer, payee
}

// collect reads every page of a list.
func collect(t *testing.T, list func(token string) (names []string, next string, err error)) map[string]bool {
	t.Helper()
	all := make(map[string]bool)
	for token := ""; ; {
		page, next, err := list(token)
		if err != nil {
			t.Fatal(err)
		}
		for _, name := range page {
			all[name] = true
		}
		if token = next; token == "" {
			return all
		}
	}
}

func names[T any](items []T, name func(T) string) []string {
	list := make([]string, len(items))
	for i, item := range items {
		list[i] = name(item)
	}
	return list
}
