package rpc_test

import (
	"context"
	"log/slog"
	"path/filepath"
	"sync"
	"testing"
	"time"

	"go.uber.org/goleak"
	"google.golang.org/genproto/googleapis/rpc/errdetails"
	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"
	"google.golang.org/protobuf/proto"

	"github.com/countersign-mesh/countersign/pkg/database/databasetest"
	"github.com/countersign-mesh/countersign/pkg/mesh"
	"github.com/countersign-mesh/countersign/pkg/meshtest"
	"github.com/countersign-mesh/countersign/pkg/userauth/txntoken"
	"github.com/countersign-mesh/countersign/pkg/userauth/txntoken/txntokentest"
	accountsv1 "github.com/countersign-mesh/countersign/proto/gen/bank/accounts/v1"
	ledgerv1 "github.com/countersign-mesh/countersign/proto/gen/bank/ledger/v1"
	loginv1 "github.com/countersign-mesh/countersign/proto/gen/bank/login/v1"
	moneyv1 "github.com/countersign-mesh/countersign/proto/gen/bank/money/v1"
	paymentsv1 "github.com/countersign-mesh/countersign/proto/gen/bank/payments/v1"
	riskv1 "github.com/countersign-mesh/countersign/proto/gen/bank/risk/v1"
	"github.com/countersign-mesh/countersign/services/payments/internal/activity"
	"github.com/countersign-mesh/countersign/services/payments/internal/machine"
	"github.com/countersign-mesh/countersign/services/payments/internal/neighbours"
	"github.com/countersign-mesh/countersign/services/payments/internal/rpc"
	"github.com/countersign-mesh/countersign/services/payments/internal/store"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(databasetest.Main{M: m}) }

const (
	alice  = "acc-aaaaaaaaaaaaaaaaaaaaaaaaaa"
	bob    = "acc-bbbbbbbbbbbbbbbbbbbbbbbbbb"
	closed = "acc-cccccccccccccccccccccccccc"
	dollar = "acc-dddddddddddddddddddddddddd"
	nobody = "acc-eeeeeeeeeeeeeeeeeeeeeeeeee"
	frozen = "acc-ffffffffffffffffffffffffff"
)

// around is the four neighbours. A hook, when there is one, is asked first; its error is the answer.
type around struct {
	accountsv1.UnimplementedAccountServiceServer
	riskv1.UnimplementedRiskServiceServer
	loginv1.UnimplementedTransactionTokenServiceServer
	ledgerv1.UnimplementedLedgerServiceServer

	mu       sync.Mutex
	hooks    map[string]func(ctx context.Context) error // by method
	verdict  *riskv1.AssessPaymentResponse
	assessed []*riskv1.AssessPaymentRequest
	books    books
	frozen   map[string]bool           // by account
	calls    map[string]int            // by method
	issued   map[string]txntoken.Token // by transaction
	renewed  func(txntoken.Token) string
}

// on sets the hook of a method; nil takes it away.
func (a *around) on(method string, hook func(ctx context.Context) error) {
	a.mu.Lock()
	defer a.mu.Unlock()
	a.hooks[method] = hook
}

func (a *around) enter(ctx context.Context, method string) error {
	a.mu.Lock()
	a.calls[method]++
	hook := a.hooks[method]
	a.mu.Unlock()
	if hook == nil {
		return nil
	}
	return hook(ctx)
}

func (a *around) GetAccount(ctx context.Context, req *accountsv1.GetAccountRequest) (*accountsv1.GetAccountResponse, error) {
	if err := a.enter(ctx, "GetAccount"); err != nil {
		return nil, err
	}
	if req.GetAccountId() == nobody {
		return nil, status.Error(codes.NotFound, "no such account")
	}
	account := &accountsv1.Account{
		AccountId: req.GetAccountId(), CustomerId: "alice", CurrencyCode: "EUR", Status: accountsv1.AccountStatus_ACCOUNT_STATUS_OPEN,
	}
	switch req.GetAccountId() {
	case closed:
		account.Status = accountsv1.AccountStatus_ACCOUNT_STATUS_CLOSED
	case dollar:
		account.CurrencyCode = "USD"
	}
	a.mu.Lock()
	defer a.mu.Unlock()
	if a.frozen[req.GetAccountId()] {
		account.Status = accountsv1.AccountStatus_ACCOUNT_STATUS_FROZEN
	}
	return &accountsv1.GetAccountResponse{Account: account}, nil
}

