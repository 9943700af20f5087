package dial_test

import (
	"bytes"
	"context"
	"errors"
	"log/slog"
	"os"
	"strings"
	"testing"
	"time"

	"github.com/spiffe/go-spiffe/v2/spiffeid"
	"go.uber.org/goleak"
	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/credentials/insecure"
	"google.golang.org/grpc/interop/grpc_testing"
	"google.golang.org/grpc/status"

	"github.com/countersign-mesh/countersign/cmd/countersign/internal/dial"
	"github.com/countersign-mesh/countersign/pkg/identity"
	"github.com/countersign-mesh/countersign/pkg/meshtest"
	ledgerv1 "github.com/countersign-mesh/countersign/proto/gen/bank/ledger/v1"
	paymentsv1 "github.com/countersign-mesh/countersign/proto/gen/bank/payments/v1"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

var quiet = slog.New(slog.DiscardHandler)

// bank is a mesh under the bank's own policy with this rule file's additions.
func bank(t *testing.T) *meshtest.Mesh {
	t.Helper()
	policy, err := os.ReadFile("../../../../deploy/policy/bank.yaml")
	if err != nil {
		t.Fatal(err)
	}
	return meshtest.New(t, "bank.test", string(policy)+`
  grpc.testing.ReconnectService:
    methods:
      Start: {allow: [{peer: /operator}]}
      Stop: {}
`)
}

// workload opens the identity of path as a command does, from a Workload API.
func workload(t *testing.T, m *meshtest.Mesh, path string) *dial.Workload {
	t.Helper()
	w, err := dial.Open(t.Context(), m.API(t, path).Addr(), quiet)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := w.Close(); err != nil {
			t.Error(err)
		}
	})
	return w
}

func target(path, address string) dial.Target {
	return dial.Target{Address: address, ID: spiffeid.RequireFromString("spiffe://bank.test" + path)}
}

type ledger struct {
	ledgerv1.UnimplementedLedgerServiceServer
}

func (ledger) CheckTrialBalance(ctx context.Context, _ *ledgerv1.CheckTrialBalanceRequest) (*ledgerv1.CheckTrialBalanceResponse, error) {
	peer, ok := identity.FromContext(ctx)
	if !ok || peer.ID.Path() != "/operator" {
		return nil, status.Error(codes.Internal, "the caller is another")
	}
	return &ledgerv1.CheckTrialBalanceResponse{Balanced: true}, nil
}

type payments struct {
	paymentsv1.UnimplementedPaymentServiceServer
}

func (payments) WatchPayments(_ *paymentsv1.WatchPaymentsRequest, stream grpc.ServerStreamingServer[paymentsv1.WatchPaymentsResponse]) error {
	for _, cursor := range []string{"one", "two"} {
		if err := stream.Send(&paymentsv1.WatchPaymentsResponse{Cursor: cursor}); err != nil {
			return err
		}
	}
	return nil
}

type reconnect struct {
	grpc_testing.UnimplementedReconnectServiceServer
}

func (reconnect) Start(context.Context, *grpc_testing.ReconnectParams) (*grpc_testing.Empty, error) {
	return &grpc_testing.Empty{}, nil
}

// call calls as the operator.
func call(t *testing.T, m *meshtest.Mesh, to dial.Target, method, request string) (string, error) {
	t.Helper()
	conn, err := workload(t, m, "/operator").Dial(to)
	if err != nil {
		t.Fatal(err)
	}
	defer func() {
		if err := conn.Close(); err != nil {
			t.Error(err)
		}
	}()
	ctx, cancel := context.WithTimeout(t.Context(), 20*time.Second)
	defer cancel()
	var out bytes.Buffer
	err = dial.Call(ctx, conn, method, strings.NewReader(request), &out)
	return out.String(), err
}

