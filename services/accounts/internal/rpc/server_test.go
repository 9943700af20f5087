package rpc_test

import (
	"context"
	"fmt"
	"log/slog"
	"path/filepath"
	"regexp"
	"sync"
	"testing"

	"github.com/google/go-cmp/cmp"
	"go.uber.org/goleak"
	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"
	"google.golang.org/protobuf/testing/protocmp"

	"github.com/countersign-mesh/countersign/pkg/database/databasetest"
	"github.com/countersign-mesh/countersign/pkg/mesh"
	"github.com/countersign-mesh/countersign/pkg/meshtest"
	"github.com/countersign-mesh/countersign/pkg/userauth/txntoken"
	"github.com/countersign-mesh/countersign/pkg/userauth/txntoken/txntokentest"
	accountsv1 "github.com/countersign-mesh/countersign/proto/gen/bank/accounts/v1"
	ledgerv1 "github.com/countersign-mesh/countersign/proto/gen/bank/ledger/v1"
	moneyv1 "github.com/countersign-mesh/countersign/proto/gen/bank/money/v1"
	"github.com/countersign-mesh/countersign/services/accounts/internal/books"
	"github.com/countersign-mesh/countersign/services/accounts/internal/register"
	"github.com/countersign-mesh/countersign/services/accounts/internal/rpc"
	"github.com/countersign-mesh/countersign/services/accounts/internal/store"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(databasetest.Main{M: m}) }

// ledger answers GetBalance; errs are answered first, one a call.
type ledger struct {
	ledgerv1.UnimplementedLedgerServiceServer
	mu       sync.Mutex
	errs     []error
	balances []*moneyv1.Money
	held     []*moneyv1.Money
	asked    int
}

func (l *ledger) GetBalance(context.Context, *ledgerv1.GetBalanceRequest) (*ledgerv1.GetBalanceResponse, error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.asked++
	if len(l.errs) > 0 {
		err := l.errs[0]
		l.errs = l.errs[1:]
		return nil, err
	}
	return &ledgerv1.GetBalanceResponse{Balances: l.balances, Held: l.held}, nil
}

func (l *ledger) answer(balances []*moneyv1.Money, errs ...error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.balances, l.errs = balances, errs
}

// bank is the accounts service and a ledger, each served under its own identity and the bank's policy.
type bank struct {
	mesh   *meshtest.Mesh
	login  *txntokentest.Issuer
	addr   string
	ledger *ledger
	store  *store.Store
	dsn    string
}

func newBank(t *testing.T) *bank {
	t.Helper()
	return newBankOn(t, databasetest.SQLite(t))
}

func newBankOn(t *testing.T, dsn string) *bank {
	t.Helper()
	s, err := store.Open(t.Context(), dsn)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = s.Close() }) // a test may have closed it before
	b := &bank{mesh: meshtest.Open(t, "bank.test", filepath.Join("..", "..", "..", "..", "deploy", "policy", "bank.yaml")), login: txntokentest.New(t, "bank.test"), ledger: &ledger{}, store: s, dsn: dsn}
	users := mesh.WithUsers(b.login.Verifier())
	ledgerAddr := b.mesh.Serve(t, "/ledger", func(r grpc.ServiceRegistrar) { ledgerv1.RegisterLedgerServiceServer(r, b.ledger) }, users)
	conn := b.mesh.Dial(t, "/accounts", "/ledger", ledgerAddr, mesh.WithServiceConfig(books.ServiceConfig))
	b.addr = b.mesh.Serve(t, "/accounts", func(r grpc.ServiceRegistrar) {
		accountsv1.RegisterAccountServiceServer(r, rpc.New(register.New(s, s, s, books.New(conn)), slog.New(slog.DiscardHandler)))
	}, users)
	return b
}

// as returns a client with the identity of a workload. Each of its calls has the token of the customer alice, or of the one whom it names, who asked for
// just that.
func (b *bank) as(t *testing.T, path string) accountsv1.AccountServiceClient {
	t.Helper()
	return accountsv1.NewAccountServiceClient(b.login.Conn(t, b.dial(t, path), func(_ string, request any) *txntoken.Token { return asked("alice", request) }))
}

// bare returns a client whose calls have the token of their context, and mostly none.
func (b *bank) bare(t *testing.T, path string) accountsv1.AccountServiceClient {
	t.Helper()
	return accountsv1.NewAccountServiceClient(b.dial(t, path))
}

func (b *bank) dial(t *testing.T, path string) *grpc.ClientConn {
	t.Helper()
	return b.mesh.Dial(t, path, "/accounts", b.addr, mesh.WithTransactionTokens("bank.accounts.v1.AccountService"))
}

