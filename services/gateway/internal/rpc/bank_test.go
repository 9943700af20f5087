package rpc_test

import (
	"context"
	"crypto/tls"
	"log/slog"
	"path/filepath"
	"slices"
	"sync"
	"testing"
	"time"

	"go.uber.org/goleak"
	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/credentials"
	"google.golang.org/grpc/status"
	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/types/known/timestamppb"

	"github.com/countersign-mesh/countersign/pkg/mesh"
	"github.com/countersign-mesh/countersign/pkg/meshtest"
	"github.com/countersign-mesh/countersign/pkg/userauth"
	"github.com/countersign-mesh/countersign/pkg/userauth/txntoken"
	"github.com/countersign-mesh/countersign/pkg/userauth/txntoken/txntokentest"
	accountsv1 "github.com/countersign-mesh/countersign/proto/gen/bank/accounts/v1"
	ledgerv1 "github.com/countersign-mesh/countersign/proto/gen/bank/ledger/v1"
	mobilev1 "github.com/countersign-mesh/countersign/proto/gen/bank/mobile/v1"
	moneyv1 "github.com/countersign-mesh/countersign/proto/gen/bank/money/v1"
	paymentsv1 "github.com/countersign-mesh/countersign/proto/gen/bank/payments/v1"
	"github.com/countersign-mesh/countersign/services/gateway/internal/rest"
	"github.com/countersign-mesh/countersign/services/gateway/internal/rpc"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

const (
	aliceAccount = "acc-aaaaaaaaaaaaaaaaaaaaaaaaaa"
	bobAccount   = "acc-bbbbbbbbbbbbbbbbbbbbbbbbbb"
	noAccount    = "acc-eeeeeeeeeeeeeeeeeeeeeeeeee"
)

var noon = timestamppb.New(time.Date(2026, 3, 1, 12, 0, 0, 0, time.UTC))

// behind is the three services behind the gateway. It records what it is asked and answers what a test has put there.
type behind struct {
	accountsv1.UnimplementedAccountServiceServer
	paymentsv1.UnimplementedPaymentServiceServer
	ledgerv1.UnimplementedLedgerServiceServer

	mu       sync.Mutex
	asked    []proto.Message
	errs     map[string][]error // by method; one is answered a call, the last one again and again
	accounts []*accountsv1.Account
	payment  *paymentsv1.Payment
	balances map[string][]*moneyv1.Money
	entries  *ledgerv1.ListEntriesResponse
	changes  []*paymentsv1.WatchPaymentsResponse
	hook     func(method string) // runs within each call
	watchers int
}

func (b *behind) enter(method string, req proto.Message) error {
	b.mu.Lock()
	b.asked = append(b.asked, proto.Clone(req))
	errs := b.errs[method]
	if len(errs) > 1 {
		b.errs[method] = errs[1:]
	}
	hook := b.hook
	b.mu.Unlock()
	if hook != nil {
		hook(method)
	}
	if len(errs) > 0 {
		return errs[0]
	}
	return nil
}

// questions returns what was asked in messages of the type of M.
func questions[M proto.Message](b *behind) (found []M) {
	b.mu.Lock()
	defer b.mu.Unlock()
	for _, message := range b.asked {
		if m, ok := message.(M); ok {
			found = append(found, m)
		}
	}
	return found
}

func (b *behind) OpenAccount(_ context.Context, req *accountsv1.OpenAccountRequest) (*accountsv1.OpenAccountResponse, error) {
	return &accountsv1.OpenAccountResponse{Account: b.accounts[0]}, b.enter("OpenAccount", req)
}

func (b *behind) GetAccount(_ context.Context, req *accountsv1.GetAccountRequest) (*accountsv1.GetAccountResponse, error) {
	if err := b.enter("GetAccount", req); err != nil {
		return nil, err
	}
	for _, account := range b.accounts {
		if account.GetAccountId() == req.GetAccountId() {
			return &accountsv1.GetAccountResponse{Account: account}, nil
		}
	}
	return nil, status.Error(codes.NotFound, "accounts has no "+req.GetAccountId())
}

func (b *behind) ListAccounts(_ context.Context, req *accountsv1.ListAccountsRequest) (*accountsv1.ListAccountsResponse, error) {
	response := &accountsv1.ListAccountsResponse{NextPageToken: "next"}
	for _, account := range b.accounts {
		if account.GetCustomerId() == req.GetCustomerId() {
			response.Accounts = append(response.Accounts, account)
		}
	}
	return response, b.enter("ListAccounts", req)
}

func (b *behind) CloseAccount(_ context.Context, req *accountsv1.CloseAccountRequest) (*accountsv1.CloseAccountResponse, error) {
	account := proto.CloneOf(b.accounts[0])
	account.Status = accountsv1.AccountStatus_ACCOUNT_STATUS_CLOSED
	return &accountsv1.CloseAccountResponse{Account: account}, b.enter("CloseAccount", req)
}

func (b *behind) CreatePayment(_ context.Context, req *paymentsv1.CreatePaymentRequest) (*paymentsv1.CreatePaymentResponse, error) {
	return &paymentsv1.CreatePaymentResponse{Payment: b.payment}, b.enter("CreatePayment", req)
}

// WatchPayments sends the changes, then waits for the caller to leave, unless there is an error to answer.
func (b *behind) WatchPayments(req *paymentsv1.WatchPaymentsRequest, stream grpc.ServerStreamingServer[paymentsv1.WatchPaymentsResponse]) error {
	b.count(1)
	defer b.count(-1)
	for _, change := range b.changes {
		if err := stream.Send(change); err != nil {
			return err
		}
	}
	if err := b.enter("WatchPayments", req); err != nil {
		return err
	}
	<-stream.Context().Done()
	return stream.Context().Err()
}

func (b *behind) count(n int) {
	b.mu.Lock()
	defer b.mu.Unlock()
	b.watchers += n
}

func (b *behind) GetBalance(_ context.Context, req *ledgerv1.GetBalanceRequest) (*ledgerv1.GetBalanceResponse, error) {
	return &ledgerv1.GetBalanceResponse{Balances: b.balances[req.GetAccountId()]}, b.enter("GetBalance", req)
}

func (b *behind) ListEntries(_ context.Context, req *ledgerv1.ListEntriesRequest) (*ledgerv1.ListEntriesResponse, error) {
	return b.entries, b.enter("ListEntries", req)
}

// newBank serves what is behind the gateway, each service under its own identity and the bank's policy, and returns it and a client of the gateway's methods: within
// this process, by the way that requests over REST go. Whom a call is made for, its context says (see as).
func newBank(t *testing.T) (*behind, mobilev1.MobileBankServiceClient) {
	t.Helper()
	m := meshtest.Open(t, "bank.test", filepath.Join("..", "..", "..", "..", "deploy", "policy", "bank.yaml"))
	b := &behind{errs: map[string][]error{}, balances: map[string][]*moneyv1.Money{}, entries: &ledgerv1.ListEntriesResponse{}}
	b.accounts = []*accountsv1.Account{account(aliceAccount, "alice"), account(bobAccount, "bob")}
	b.payment = &paymentsv1.Payment{PayerAccountId: aliceAccount, PayeeAccountId: bobAccount}
	login := txntokentest.New(t, "bank.test")
	dial := func(path, service string, register func(grpc.ServiceRegistrar)) *grpc.ClientConn {
		addr := m.Serve(t, path, register, mesh.WithUsers(login.Verifier()))
		return m.Dial(t, "/gateway", path, addr, mesh.WithServiceConfig(rpc.ServiceConfig), mesh.WithTransactionTokens(service))
	}
	bank := rpc.New(rpc.Behind{
		Accounts: dial("/accounts", "bank.accounts.v1.AccountService", func(r grpc.ServiceRegistrar) { accountsv1.RegisterAccountServiceServer(r, b) }),
		Payments: dial("/payments", "bank.payments.v1.PaymentService", func(r grpc.ServiceRegistrar) { paymentsv1.RegisterPaymentServiceServer(r, b) }),
		Ledger:   dial("/ledger", "bank.ledger.v1.LedgerService", func(r grpc.ServiceRegistrar) { ledgerv1.RegisterLedgerServiceServer(r, b) }),
	}, tokens{t, login}, stepUpFrom, slog.New(slog.DiscardHandler))
	var mobile mobilev1.MobileBankServiceClient
	m.Serve(t, "/gateway", func(r grpc.ServiceRegistrar) {
		server, ok := r.(*mesh.Server)
		if !ok {
			t.Fatalf("it is a %T", r)
		}
		letIn := mesh.Interceptors{
			Unary: func(ctx context.Context, req any, _ *grpc.UnaryServerInfo, next grpc.UnaryHandler) (any, error) {
				return next(ctx, req)
			},
			Stream: func(srv any, ss grpc.ServerStream, _ *grpc.StreamServerInfo, next grpc.StreamHandler) error {
				return next(srv, ss)
			},
		}
		edge := server.NewEdge(credentials.NewTLS(&tls.Config{MinVersion: tls.VersionTLS13}), letIn, func(context.Context) string { return "" })
		mobile = mobilev1.NewMobileBankServiceClient(rest.Within(edge, letIn, bank))
	})
	return b, mobile
}

const stepUpFrom = 1000

// as returns a context of a call that is made for a customer with all scopes.
func as(ctx context.Context, customer string) context.Context {
	return with(ctx, customer, "urn:bank:acr:1", "accounts.read", "accounts.open", "accounts.close", "transfer")
}

func with(ctx context.Context, customer, acr string, scopes ...string) context.Context {
	return userauth.NewContext(ctx, &userauth.Principal{Subject: customer, TokenID: "token-of-" + customer, ACR: acr, Scopes: scopes})
}

// tokens issues transaction tokens as login does.
type tokens struct {
	t     *testing.T
	login *txntokentest.Issuer
}

func (s tokens) Acting(ctx context.Context, scope string, content map[string]string) (context.Context, error) {
	who, ok := userauth.FromContext(ctx)
	if !ok || !who.HasScope(scope) {
		s.t.Errorf("a token of the scope %s is asked for without", scope)
	}
	return s.login.Context(s.t, ctx, txntoken.Token{
		ID: "txn-00000001", Subject: who.Subject, Scope: scope, Requesters: []string{"spiffe://bank.test/gateway"}, Context: content,
	}), nil
}

func account(id, customer string) *accountsv1.Account {
	return &accountsv1.Account{
		AccountId: id, CustomerId: customer, DisplayName: customer + "'s", CurrencyCode: "EUR",
		Status: accountsv1.AccountStatus_ACCOUNT_STATUS_OPEN, OpenTime: noon,
	}
}

func eur(cents int64) *moneyv1.Money { return &moneyv1.Money{CurrencyCode: "EUR", MinorUnits: cents} }

func transferRequest(request, payer, payee string) *mobilev1.TransferRequest {
	return &mobilev1.TransferRequest{
		RequestId: request, PayerAccountId: payer, PayeeAccountId: payee, Amount: eur(100), Reference: "rent",
	}
}

// methods calls each method on an account as a customer, and returns its error.
func methods(ctx context.Context, mobile mobilev1.MobileBankServiceClient) map[string]func(customer, accountID string) error {
	return map[string]func(customer, accountID string) error{
		"CloseAccount": func(customer, accountID string) error {
			_, err := mobile.CloseAccount(as(ctx, customer), &mobilev1.CloseAccountRequest{AccountId: accountID})
			return err
		},
		"Transfer": func(customer, accountID string) error {
			_, err := mobile.Transfer(as(ctx, customer), transferRequest("request-1", accountID, "acc-ffffffffffffffffffffffffff"))
			return err
		},
		"GetStatement": func(customer, accountID string) error {
			_, err := mobile.GetStatement(as(ctx, customer), &mobilev1.GetStatementRequest{AccountId: accountID})
			return err
		},
		"WatchActivity": func(customer, accountID string) error {
			ctx, leave := context.WithCancel(ctx)
			defer leave()
			stream, err := mobile.WatchActivity(as(ctx, customer), &mobilev1.WatchActivityRequest{AccountId: accountID})
			if err != nil {
				return err
			}
			_, err = stream.Recv()
			return err
		},
	}
}

// accountMethods are those that take an account of the customer's, as the contract has them.
func accountMethods() []string {
	var names []string
	service := mobilev1.File_bank_mobile_v1_mobile_proto.Services().ByName("MobileBankService")
	for i := range service.Methods().Len() {
		method := service.Methods().Get(i)
		fields := method.Input().Fields()
		if fields.ByName("account_id") != nil || fields.ByName("payer_account_id") != nil {
			names = append(names, string(method.Name()))
		}
	}
	slices.Sort(names)
	return names
}
