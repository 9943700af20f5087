package rpc_test

import (
	"bytes"
	"database/sql"
	"errors"
	"log/slog"
	"strconv"
	"sync"
	"testing"

	"go.uber.org/goleak"
	"google.golang.org/grpc"

	"github.com/countersign-mesh/countersign/pkg/database"
	"github.com/countersign-mesh/countersign/pkg/database/databasetest"
	"github.com/countersign-mesh/countersign/pkg/mesh"
	"github.com/countersign-mesh/countersign/pkg/meshtest"
	"github.com/countersign-mesh/countersign/pkg/userauth/txntoken"
	"github.com/countersign-mesh/countersign/pkg/userauth/txntoken/txntokentest"
	ledgerv1 "github.com/countersign-mesh/countersign/proto/gen/bank/ledger/v1"
	moneyv1 "github.com/countersign-mesh/countersign/proto/gen/bank/money/v1"
	"github.com/countersign-mesh/countersign/services/ledger/internal/rpc"
	"github.com/countersign-mesh/countersign/services/ledger/internal/store"
	"github.com/countersign-mesh/countersign/services/ledger/internal/store/migrations"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(databasetest.Main{M: m}) }

const (
	alice = "acc-aaaaaaaaaaaaaaaaaaaaaaaaaa"
	bob   = "acc-bbbbbbbbbbbbbbbbbbbbbbbbbb"
	cash  = "bank-cash"
)

// service is a ledger that serves over mutual TLS under the bank's own policy.
type service struct {
	mesh  *meshtest.Mesh
	login *txntokentest.Issuer
	addr  string
	books *store.Store
	db    *sql.DB // the same books
	log   *logBuffer
}

func newService(t *testing.T) *service {
	t.Helper()
	return serviceOn(t, databasetest.SQLite(t))
}

func serviceOn(t *testing.T, dsn string) *service {
	t.Helper()
	return serviceUnder(t, dsn, meshtest.Open(t, "bank.test", "../../../../deploy/policy/bank.yaml"))
}

// trusting is a policy that looks at peers alone, for tests of what the ledger itself makes of requests that the bank's policy keeps away from it.
const trusting = `
trust_domain: bank.test
services:
  bank.ledger.v1.LedgerService:
    methods:
      PostTransfer: {allow: [{peer: /payments}]}
      ReserveFunds: {allow: [{peer: /payments}]}
      CaptureHold: {allow: [{peer: /payments}]}
      ReleaseHold: {allow: [{peer: /payments}]}
      ListHolds: {allow: [{peer: /operator}]}
      GetBalance: {allow: [{peer: /gateway}, {peer: /operator}]}
      ListEntries: {allow: [{peer: /gateway}, {peer: /operator}]}
      CheckTrialBalance: {allow: [{peer: /operator}]}
`

// newTrusting returns a service under that policy.
func newTrusting(t *testing.T) *service {
	t.Helper()
	return trustingOn(t, databasetest.SQLite(t))
}

func trustingOn(t *testing.T, dsn string) *service {
	t.Helper()
	return serviceUnder(t, dsn, meshtest.New(t, "bank.test", trusting))
}

func serviceUnder(t *testing.T, dsn string, around *meshtest.Mesh) *service {
	t.Helper()
	books, err := store.Open(t.Context(), dsn)
	if err != nil {
		t.Fatal(err)
	}
	db, err := database.Open(t.Context(), dsn, migrations.FS)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = errors.Join(db.Close(), books.Close()) }) // a test may have closed them before
	s := &service{mesh: around, login: txntokentest.New(t, "bank.test"), books: books, db: db, log: &logBuffer{}}
	s.addr = s.mesh.Serve(t, "/ledger", func(r grpc.ServiceRegistrar) {
		ledgerv1.RegisterLedgerServiceServer(r, rpc.New(books, slog.New(slog.NewTextHandler(s.log, nil))))
	}, mesh.WithUsers(s.login.Verifier()))
	return s
}

// as returns a client with the identity of a workload. Each of its calls has the token of a customer who asked for just that.
func (s *service) as(t *testing.T, path string) ledgerv1.LedgerServiceClient {
	t.Helper()
	return ledgerv1.NewLedgerServiceClient(s.login.Conn(t, s.dial(t, path), func(_ string, request any) *txntoken.Token { return asked(request) }))
}

// bare returns a client whose calls have the token of their context, and mostly none.
func (s *service) bare(t *testing.T, path string) ledgerv1.LedgerServiceClient {
	t.Helper()
	return ledgerv1.NewLedgerServiceClient(s.dial(t, path))
}

func (s *service) dial(t *testing.T, path string) *grpc.ClientConn {
	t.Helper()
	return s.mesh.Dial(t, path, "/ledger", s.addr, mesh.WithTransactionTokens("bank.ledger.v1.LedgerService"))
}

// asked is what alice's token says when she has asked for what the request does.
func asked(request any) *txntoken.Token {
	token := &txntoken.Token{ID: "txn-00000001", Subject: "alice", Scope: "transfer", Requesters: []string{"spiffe://bank.test/gateway"}}
	switch r := request.(type) {
	case *ledgerv1.ReserveFundsRequest:
		token.Context = content(r.GetHoldId(), r.GetAccountId(), "", r.GetAmount())
	case *ledgerv1.CaptureHoldRequest:
		token.Context = contentOf(r.GetTransferId(), r.GetPostings())
	case *ledgerv1.PostTransferRequest:
		token.Context = contentOf(r.GetTransferId(), r.GetPostings())
	case interface{ GetAccountId() string }:
		token.Scope, token.Context = "accounts.read", map[string]string{"account_id": r.GetAccountId()}
	default:
		token.Scope = "accounts.read"
	}
	return token
}

func contentOf(id string, postings []*ledgerv1.Posting) map[string]string {
	if len(postings) != 2 {
		return nil
	}
	return content(id, postings[0].GetAccountId(), postings[1].GetAccountId(), postings[1].GetAmount())
}

func content(id, payer, payee string, amount *moneyv1.Money) map[string]string {
	return map[string]string{
		"payment_id": id, "payer": payer, "payee": payee,
		"amount": strconv.FormatInt(amount.GetMinorUnits(), 10), "currency": amount.GetCurrencyCode(),
	}
}

// logBuffer takes log records from several goroutines.
type logBuffer struct {
	mu  sync.Mutex
	buf bytes.Buffer
}

func (l *logBuffer) Write(p []byte) (int, error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.buf.Write(p)
}

func (l *logBuffer) String() string {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.buf.String()
}

func eur(minor int64) *moneyv1.Money { return &moneyv1.Money{CurrencyCode: "EUR", MinorUnits: minor} }

// pay is a request for a transfer of EUR.
func pay(id, from, to string, minor int64) *ledgerv1.PostTransferRequest {
	return &ledgerv1.PostTransferRequest{TransferId: id, Description: "rent", Postings: []*ledgerv1.Posting{
		{AccountId: from, Amount: eur(-minor)}, {AccountId: to, Amount: eur(minor)},
	}}
}