// asked is what a customer's token says who has asked for what the request does.
func asked(customer string, request any) *txntoken.Token {
	token := &txntoken.Token{ID: "txn-00000001", Subject: customer, Scope: "accounts.read", Requesters: []string{"spiffe://bank.test/gateway"}}
	switch r := request.(type) {
	case *accountsv1.OpenAccountRequest:
		token.Subject, token.Scope = r.GetCustomerId(), "accounts.open"
		token.Context = map[string]string{"request_id": r.GetRequestId(), "currency": r.GetCurrencyCode()}
	case *accountsv1.ListAccountsRequest:
		token.Subject = r.GetCustomerId()
	case *accountsv1.CloseAccountRequest:
		token.Scope, token.Context = "accounts.close", map[string]string{"account_id": r.GetAccountId()}
	}
	return token
}

func open(t *testing.T, c accountsv1.AccountServiceClient, customer, request string) *accountsv1.Account {
	t.Helper()
	response, err := c.OpenAccount(t.Context(), &accountsv1.OpenAccountRequest{
		RequestId: request, CustomerId: customer, DisplayName: "Rent", CurrencyCode: "EUR",
	})
	if err != nil {
		t.Fatal(err)
	}
	return response.GetAccount()
}

func wantStatus(t *testing.T, err error, code codes.Code, text string) {
	t.Helper()
	if s := status.Convert(err); s.Code() != code || s.Message() != text {
		t.Errorf("%s: %q, want %s: %q", s.Code(), s.Message(), code, text)
	}
}

func TestAnAccountFromOpeningToClosing(t *testing.T) {
	t.Parallel()
	b := newBank(t)
	gateway := b.as(t, "/gateway")
	opened := open(t, gateway, "alice", "request-1")
	if !regexp.MustCompile(`^acc-[a-z2-7]{26}$`).MatchString(opened.GetAccountId()) {
		t.Errorf("account ID %q", opened.GetAccountId())
	}
	if opened.GetStatus() != accountsv1.AccountStatus_ACCOUNT_STATUS_OPEN || opened.GetCloseTime() != nil {
		t.Errorf("opened as %s, closed at %v", opened.GetStatus(), opened.GetCloseTime())
	}
	if diff := cmp.Diff(opened, open(t, gateway, "alice", "request-1"), protocmp.Transform()); diff != "" {
		t.Errorf("the same request again: -first +second:\n%s", diff)
	}
	got, err := b.as(t, "/payments").GetAccount(t.Context(), &accountsv1.GetAccountRequest{AccountId: opened.GetAccountId()})
	if err != nil {
		t.Fatal(err)
	}
	if diff := cmp.Diff(opened, got.GetAccount(), protocmp.Transform()); diff != "" {
		t.Errorf("GetAccount: -opened +got:\n%s", diff)
	}
	closed, err := gateway.CloseAccount(t.Context(), &accountsv1.CloseAccountRequest{AccountId: opened.GetAccountId()})
	if err != nil {
		t.Fatal(err)
	}
	if a := closed.GetAccount(); a.GetStatus() != accountsv1.AccountStatus_ACCOUNT_STATUS_CLOSED || a.GetCloseTime() == nil {
		t.Errorf("closed as %s at %v", a.GetStatus(), a.GetCloseTime())
	}
	again, err := gateway.CloseAccount(t.Context(), &accountsv1.CloseAccountRequest{AccountId: opened.GetAccountId()})
	if err != nil {
		t.Fatal(err)
	}
	if diff := cmp.Diff(closed, again, protocmp.Transform()); diff != "" {
		t.Errorf("closed again: -first +second:\n%s", diff)
	}
}

func TestARequestUsedForOtherContentAlreadyExists(t *testing.T) {
	t.Parallel()
	gateway := newBank(t).as(t, "/gateway")
	open(t, gateway, "alice", "request-1")
	_, err := gateway.OpenAccount(t.Context(), &accountsv1.OpenAccountRequest{RequestId: "request-1", CustomerId: "bob", CurrencyCode: "EUR"})
	wantStatus(t, err, codes.AlreadyExists, "the request_id was used for other content; choose a new one")
}