func (a *around) AssessPayment(ctx context.Context, req *riskv1.AssessPaymentRequest) (*riskv1.AssessPaymentResponse, error) {
	if err := a.enter(ctx, "AssessPayment"); err != nil {
		return nil, err
	}
	a.mu.Lock()
	defer a.mu.Unlock()
	a.assessed = append(a.assessed, req)
	return a.verdict, nil
}

// bank is the payments service among its neighbours, each served under its own identity and the bank's policy.
type bank struct {
	*around
	mesh  *meshtest.Mesh
	login *txntokentest.Issuer
	log   *logBuffer
	addr  string
}

func newBank(t *testing.T) *bank {
	t.Helper()
	return newBankOver(t, databasetest.SQLite(t))
}

func newBankOver(t *testing.T, dsn string) *bank {
	t.Helper()
	b := &bank{login: txntokentest.New(t, "bank.test"), log: &logBuffer{}, mesh: meshtest.Open(t, "bank.test", filepath.Join("..", "..", "..", "..", "deploy", "policy", "bank.yaml")), around: &around{
		hooks:   map[string]func(context.Context) error{},
		verdict: &riskv1.AssessPaymentResponse{Verdict: riskv1.Verdict_VERDICT_ALLOW},
		books:   books{holds: map[string]*ledgerv1.Hold{}, posted: map[string]proto.Message{}},
		frozen:  map[string]bool{frozen: true},
		calls:   map[string]int{},
		issued:  map[string]txntoken.Token{},
	}}
	b.renewed = func(token txntoken.Token) string { return b.login.Token(t, token, 0) }
	b.addr = b.mesh.Serve(t, "/payments", b.service(t, dsn), mesh.WithUsers(b.login.Verifier()))
	return b
}

// service puts the payments service together as main does.
func (b *bank) service(t *testing.T, dsn string) func(grpc.ServiceRegistrar) {
	t.Helper()
	dial := func(path string, register func(grpc.ServiceRegistrar)) *grpc.ClientConn {
		return b.mesh.Dial(t, "/payments", path, b.mesh.Serve(t, path, register, mesh.WithUsers(b.login.Verifier())),
			mesh.WithServiceConfig(neighbours.ServiceConfig), mesh.WithTransactionTokens(neighbours.LedgerService))
	}
	accounts := dial("/accounts", func(r grpc.ServiceRegistrar) { accountsv1.RegisterAccountServiceServer(r, b) })
	risk := dial("/risk", func(r grpc.ServiceRegistrar) { riskv1.RegisterRiskServiceServer(r, b) })
	ledger := dial("/ledger", func(r grpc.ServiceRegistrar) { ledgerv1.RegisterLedgerServiceServer(r, b) })
	login := dial("/login", func(r grpc.ServiceRegistrar) {
		loginv1.RegisterKeyServiceServer(r, loginv1.UnimplementedKeyServiceServer{})
		loginv1.RegisterCustomerServiceServer(r, loginv1.UnimplementedCustomerServiceServer{})
		loginv1.RegisterTransactionTokenServiceServer(r, b)
	})
	log := slog.New(slog.NewTextHandler(b.log, &slog.HandlerOptions{Level: slog.LevelDebug}))
	s, err := store.Open(t.Context(), dsn)
	if err != nil {
		t.Fatal(err)
	}
	feed := activity.New(s)
	m := machine.New(s, machine.Neighbours{
		Accounts: neighbours.NewAccounts(accounts), Risk: neighbours.NewRisk(risk),
		Ledger: neighbours.NewLedger(ledger, neighbours.NewTokens(login, b.login.Verifier())),
	}, feed, machine.WithLogger(log), machine.WithBackoff(5*time.Millisecond, 50*time.Millisecond))
	ctx, stop := context.WithCancel(context.Background())
	ended := make(chan error, 1)
	go func() { ended <- m.Work(ctx) }()
	t.Cleanup(func() {
		stop()
		for _, err := range []error{<-ended, m.Close(), s.Close()} {
			if err != nil {
				t.Error(err)
			}
		}
	})
	return func(r grpc.ServiceRegistrar) {
		paymentsv1.RegisterPaymentServiceServer(r, rpc.New(m, s, feed, neighbours.NewAccounts(accounts), log))
	}
}

