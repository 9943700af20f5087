package rpc_test

import (
	"bytes"
	"database/sql"
	"errors"
	"log/slog"
	"sync"
	"testing"

	"go.uber.org/goleak"
	"google.golang.org/grpc"

	"github.com/countersign-mesh/countersign/pkg/database"
	"github.com/countersign-mesh/countersign/pkg/database/databasetest"
	"github.com/countersign-mesh/countersign/pkg/meshtest"
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
	books, err := store.Open(t.Context(), dsn)
	if err != nil {
		t.Fatal(err)
	}
	db, err := database.Open(t.Context(), dsn, migrations.FS)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = errors.Join(db.Close(), books.Close()) }) // a test may have closed them before
	s := &service{mesh: meshtest.Open(t, "bank.test", "../../../../deploy/policy/bank.yaml"), books: books, db: db, log: &logBuffer{}}
	s.addr = s.mesh.Serve(t, "/ledger", func(r grpc.ServiceRegistrar) {
		ledgerv1.RegisterLedgerServiceServer(r, rpc.New(books, slog.New(slog.NewTextHandler(s.log, nil))))
	})
	return s
}

// as returns a client with the identity of a workload.
func (s *service) as(t *testing.T, path string) ledgerv1.LedgerServiceClient {
	t.Helper()
	return ledgerv1.NewLedgerServiceClient(s.mesh.Dial(t, path, "/ledger", s.addr))
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
