package front_test

import (
	"context"
	"crypto/tls"
	"crypto/x509"
	"encoding/base64"
	"encoding/json"
	"errors"
	"fmt"
	"log/slog"
	"maps"
	"net"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	"go.uber.org/goleak"
	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/metadata"
	"google.golang.org/grpc/status"
	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/types/known/timestamppb"

	"github.com/countersign-mesh/countersign/pkg/mesh"
	"github.com/countersign-mesh/countersign/pkg/meshtest"
	"github.com/countersign-mesh/countersign/pkg/userauth"
	"github.com/countersign-mesh/countersign/pkg/userauth/edge"
	"github.com/countersign-mesh/countersign/pkg/userauth/txntoken"
	"github.com/countersign-mesh/countersign/pkg/userauth/txntoken/txntokentest"
	"github.com/countersign-mesh/countersign/pkg/userauth/userauthtest"
	accountsv1 "github.com/countersign-mesh/countersign/proto/gen/bank/accounts/v1"
	ledgerv1 "github.com/countersign-mesh/countersign/proto/gen/bank/ledger/v1"
	loginv1 "github.com/countersign-mesh/countersign/proto/gen/bank/login/v1"
	moneyv1 "github.com/countersign-mesh/countersign/proto/gen/bank/money/v1"
	paymentsv1 "github.com/countersign-mesh/countersign/proto/gen/bank/payments/v1"
	"github.com/countersign-mesh/countersign/services/gateway/internal/front"
	"github.com/countersign-mesh/countersign/services/gateway/internal/rpc"
	"github.com/countersign-mesh/countersign/services/gateway/internal/trust"
	"github.com/countersign-mesh/countersign/services/gateway/internal/txn"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

const (
	aliceAccount = "acc-aaaaaaaaaaaaaaaaaaaaaaaaaa"
	bobAccount   = "acc-bbbbbbbbbbbbbbbbbbbbbbbbbb"
	noAccount    = "acc-eeeeeeeeeeeeeeeeeeeeeeeeee"
	stepUpFrom   = 1000
)

// login is the authorization server as the gateway sees it.
type login struct {
	loginv1.UnimplementedKeyServiceServer
	loginv1.UnimplementedTransactionTokenServiceServer
	loginv1.UnimplementedCustomerServiceServer

	t         *testing.T
	access    *userauthtest.Issuer
	devices   *userauthtest.Authority
	txn       *txntokentest.Issuer
	revoked   chan *loginv1.Revocation
	mu        sync.Mutex
	issued    []*loginv1.IssueTransactionTokenRequest
	issueFail error
	// hush has nobody be told what is revoked until it is closed; nil is none.
	hush chan struct{}
}

func (l *login) GetEdgeKeys(context.Context, *loginv1.GetEdgeKeysRequest) (*loginv1.GetEdgeKeysResponse, error) {
	return &loginv1.GetEdgeKeysResponse{AccessTokenKeys: l.access.JWKS(l.t), DeviceAuthorities: [][]byte{l.devices.DER()}}, nil
}

func (l *login) WatchRevocations(_ *loginv1.WatchRevocationsRequest, stream grpc.ServerStreamingServer[loginv1.WatchRevocationsResponse]) error {
	if l.hush != nil {
		select {
		case <-stream.Context().Done():
			return stream.Context().Err()
		case <-l.hush:
		}
	}
	message := &loginv1.WatchRevocationsResponse{}
	for {
		if err := stream.Send(message); err != nil {
			return err
		}
		select {
		case <-stream.Context().Done():
			return stream.Context().Err()
		case r := <-l.revoked:
			r.ExpireTime = timestamppb.New(time.Now().Add(time.Hour))
			message = &loginv1.WatchRevocationsResponse{Revocations: []*loginv1.Revocation{r}}
		}
	}
}

func (l *login) IssueTransactionToken(_ context.Context, req *loginv1.IssueTransactionTokenRequest) (*loginv1.IssueTransactionTokenResponse, error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.issued = append(l.issued, req)
	if l.issueFail != nil {
		return nil, l.issueFail
	}
	var claims struct{ Sub string }
	content, err := base64.RawURLEncoding.DecodeString(strings.Split(req.GetAccessToken(), ".")[1])
	if err := errors.Join(err, json.Unmarshal(content, &claims)); err != nil {
		return nil, err
	}
	return &loginv1.IssueTransactionTokenResponse{
		ExpireTime: timestamppb.New(time.Now().Add(2 * time.Minute)),
		TransactionToken: l.txn.Token(l.t, txntoken.Token{
			ID: fmt.Sprintf("txn-%08d", len(l.issued)), Subject: claims.Sub, Scope: req.GetScope(),
			Requesters: []string{"spiffe://bank.test/gateway"}, Context: req.GetContext(),
		}, 0),
	}, nil
}

// behind is the services behind the gateway. It records what it is asked, and with what metadata.
type behind struct {
	accountsv1.UnimplementedAccountServiceServer
	paymentsv1.UnimplementedPaymentServiceServer
	ledgerv1.UnimplementedLedgerServiceServer

	mu       sync.Mutex
	asked    []proto.Message
	metadata []metadata.MD
	fail     error
	// more has a watch say one thing more.
	more chan struct{}
}

func (b *behind) enter(ctx context.Context, req proto.Message) error {
	md, _ := metadata.FromIncomingContext(ctx)
	b.mu.Lock()
	defer b.mu.Unlock()
	b.asked = append(b.asked, proto.Clone(req))
	b.metadata = append(b.metadata, md)
	return b.fail
}

func account(id, customer string) *accountsv1.Account {
	return &accountsv1.Account{AccountId: id, CustomerId: customer, CurrencyCode: "EUR", Status: accountsv1.AccountStatus_ACCOUNT_STATUS_OPEN}
}

func (b *behind) GetAccount(ctx context.Context, req *accountsv1.GetAccountRequest) (*accountsv1.GetAccountResponse, error) {
	if err := b.enter(ctx, req); err != nil {
		return nil, err
	}
	switch req.GetAccountId() {
	case aliceAccount:
		return &accountsv1.GetAccountResponse{Account: account(aliceAccount, "alice")}, nil
	case bobAccount:
		return &accountsv1.GetAccountResponse{Account: account(bobAccount, "bob")}, nil
	default:
		return nil, status.Error(codes.NotFound, "accounts has none")
	}
}

func (b *behind) ListAccounts(ctx context.Context, req *accountsv1.ListAccountsRequest) (*accountsv1.ListAccountsResponse, error) {
	return &accountsv1.ListAccountsResponse{Accounts: []*accountsv1.Account{account(aliceAccount, "alice")}}, b.enter(ctx, req)
}

func (b *behind) OpenAccount(ctx context.Context, req *accountsv1.OpenAccountRequest) (*accountsv1.OpenAccountResponse, error) {
	return &accountsv1.OpenAccountResponse{Account: account(aliceAccount, "alice")}, b.enter(ctx, req)
}

func (b *behind) CloseAccount(ctx context.Context, req *accountsv1.CloseAccountRequest) (*accountsv1.CloseAccountResponse, error) {
	return &accountsv1.CloseAccountResponse{Account: account(aliceAccount, "alice")}, b.enter(ctx, req)
}

func (b *behind) CreatePayment(ctx context.Context, req *paymentsv1.CreatePaymentRequest) (*paymentsv1.CreatePaymentResponse, error) {
	return &paymentsv1.CreatePaymentResponse{Payment: &paymentsv1.Payment{
		PaymentId: req.GetPaymentId(), PayerAccountId: req.GetPayerAccountId(), PayeeAccountId: req.GetPayeeAccountId(), Amount: req.GetAmount(),
		State: paymentsv1.PaymentState_PAYMENT_STATE_POSTED,
	}}, b.enter(ctx, req)
}

func (b *behind) WatchPayments(req *paymentsv1.WatchPaymentsRequest, stream grpc.ServerStreamingServer[paymentsv1.WatchPaymentsResponse]) error {
	if err := b.enter(stream.Context(), req); err != nil {
		return err
	}
	for {
		err := stream.Send(&paymentsv1.WatchPaymentsResponse{Cursor: "cursor-1", Payment: &paymentsv1.Payment{PaymentId: "pay-x", PayerAccountId: aliceAccount}})
		select {
		case <-stream.Context().Done():
			return err
		case <-b.more:
		}
	}
}

func (b *behind) GetBalance(ctx context.Context, req *ledgerv1.GetBalanceRequest) (*ledgerv1.GetBalanceResponse, error) {
	return &ledgerv1.GetBalanceResponse{Balances: []*moneyv1.Money{{CurrencyCode: "EUR", MinorUnits: 7}}}, b.enter(ctx, req)
}

func (b *behind) ListEntries(ctx context.Context, req *ledgerv1.ListEntriesRequest) (*ledgerv1.ListEntriesResponse, error) {
	return &ledgerv1.ListEntriesResponse{Entries: []*ledgerv1.Entry{{Description: "rent"}}}, b.enter(ctx, req)
}

// world is a gateway with both doors open, all that it needs, and phones.
type world struct {
	login            *login
	behind           *behind
	alice            tls.Certificate
	grpcAddr, restAt string
	believed         *trust.Trust
	limits           front.Config
	metrics          *prometheus.Registry
	log              *lines // of the edge
	stop             func() error
}

func newWorld(t *testing.T) *world {
	t.Helper()
	return worldWith(t, func(*world) {})
}

// worldWith returns a world that was changed before its doors opened.
func worldWith(t *testing.T, change func(*world)) *world {
	t.Helper()
	m := meshtest.Open(t, "bank.test", filepath.Join("..", "..", "..", "..", "deploy", "policy", "bank.yaml"))
	w := &world{behind: &behind{more: make(chan struct{})}, login: &login{
		t: t, access: userauthtest.NewIssuer(t, "https://login.bank.test", "https://bank.test/mobile"), devices: userauthtest.NewAuthority(t),
		txn: txntokentest.New(t, "bank.test"), revoked: make(chan *loginv1.Revocation),
	}, limits: front.Config{Rate: 10_000, Burst: 10_000}, metrics: prometheus.NewRegistry(), log: new(lines)}
	change(w)
	w.alice = w.login.devices.Device(t, "dev-alice")
	log := slog.New(slog.DiscardHandler)
	dial := func(path, service string, register func(grpc.ServiceRegistrar)) *grpc.ClientConn {
		addr := m.Serve(t, path, register, mesh.WithUsers(w.login.txn.Verifier()))
		return m.Dial(t, "/gateway", path, addr, mesh.WithTransactionTokens(service))
	}
	toLogin := dial("/login", "", func(r grpc.ServiceRegistrar) {
		loginv1.RegisterKeyServiceServer(r, w.login)
		loginv1.RegisterTransactionTokenServiceServer(r, w.login)
		loginv1.RegisterCustomerServiceServer(r, w.login)
	})
	bank := rpc.New(rpc.Behind{
		Accounts: dial("/accounts", "bank.accounts.v1.AccountService", func(r grpc.ServiceRegistrar) { accountsv1.RegisterAccountServiceServer(r, w.behind) }),
		Payments: dial("/payments", "bank.payments.v1.PaymentService", func(r grpc.ServiceRegistrar) { paymentsv1.RegisterPaymentServiceServer(r, w.behind) }),
		Ledger:   dial("/ledger", "bank.ledger.v1.LedgerService", func(r grpc.ServiceRegistrar) { ledgerv1.RegisterLedgerServiceServer(r, w.behind) }),
	}, txn.New(loginv1.NewTransactionTokenServiceClient(toLogin), time.Now), stepUpFrom, log)
	w.believed = trust.New(loginv1.NewKeyServiceClient(toLogin), log)
	m.Serve(t, "/gateway", func(r grpc.ServiceRegistrar) {
		server, ok := r.(*mesh.Server)
		if !ok {
			t.Fatalf("it is a %T", r)
		}
		w.open(t, server, bank)
	}, mesh.WithLogger(w.log.logger()))
	if w.login.hush == nil {
		w.ready(t)
	}
	return w
}

func (w *world) ready(t *testing.T) {
	t.Helper()
	eventually(t, "the gateway is ready", func() bool { return w.believed.Ready(t.Context()) == nil })
}

// open opens both doors as main does.
func (w *world) open(t *testing.T, server *mesh.Server, bank *rpc.Server) {
	t.Helper()
	believed := w.believed
	cert, conns := w.login.devices.Server(t), new(edge.Conns)
	doors, err := front.New(server, front.Config{
		TLS: edge.TLSConfig(func() (*tls.Certificate, error) { return &cert, nil }, believed.Devices, edge.WithConns(conns), edge.WithRevocations(believed.Revoked())),
		Verifier: userauth.NewVerifier(believed.Keys(), "https://login.bank.test", "https://bank.test/mobile",
			userauth.WithRevocations(believed.Revoked()), userauth.WithLeeway(time.Second), userauth.WithLogger(w.log.logger())),
		Rate: w.limits.Rate, Burst: w.limits.Burst, Pace: w.limits.Pace, Bank: bank, Metrics: w.metrics, Log: w.log.logger(),
	})
	if err != nil {
		t.Fatal(err)
	}
	following, unfollow := context.WithCancel(context.Background())
	serving, stop := context.WithCancel(context.Background())
	var followers sync.WaitGroup
	for _, follow := range []func(context.Context) error{
		believed.FollowKeys, believed.FollowRevocations, func(ctx context.Context) error { return conns.Follow(ctx, believed.Revoked()) },
	} {
		followers.Go(func() { _ = follow(following) })
	}
	served := make(chan error, 2)
	for addr, serve := range map[*string]func(context.Context, net.Listener) error{&w.grpcAddr: doors.ServeGRPC, &w.restAt: doors.ServeREST} {
		listener, err := net.Listen("tcp", "127.0.0.1:0")
		if err != nil {
			t.Fatal(err)
		}
		*addr = listener.Addr().String()
		go func() { served <- serve(serving, conns.Listener(listener)) }()
	}
	w.stop = sync.OnceValue(func() error {
		stop()
		err := errors.Join(<-served, <-served)
		unfollow()
		followers.Wait()
		return err
	})
	t.Cleanup(func() {
		if err := w.stop(); err != nil {
			t.Errorf("stop: %v", err)
		}
	})
}

// revoke has login revoke something, and returns when it has told.
func (w *world) revoke(r *loginv1.Revocation) { w.login.revoked <- r }

func serial(cert *x509.Certificate) string { return fmt.Sprintf("%x", cert.SerialNumber) }

const allScopes = "accounts.read accounts.open accounts.close transfer"

// token is a good one of alice's, but for changes.
func (w *world) token(t *testing.T, changes userauthtest.Claims) string {
	t.Helper()
	claims := userauthtest.Claims{"scope": allScopes}
	maps.Copy(claims, changes)
	return w.login.access.Token(t, w.alice.Leaf, claims)
}

// eventually waits until ok holds.
func eventually(t testing.TB, what string, ok func() bool) {
	t.Helper()
	deadline := time.Now().Add(15 * time.Second)
	for !ok() {
		if time.Now().After(deadline) {
			t.Fatalf("did not come about: %s", what)
		}
		<-time.After(5 * time.Millisecond)
	}
}