func TestACallPrintsWhatTheServerAnswers(t *testing.T) {
	t.Parallel()
	m := bank(t)
	ledgerAddress := m.Serve(t, "/ledger", func(s grpc.ServiceRegistrar) { ledgerv1.RegisterLedgerServiceServer(s, ledger{}) }, meshtest.WithoutUsers())
	paymentsAddress := m.Serve(t, "/payments", func(s grpc.ServiceRegistrar) { paymentsv1.RegisterPaymentServiceServer(s, payments{}) }, meshtest.WithoutUsers())
	unknownAddress := m.Serve(t, "/audit", func(s grpc.ServiceRegistrar) { grpc_testing.RegisterReconnectServiceServer(s, reconnect{}) })
	for name, test := range map[string]struct {
		to                    dial.Target
		method, request, want string
	}{
		"a method's name alone": {target("/ledger", ledgerAddress), "CheckTrialBalance", "", `"balanced": true`},
		"the whole name":        {target("/ledger", ledgerAddress), "/bank.ledger.v1.LedgerService/CheckTrialBalance", "{}", `"balanced": true`},
		"a server's stream": {
			target("/payments", paymentsAddress), "bank.payments.v1.PaymentService.WatchPayments",
			`{"account_id":"acc-aaaaaaaaaaaaaaaaaaaaaaaaaa"}`, `"cursor": "two"`,
		},
		"a contract that only the server knows": {
			target("/audit", unknownAddress), "grpc.testing.ReconnectService/Start", `{"max_reconnect_backoff_ms": 7}`, "{}",
		},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			got, err := call(t, m, test.to, test.method, test.request)
			if err != nil || !strings.Contains(got, test.want) {
				t.Errorf("got %q, %v; want %q in it", got, err, test.want)
			}
		})
	}
}

func TestADeniedCallSaysHowToLearnTheReason(t *testing.T) {
	t.Parallel()
	m := bank(t)
	address := m.Serve(t, "/ledger", func(s grpc.ServiceRegistrar) { ledgerv1.RegisterLedgerServiceServer(s, ledger{}) }, meshtest.WithoutUsers())
	_, err := call(t, m, target("/ledger", address), "PostTransfer", "")
	refusal, ok := errors.AsType[*dial.StatusError](err)
	if !ok || refusal.Status.Code() != codes.PermissionDenied {
		t.Fatalf("the error is %v", err)
	}
	id, ok := dial.DecisionID(refusal.Status)
	if !ok || len(id) != 32 {
		t.Errorf("the decision ID is %q", id)
	}
	for _, want := range []string{"PERMISSION_DENIED: ", "countersign audit show " + id} {
		if !strings.Contains(err.Error(), want) {
			t.Errorf("the error lacks %q:\n%v", want, err)
		}
	}
}

func TestAnErrorShowsItsDetails(t *testing.T) {
	t.Parallel()
	m := bank(t)
	address := m.Serve(t, "/payments", func(s grpc.ServiceRegistrar) { paymentsv1.RegisterPaymentServiceServer(s, payments{}) }, meshtest.WithoutUsers())
	_, err := call(t, m, target("/payments", address), "GetPayment", `{"payment_id":"7"}`)
	if err == nil || !strings.HasPrefix(err.Error(), "INVALID_ARGUMENT: ") || !strings.Contains(err.Error(), "Violations") {
		t.Errorf("the error is %v", err)
	}
}

// ATTACKS 18: another service answers the dial.
func TestAnotherServerThanExpectedIsRefused(t *testing.T) {
	t.Parallel()
	m := bank(t)
	address := m.Serve(t, "/ledger", func(s grpc.ServiceRegistrar) { ledgerv1.RegisterLedgerServiceServer(s, ledger{}) }, meshtest.WithoutUsers())
	_, err := call(t, m, target("/payments", address), "CheckTrialBalance", "")
	if err == nil || !strings.HasPrefix(err.Error(), "UNAVAILABLE: ") || !strings.Contains(err.Error(), "authentication handshake failed") {
		t.Errorf("the error is %v", err)
	}
	conn, _, err := workload(t, m, "/operator").Handshake(t.Context(), target("/payments", address))
	if err == nil {
		t.Errorf("a handshake with another server succeeded: %v", conn.Close())
	}
}

