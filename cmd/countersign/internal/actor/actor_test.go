package actor_test

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/spiffe/go-spiffe/v2/spiffeid"
	"go.opentelemetry.io/otel/trace"
	"go.uber.org/goleak"
	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/metadata"
	"google.golang.org/grpc/status"

	"github.com/countersign-mesh/countersign/cmd/countersign/internal/actor"
	"github.com/countersign-mesh/countersign/cmd/countersign/internal/dial"
	"github.com/countersign-mesh/countersign/pkg/identity"
	"github.com/countersign-mesh/countersign/pkg/meshtest"
	"github.com/countersign-mesh/countersign/pkg/userauth/txntoken"
	ledgerv1 "github.com/countersign-mesh/countersign/proto/gen/bank/ledger/v1"
	moneyv1 "github.com/countersign-mesh/countersign/proto/gen/bank/money/v1"
)

// TestMain has the test binary play the copy of the CLI that Processes starts.
func TestMain(m *testing.M) {
	if len(os.Args) > 1 && os.Args[1] == "act" {
		if err := act(os.Args[2:]); err != nil {
			fmt.Fprintln(os.Stderr, err)
			os.Exit(1)
		}
		os.Exit(0)
	}
	goleak.VerifyTestMain(m)
}

// act is "act --socket=ENDPOINT ADDRESS=ID...".
func act(args []string) error {
	endpoint := strings.TrimPrefix(args[0], "--socket=")
	var to []dial.Target
	for _, arg := range args[1:] {
		address, id, _ := strings.Cut(arg, "=")
		to = append(to, dial.Target{Address: address, ID: spiffeid.RequireFromString(id)})
	}
	w, err := dial.Open(context.Background(), endpoint, slog.New(slog.DiscardHandler))
	if err != nil {
		return err
	}
	return errors.Join(actor.Serve(context.Background(), w, to, os.Stdin, os.Stdout), w.Close())
}

const books = "spiffe://bank.test/ledger"

var balance = actor.Call{Server: books, Method: "bank.ledger.v1.LedgerService/GetBalance"}

// ledger answers with who called, in which trace.
type ledger struct {
	ledgerv1.UnimplementedLedgerServiceServer
}

func (ledger) GetBalance(ctx context.Context, r *ledgerv1.GetBalanceRequest) (*ledgerv1.GetBalanceResponse, error) {
	peer, ok := identity.FromContext(ctx)
	if !ok || peer.ID.Path() != "/accounts" {
		return nil, status.Error(codes.Internal, "the caller is another")
	}
	if r.GetAccountId() == "bank-txn" {
		md, _ := metadata.FromIncomingContext(ctx)
		return nil, status.Error(codes.NotFound, strings.Join(md.Get(txntoken.MetadataKey), " and "))
	}
	if r.GetAccountId() == "bank-none" {
		return nil, status.Error(codes.NotFound, trace.SpanContextFromContext(ctx).TraceID().String())
	}
	return &ledgerv1.GetBalanceResponse{Balances: []*moneyv1.Money{{CurrencyCode: "EUR", MinorUnits: 1 << 60}}}, nil
}

// programs starts actors from the test binary, which is self.
func programs(endpoint string) actor.Processes {
	return actor.Processes{Dir: filepath.Dir(os.Args[0]), Endpoint: endpoint}
}

var self = filepath.Base(os.Args[0])

// stage is a mesh with a ledger, and who must answer there.
func stage(t *testing.T) (*meshtest.Mesh, dial.Target) {
	t.Helper()
	policy, err := os.ReadFile(filepath.FromSlash("../../../../deploy/policy/bank.yaml"))
	if err != nil {
		t.Fatal(err)
	}
	m := meshtest.New(t, "bank.test", string(policy))
	address := m.Serve(t, "/ledger", func(s grpc.ServiceRegistrar) { ledgerv1.RegisterLedgerServiceServer(s, ledger{}) }, meshtest.WithoutUsers())
	return m, dial.Target{Address: address, ID: spiffeid.RequireFromString("spiffe://bank.test/ledger")}
}

// start starts an actor that has the identity of path, as a process.
func start(t *testing.T, path string) *actor.Actor {
	t.Helper()
	m, to := stage(t)
	m.Identity(t, path)
	a, err := programs(m.API(t, path).Addr()).Act(t.Context(), self, to)
	if err != nil {
		t.Fatal(err)
	}
	return a
}

func TestAnActorActsWithItsOwnIdentity(t *testing.T) {
	t.Parallel()
	a := start(t, "/accounts")
	if got := a.SPIFFEID(); got != "spiffe://bank.test/accounts" {
		t.Errorf("it is %s", got)
	}
	for range 2 { // one after another on the same connection
		var r ledgerv1.GetBalanceResponse
		err := a.Call(balance, &ledgerv1.GetBalanceRequest{AccountId: "bank-cash"}, &r)
		if err != nil || r.GetBalances()[0].GetMinorUnits() != 1<<60 {
			t.Errorf("got %v, %v", &r, err)
		}
	}
	if err := a.Close(); err != nil {
		t.Error(err)
	}
}