func TestClosingAsksTheLedger(t *testing.T) {
	t.Parallel()
	eur := func(cents int64) []*moneyv1.Money { return []*moneyv1.Money{{CurrencyCode: "EUR", MinorUnits: cents}} }
	away := status.Error(codes.Unavailable, "away: 10.0.0.7:8443")
	for name, test := range map[string]struct {
		balances []*moneyv1.Money
		errs     []error
		code     codes.Code
		text     string
	}{
		"an account that never had money":         {nil, nil, codes.OK, ""},
		"an account that is empty again":          {eur(0), nil, codes.OK, ""},
		"an account with a cent":                  {eur(1), nil, codes.FailedPrecondition, "the account's balance is not zero; move the money first"},
		"an account that owes":                    {eur(-1), nil, codes.FailedPrecondition, "the account's balance is not zero; move the money first"},
		"money in another currency":               {append(eur(0), &moneyv1.Money{CurrencyCode: "USD", MinorUnits: 1}), nil, codes.FailedPrecondition, "the account's balance is not zero; move the money first"},
		"a ledger that is away for a moment":      {nil, []error{away, away}, codes.OK, ""},
		"a ledger that stays away":                {nil, []error{away, away, away, away, away}, codes.Unavailable, "the ledger cannot be reached; try again"},
		"a ledger that does not let accounts ask": {nil, []error{status.Error(codes.PermissionDenied, "denied")}, codes.Internal, "internal error"},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			b := newBank(t)
			gateway := b.as(t, "/gateway")
			account := open(t, gateway, "alice", "request-1")
			b.ledger.answer(test.balances, test.errs...)
			_, err := gateway.CloseAccount(t.Context(), &accountsv1.CloseAccountRequest{AccountId: account.GetAccountId()})
			wantStatus(t, err, test.code, test.text)
			after, err := gateway.GetAccount(t.Context(), &accountsv1.GetAccountRequest{AccountId: account.GetAccountId()})
			if err != nil {
				t.Fatal(err)
			}
			if closed := after.GetAccount().GetStatus() == accountsv1.AccountStatus_ACCOUNT_STATUS_CLOSED; closed != (test.code == codes.OK) {
				t.Errorf("closed: %t", closed)
			}
		})
	}
}

func TestPagesOfACustomerAreForThatCustomer(t *testing.T) {
	t.Parallel()
	b := newBank(t)
	gateway := b.as(t, "/gateway")
	var want []string
	for n := range 5 {
		want = append(want, open(t, gateway, "alice", fmt.Sprintf("alice-request-%d", n)).GetAccountId())
		open(t, gateway, "bob", fmt.Sprintf("bob-request-%d", n))
	}
	var got []string
	token := ""
	for {
		page, err := gateway.ListAccounts(t.Context(), &accountsv1.ListAccountsRequest{CustomerId: "alice", PageSize: 2, PageToken: token})
		if err != nil {
			t.Fatal(err)
		}
		for _, a := range page.GetAccounts() {
			got = append(got, a.GetAccountId())
		}
		if token = page.GetNextPageToken(); token == "" {
			break
		}
		_, err = gateway.ListAccounts(t.Context(), &accountsv1.ListAccountsRequest{CustomerId: "bob", PageToken: token})
		wantStatus(t, err, codes.InvalidArgument, "page token was not issued for this list")
	}
	if diff := cmp.Diff(want, got); diff != "" {
		t.Errorf("-want +got:\n%s", diff)
	}
}

func TestAnUnknownAccountIsNotFound(t *testing.T) {
	t.Parallel()
	gateway := newBank(t).as(t, "/gateway")
	id := "acc-aaaaaaaaaaaaaaaaaaaaaaaaaa"
	_, err := gateway.GetAccount(t.Context(), &accountsv1.GetAccountRequest{AccountId: id})
	wantStatus(t, err, codes.NotFound, "no such account")
	_, err = gateway.CloseAccount(t.Context(), &accountsv1.CloseAccountRequest{AccountId: id})
	wantStatus(t, err, codes.NotFound, "no such account")
}

func TestWhatBrokeInsideIsNotTold(t *testing.T) {
	t.Parallel()
	b := newBank(t)
	gateway := b.as(t, "/gateway")
	if err := b.store.Close(); err != nil {
		t.Fatal(err)
	}
	_, err := gateway.GetAccount(t.Context(), &accountsv1.GetAccountRequest{AccountId: "acc-aaaaaaaaaaaaaaaaaaaaaaaaaa"})
	wantStatus(t, err, codes.Internal, "internal error")
}

// ATTACKS 46.
func TestACallThatIsDeniedChangesNothing(t *testing.T) {
	t.Parallel()
	b := newBank(t)
	account := open(t, b.as(t, "/gateway"), "alice", "request-1")
	for _, path := range []string{"/payments", "/risk", "/operator", "/mobile", "/gateway-evil"} {
		_, err := b.as(t, path).CloseAccount(t.Context(), &accountsv1.CloseAccountRequest{AccountId: account.GetAccountId()})
		if status.Code(err) != codes.PermissionDenied {
			t.Errorf("%s: %v, want PermissionDenied", path, err)
		}
	}
	if b.ledger.asked != 0 {
		t.Error("the ledger was asked")
	}
}