func TestARequestThatIsNoJSONIsAClearError(t *testing.T) {
	t.Parallel()
	m := bank(t)
	address := m.Serve(t, "/ledger", func(s grpc.ServiceRegistrar) { ledgerv1.RegisterLedgerServiceServer(s, ledger{}) }, meshtest.WithoutUsers())
	for name, test := range map[string]struct{ method, request, want string }{
		"no JSON":            {"CheckTrialBalance", "balance", "invalid character"},
		"an unknown field":   {"CheckTrialBalance", `{"account": 7}`, "account"},
		"an unknown method":  {"Steal", "", `has a method "Steal"`},
		"a slash too many":   {"a/b/c", "", "right would be"},
		"no method at all":   {"bank.ledger.v1.LedgerService/", "", "right would be"},
		"of another service": {"bank.ledger.v1.LedgerService/Steal", "", `does not include a method named "Steal"`},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			if _, err := call(t, m, target("/ledger", address), test.method, test.request); err == nil || !strings.Contains(err.Error(), test.want) {
				t.Errorf("the error is %v, want %q in it", err, test.want)
			}
		})
	}
}

func TestAProxyLendsItsIdentity(t *testing.T) {
	t.Parallel()
	m := bank(t)
	address := m.Serve(t, "/ledger", func(s grpc.ServiceRegistrar) { ledgerv1.RegisterLedgerServiceServer(s, ledger{}) }, meshtest.WithoutUsers())
	proxied := proxy(t, m, target("/ledger", address))
	conn, err := grpc.NewClient(proxied, grpc.WithTransportCredentials(insecure.NewCredentials()))
	if err != nil {
		t.Fatal(err)
	}
	r, err := ledgerv1.NewLedgerServiceClient(conn).CheckTrialBalance(t.Context(), &ledgerv1.CheckTrialBalanceRequest{})
	if err != nil || !r.GetBalanced() {
		t.Errorf("through the proxy: %v, %v", r, err)
	}
	if err := conn.Close(); err != nil {
		t.Error(err)
	}
}

// ATTACKS 18: another service answers the dial.
func TestAProxyRefusesAnotherServerThanExpected(t *testing.T) {
	t.Parallel()
	m := bank(t)
	address := m.Serve(t, "/ledger", func(s grpc.ServiceRegistrar) { ledgerv1.RegisterLedgerServiceServer(s, ledger{}) }, meshtest.WithoutUsers())
	conn, err := grpc.NewClient(proxy(t, m, target("/payments", address)), grpc.WithTransportCredentials(insecure.NewCredentials()))
	if err != nil {
		t.Fatal(err)
	}
	_, err = ledgerv1.NewLedgerServiceClient(conn).CheckTrialBalance(t.Context(), &ledgerv1.CheckTrialBalanceRequest{})
	if status.Code(err) != codes.Unavailable {
		t.Errorf("through the proxy: %v", err)
	}
	if err := conn.Close(); err != nil {
		t.Error(err)
	}
}

// proxy serves a proxy with the operator's identity until the test ends, and returns its address.
func proxy(t *testing.T, m *meshtest.Mesh, to dial.Target) string {
	t.Helper()
	listener, err := dial.ListenLoopback(t.Context(), "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	self := workload(t, m, "/operator")
	ctx, cancel := context.WithCancel(context.Background())
	result := make(chan error, 1)
	go func() { result <- dial.NewProxy(self, to, quiet).Serve(ctx, listener) }()
	t.Cleanup(func() {
		cancel()
		if err := <-result; err != nil {
			t.Error(err)
		}
	})
	return listener.Addr().String()
}

func TestAProxyServesLoopbackAlone(t *testing.T) {
	t.Parallel()
	for _, address := range []string{"0.0.0.0:0", ":0", "[::]:0", "192.0.2.1:7"} {
		if _, err := dial.ListenLoopback(t.Context(), address); !errors.Is(err, dial.ErrNotLoopback) || !strings.Contains(err.Error(), "127.0.0.1:") {
			t.Errorf("%s: %v", address, err)
		}
	}
	if _, err := dial.ListenLoopback(t.Context(), "9000"); err == nil || !strings.Contains(err.Error(), "--listen") {
		t.Errorf("no host: %v", err)
	}
}

func TestAWorkloadAPIThatIsAwayIsNamed(t *testing.T) {
	t.Parallel()
	ctx, cancel := context.WithTimeout(t.Context(), 500*time.Millisecond)
	defer cancel()
	_, err := dial.Open(ctx, "unix:///nowhere/api.sock", quiet)
	if err == nil || !strings.Contains(err.Error(), "unix:///nowhere/api.sock") {
		t.Errorf("the error is %v", err)
	}
}