// as returns a client with the identity of a workload. Each of its calls has the token of alice, who asked for just that.
func (b *bank) as(t *testing.T, path string) paymentsv1.PaymentServiceClient {
	t.Helper()
	return paymentsv1.NewPaymentServiceClient(b.login.Conn(t, b.dialAs(t, path), b.asked))
}

// bare returns a client whose calls have the token of their context, and mostly none.
func (b *bank) bare(t *testing.T, path string) paymentsv1.PaymentServiceClient {
	t.Helper()
	return paymentsv1.NewPaymentServiceClient(b.dialAs(t, path))
}

func (b *bank) dialAs(t *testing.T, path string) *grpc.ClientConn {
	t.Helper()
	return b.mesh.Dial(t, path, "/payments", b.addr, mesh.WithTransactionTokens("bank.payments.v1.PaymentService"))
}

func eur(cents int64) *moneyv1.Money { return &moneyv1.Money{CurrencyCode: "EUR", MinorUnits: cents} }

func request(id string) *paymentsv1.CreatePaymentRequest {
	return &paymentsv1.CreatePaymentRequest{PaymentId: paymentID(id), RequestId: id, PayerAccountId: alice, PayeeAccountId: bob, Amount: eur(1234), Reference: "rent"}
}

func precondition(reason string) error {
	s, err := status.New(codes.FailedPrecondition, "no").WithDetails(&errdetails.ErrorInfo{Reason: reason, Domain: "bank.test"})
	if err != nil {
		return err
	}
	return s.Err()
}

func wantStatus(t *testing.T, err error, code codes.Code, text string) {
	t.Helper()
	if s := status.Convert(err); s.Code() != code || s.Message() != text {
		t.Errorf("%s: %q, want %s: %q", s.Code(), s.Message(), code, text)
	}
}

// becomes waits until a payment has a state.
func becomes(t *testing.T, c paymentsv1.PaymentServiceClient, id string, want paymentsv1.PaymentState) *paymentsv1.Payment {
	t.Helper()
	const bound = 20 * time.Second
	tick := time.NewTicker(5 * time.Millisecond)
	defer tick.Stop()
	var got *paymentsv1.Payment
	for deadline := time.Now().Add(bound); time.Now().Before(deadline); <-tick.C {
		response, err := c.GetPayment(t.Context(), &paymentsv1.GetPaymentRequest{PaymentId: id})
		if err != nil {
			t.Fatal(err)
		}
		if got = response.GetPayment(); got.GetState() == want {
			return got
		}
	}
	t.Fatalf("payment %s is %s after %s, want %s", id, got.GetState(), bound, want)
	return nil
}

// only returns the one payment of alice's account.
func only(t *testing.T, c paymentsv1.PaymentServiceClient) *paymentsv1.Payment {
	t.Helper()
	page, err := c.ListPayments(t.Context(), &paymentsv1.ListPaymentsRequest{AccountId: alice})
	if err != nil {
		t.Fatal(err)
	}
	if len(page.GetPayments()) != 1 {
		t.Fatalf("alice has %d payments, want 1", len(page.GetPayments()))
	}
	return page.GetPayments()[0]
}
