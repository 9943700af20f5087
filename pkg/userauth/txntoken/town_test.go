package txntoken_test

import (
	"bytes"
	"context"
	"log/slog"
	"slices"
	"sync"
	"testing"
	"time"

	"github.com/spiffe/go-spiffe/v2/spiffeid"
	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/metadata"
	"google.golang.org/grpc/status"

	"github.com/countersign-mesh/countersign/pkg/audit"
	"github.com/countersign-mesh/countersign/pkg/mesh"
	"github.com/countersign-mesh/countersign/pkg/meshtest"
	"github.com/countersign-mesh/countersign/pkg/userauth/txntoken"
	ledgerv1 "github.com/countersign-mesh/countersign/proto/gen/bank/ledger/v1"
	moneyv1 "github.com/countersign-mesh/countersign/proto/gen/bank/money/v1"
	paymentsv1 "github.com/countersign-mesh/countersign/proto/gen/bank/payments/v1"
	riskv1 "github.com/countersign-mesh/countersign/proto/gen/bank/risk/v1"
)

const (
	accountA = "acc-aaaaaaaaaaaaaaaaaaaaaaaaaa"
	accountB = "acc-bbbbbbbbbbbbbbbbbbbbbbbbbb"

	// meshPolicy lets the gateway have risk assess what a customer asked for, and risk read the balance of the account that it is about.
	meshPolicy = `trust_domain: bank.test
services:
  bank.risk.v1.RiskService:
    methods:
      AssessPayment:
        allow:
          - peer: /gateway
            user: transfer
            when: request.payer_account_id == user.context.payer && request.payer_customer_id == user.subject
  bank.ledger.v1.LedgerService:
    methods:
      PostTransfer: {allow: []}
      ReserveFunds: {allow: []}
      CaptureHold: {allow: []}
      ReleaseHold: {allow: []}
      ListHolds: {allow: []}
      CheckTrialBalance: {allow: []}
      ListEntries: {allow: []}
      GetBalance:
        allow:
          - peer: /risk
            user: transfer
            when: request.account_id == user.context.payer
  bank.payments.v1.PaymentService:
    methods:
      CreatePayment: {allow: []}
      DepositCash: {allow: []}
      GetPayment: {allow: []}
      ListPayments: {allow: []}
      ReviewPayment: {allow: []}
      WatchPayments:
        allow:
          - peer: /gateway
            user: accounts.read
`
)

// seen is what a handler saw of its calls: the token in its context, and those in the metadata.
type seen struct {
	mu     sync.Mutex
	tokens []*txntoken.Token
	sent   [][]string
}

func (s *seen) see(ctx context.Context) {
	token, _ := txntoken.FromContext(ctx)
	s.mu.Lock()
	defer s.mu.Unlock()
	s.tokens = append(s.tokens, token)
	s.sent = append(s.sent, metadata.ValueFromIncomingContext(ctx, txntoken.MetadataKey))
}

func (s *seen) count() int {
	s.mu.Lock()
	defer s.mu.Unlock()
	return len(s.tokens)
}

type ledger struct {
	ledgerv1.UnimplementedLedgerServiceServer
	seen
}

func (l *ledger) GetBalance(ctx context.Context, _ *ledgerv1.GetBalanceRequest) (*ledgerv1.GetBalanceResponse, error) {
	l.see(ctx)
	return &ledgerv1.GetBalanceResponse{}, nil
}

// risk asks the ledger for the balance of an account: of the payer's, unless it was broken into.
type risk struct {
	riskv1.UnimplementedRiskServiceServer
	seen
	ledger  ledgerv1.LedgerServiceClient
	account string
}

func (r *risk) AssessPayment(ctx context.Context, request *riskv1.AssessPaymentRequest) (*riskv1.AssessPaymentResponse, error) {
	r.see(ctx)
	account := request.GetPayerAccountId()
	if r.account != "" {
		account = r.account
	}
	if _, err := r.ledger.GetBalance(ctx, &ledgerv1.GetBalanceRequest{AccountId: account}); err != nil {
		return nil, status.Error(codes.Aborted, status.Code(err).String())
	}
	return &riskv1.AssessPaymentResponse{Verdict: riskv1.Verdict_VERDICT_ALLOW}, nil
}

type paying struct {
	paymentsv1.UnimplementedPaymentServiceServer
	seen
}

