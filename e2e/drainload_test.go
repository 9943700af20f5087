package e2e

import (
	"context"
	"fmt"
	"strings"
	"testing"

	"google.golang.org/grpc"

	"github.com/countersign-mesh/countersign/e2e/internal/bank"
	accountsv1 "github.com/countersign-mesh/countersign/proto/gen/bank/accounts/v1"
	ledgerv1 "github.com/countersign-mesh/countersign/proto/gen/bank/ledger/v1"
	loginv1 "github.com/countersign-mesh/countersign/proto/gen/bank/login/v1"
	mobilev1 "github.com/countersign-mesh/countersign/proto/gen/bank/mobile/v1"
	paymentsv1 "github.com/countersign-mesh/countersign/proto/gen/bank/payments/v1"
	riskv1 "github.com/countersign-mesh/countersign/proto/gen/bank/risk/v1"
)

// drained is how one service is loaded while it is told to stop.
type drained struct {
	service, actor, method string
	// dial connects whoever calls when that is no workload; nil for the actor at the service. The policy is not asked about such calls.
	dial func(t *testing.T) *grpc.ClientConn
	call func(ctx context.Context, conn *grpc.ClientConn, n int) error
	// effects returns the requests whose effect is there after a restart; nil when there is nothing to see from outside.
	effects func(t *testing.T) map[string]bool
}

// request is the name of the nth request to a service.
func request(service string, n int) string { return fmt.Sprintf("drain-%s-%06d", service, n) }

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

func drainAccounts(mesh *bank.Apart, operator *bank.Identity, exchange *bank.Exchange) drained {
	return drained{
		service: "accounts", actor: "gateway", method: accountsv1.AccountService_OpenAccount_FullMethodName,
		call: func(ctx context.Context, conn *grpc.ClientConn, n int) error {
			open := &accountsv1.OpenAccountRequest{
				CustomerId: "alice", RequestId: request("accounts", n), DisplayName: request("accounts", n), CurrencyCode: "EUR",
			}
			ctx, err := exchange.For(ctx, open)
			if err != nil {
				return fmt.Errorf("its token: %w", err)
			}
			_, err = accountsv1.NewAccountServiceClient(conn).OpenAccount(ctx, open)
			return err
		},
		effects: func(t *testing.T) map[string]bool { return accountsOf(t, mesh, operator, "alice") },
	}
}

// drainEdge is the gateway as a phone has it.
func drainEdge(mesh *bank.Apart, operator *bank.Identity, phone *bank.Phone) drained {
	return drained{
		service: "gateway", actor: "phone", dial: func(t *testing.T) *grpc.ClientConn { t.Helper(); return phone.Dial(t) },
		call: func(ctx context.Context, conn *grpc.ClientConn, n int) error {
			_, err := mobilev1.NewMobileBankServiceClient(conn).OpenAccount(ctx, &mobilev1.OpenAccountRequest{
				RequestId: request("gateway", n), DisplayName: request("gateway", n), CurrencyCode: "EUR",
			})
			return err
		},
		effects: func(t *testing.T) map[string]bool { return accountsOf(t, mesh, operator, phone.Customer) },
	}
}

func drainLogin(phone *bank.Phone) drained {
	return drained{
		service: "login", actor: "gateway", method: loginv1.TransactionTokenService_IssueTransactionToken_FullMethodName,
		call: func(ctx context.Context, conn *grpc.ClientConn, n int) error {
			_, err := bank.NewExchange(phone, conn).Token(ctx, "accounts.close", map[string]string{"account_id": request("login", n)})
			return err
		},
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

func drainPayments(mesh *bank.Apart, operator *bank.Identity, exchange *bank.Exchange, payer, payee string) drained {
	return drained{
		service: "payments", actor: "gateway", method: paymentsv1.PaymentService_CreatePayment_FullMethodName,
		call: func(ctx context.Context, conn *grpc.ClientConn, n int) error {
			pay := &paymentsv1.CreatePaymentRequest{
				RequestId: request("payments", n), PaymentId: bank.PaymentID(request("payments", n)),
				PayerAccountId: payer, PayeeAccountId: payee, Amount: euros(1),
			}
			ctx, err := exchange.For(ctx, pay)
			if err != nil {
				return fmt.Errorf("its token: %w", err)
			}
			_, err = paymentsv1.NewPaymentServiceClient(conn).CreatePayment(ctx, pay)
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