func TestARefusalArrivesWithAllThatTheServerSaid(t *testing.T) {
	t.Parallel()
	a := start(t, "/risk")
	err := a.Call(balance, &ledgerv1.GetBalanceRequest{AccountId: "bank-cash"}, &ledgerv1.GetBalanceResponse{})
	refusal, ok := errors.AsType[*dial.StatusError](err)
	if !ok || refusal.Status.Code() != codes.PermissionDenied {
		t.Fatalf("the error is %v", err)
	}
	if id, ok := dial.DecisionID(refusal.Status); !ok || len(id) != 32 {
		t.Errorf("the decision ID is %q", id)
	}
	if err := a.Close(); err != nil {
		t.Error(err)
	}
}

func TestTheTraceBeginsWhereItIsToldTo(t *testing.T) {
	t.Parallel()
	a := start(t, "/accounts")
	const id = "0af7651916cd43dd8448eb211c80319c"
	err := a.Call(actor.Call{Server: books, Method: balance.Method, TraceParent: "00-" + id + "-b7ad6b7169203331-01"},
		&ledgerv1.GetBalanceRequest{AccountId: "bank-none"}, &ledgerv1.GetBalanceResponse{})
	if refusal, ok := errors.AsType[*dial.StatusError](err); !ok || refusal.Status.Message() != id {
		t.Errorf("the error is %v", err)
	}
	if err := a.Close(); err != nil {
		t.Error(err)
	}
}

func TestATransactionTokenIsShownWithTheCallThatItIsFor(t *testing.T) {
	t.Parallel()
	a := start(t, "/accounts")
	for _, token := range []string{"captured", ""} {
		err := a.Call(actor.Call{Server: books, Method: balance.Method, TransactionToken: token},
			&ledgerv1.GetBalanceRequest{AccountId: "bank-txn"}, &ledgerv1.GetBalanceResponse{})
		if refusal, ok := errors.AsType[*dial.StatusError](err); !ok || refusal.Status.Message() != token {
			t.Errorf("with %q: %v", token, err)
		}
	}
	if err := a.Close(); err != nil {
		t.Error(err)
	}
}

func TestAnActorCallsWhomItWasToldToAndNobodyElse(t *testing.T) {
	t.Parallel()
	m, to := stage(t)
	m.Identity(t, "/accounts")
	second := dial.Target{Address: m.Serve(t, "/payments", func(grpc.ServiceRegistrar) {}), ID: spiffeid.RequireFromString("spiffe://bank.test/payments")}
	a, err := programs(m.API(t, "/accounts").Addr()).Act(t.Context(), self, to, second)
	if err != nil {
		t.Fatal(err)
	}
	if err := askBalance(a); err != nil {
		t.Error(err)
	}
	err = a.Call(actor.Call{Server: second.ID.String(), Method: balance.Method}, &ledgerv1.GetBalanceRequest{}, &ledgerv1.GetBalanceResponse{})
	if refusal, ok := errors.AsType[*dial.StatusError](err); !ok || refusal.Status.Code() == codes.OK {
		t.Errorf("the second server: %v", err)
	}
	err = a.Call(actor.Call{Server: "spiffe://bank.test/risk", Method: balance.Method}, &ledgerv1.GetBalanceRequest{}, &ledgerv1.GetBalanceResponse{})
	if err == nil || !strings.Contains(err.Error(), `it does not call "spiffe://bank.test/risk"`) {
		t.Errorf("a server that it does not call: %v", err)
	}
	_ = a.Close() // which has failed
}

func TestAnOrderWithoutAContractEndsTheActorWithAReason(t *testing.T) {
	t.Parallel()
	a := start(t, "/accounts")
	if err := a.Call(actor.Call{Server: books, Method: "bank.Nobody/Steal"}, &ledgerv1.GetBalanceRequest{}, &ledgerv1.GetBalanceResponse{}); err == nil {
		t.Error("it was carried out")
	}
	if err := a.Close(); err == nil || !strings.Contains(err.Error(), `no contract of "bank.Nobody/Steal"`) {
		t.Errorf("it ended with %v", err)
	}
}

func TestAnActorWithoutAnIdentitySaysSo(t *testing.T) {
	t.Parallel()
	api := meshtest.NewWorkloadAPI(t)
	api.Fail(status.Error(codes.PermissionDenied, "no identity issued"))
	to := dial.Target{Address: "127.0.0.1:1", ID: spiffeid.RequireFromString("spiffe://bank.test/ledger")}
	_, err := programs(api.Addr()).Act(t.Context(), self, to)
	if err == nil || !strings.Contains(err.Error(), "no identity issued") || !strings.Contains(err.Error(), api.Addr()) {
		t.Errorf("the error is %v", err)
	}
}