func (p *paying) WatchPayments(_ *paymentsv1.WatchPaymentsRequest, stream grpc.ServerStreamingServer[paymentsv1.WatchPaymentsResponse]) error {
	p.see(stream.Context())
	if err := stream.Send(&paymentsv1.WatchPaymentsResponse{}); err != nil {
		return err
	}
	<-stream.Context().Done()
	return context.Cause(stream.Context())
}

// records keeps the decisions of the servers.
type records struct {
	mu   sync.Mutex
	list []audit.Decision
}

func (r *records) Record(d audit.Decision) {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.list = append(r.list, d)
}

func (r *records) last() audit.Decision {
	r.mu.Lock()
	defer r.mu.Unlock()
	return r.list[len(r.list)-1]
}

// of is the last decision on a method.
func (r *records) of(method string) audit.Decision {
	r.mu.Lock()
	defer r.mu.Unlock()
	for _, d := range slices.Backward(r.list) {
		if d.Method == method {
			return d
		}
	}
	return audit.Decision{}
}

// output is a log that many write to.
type output struct {
	mu sync.Mutex
	bytes.Buffer
}

func (o *output) Write(p []byte) (int, error) {
	o.mu.Lock()
	defer o.mu.Unlock()
	return o.Buffer.Write(p)
}

func (o *output) String() string {
	o.mu.Lock()
	defer o.mu.Unlock()
	return o.Buffer.String()
}

// town is a mesh of three services behind a gateway.
type town struct {
	*bank
	mesh     *meshtest.Mesh
	ledger   *ledger
	risk     *risk
	payments *paying
	addr     map[string]string
	recorded *records
	log      *output
}

func newTown(t *testing.T) *town {
	t.Helper()
	w := &town{
		bank: newBank(t), mesh: meshtest.New(t, "bank.test", meshPolicy), ledger: &ledger{}, risk: &risk{}, payments: &paying{},
		recorded: &records{}, log: &output{}, addr: make(map[string]string),
	}
	serve := func(path string, register func(grpc.ServiceRegistrar)) {
		w.addr[path] = w.mesh.Serve(t, path, register, mesh.WithUsers(w.verifier), mesh.WithRecorder(w.recorded),
			mesh.WithLogger(slog.New(slog.NewTextHandler(w.log, &slog.HandlerOptions{Level: slog.LevelDebug}))))
	}
	serve("/ledger", func(s grpc.ServiceRegistrar) { ledgerv1.RegisterLedgerServiceServer(s, w.ledger) })
	w.risk.ledger = ledgerv1.NewLedgerServiceClient(w.mesh.Dial(t, "/risk", "/ledger", w.addr["/ledger"], mesh.WithTransactionTokens("bank.ledger.v1.LedgerService")))
	serve("/risk", func(s grpc.ServiceRegistrar) { riskv1.RegisterRiskServiceServer(s, w.risk) })
	serve("/payments", func(s grpc.ServiceRegistrar) { paymentsv1.RegisterPaymentServiceServer(s, w.payments) })
	return w
}

// payer is a token for a transfer from an account.
func payer(account string) txntoken.Token {
	t := transfer()
	t.Context = map[string]string{"payer": account}
	return t
}

func assessment(account string) *riskv1.AssessPaymentRequest {
	return &riskv1.AssessPaymentRequest{
		PaymentId: "pay-aaaaaaaaaaaaaaaaaaaaaaaaaa", PayerCustomerId: "alice", PayerAccountId: account, PayeeAccountId: accountB,
		Amount: &moneyv1.Money{CurrencyCode: "EUR", MinorUnits: 100},
	}
}

// assess has risk assess a payment, with these tokens in the metadata.
func (w *town) assess(t *testing.T, from, account string, tokens ...string) error {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), 10*time.Second)
	defer cancel()
	ctx = metadata.NewOutgoingContext(ctx, metadata.MD{txntoken.MetadataKey: tokens})
	// Who does not keep to our interceptors, which send one token and no other.
	conn, err := grpc.NewClient(w.addr["/risk"], grpc.WithTransportCredentials(w.mesh.Conns(t, from).Client(spiffeid.RequireFromString("spiffe://bank.test/risk"))))
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = conn.Close() }()
	_, err = riskv1.NewRiskServiceClient(conn).AssessPayment(ctx, assessment(account))
	return err
}

// raws sends a token.
type raws string

func (r raws) GetRequestMetadata(context.Context, ...string) (map[string]string, error) {
	return map[string]string{txntoken.MetadataKey: string(r)}, nil
}
func (raws) RequireTransportSecurity() bool { return true }
