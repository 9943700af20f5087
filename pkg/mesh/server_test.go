package mesh_test

import (
	"context"
	"net"
	"strings"
	"testing"
	"time"

	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"

	"github.com/countersign-mesh/countersign/pkg/authz"
	"github.com/countersign-mesh/countersign/pkg/mesh"
	"github.com/countersign-mesh/countersign/pkg/meshtest"
	moneyv1 "github.com/countersign-mesh/countersign/proto/gen/bank/money/v1"
	paymentsv1 "github.com/countersign-mesh/countersign/proto/gen/bank/payments/v1"
	riskv1 "github.com/countersign-mesh/countersign/proto/gen/bank/risk/v1"
)

func eur(minor int64) *moneyv1.Money { return &moneyv1.Money{CurrencyCode: "EUR", MinorUnits: minor} }

// server is a server that a test starts and stops itself.
type server struct {
	addr   string
	stop   context.CancelFunc
	served chan error
}

func start(t *testing.T, m *meshtest.Mesh, path, policyText string, register func(grpc.ServiceRegistrar), opts ...mesh.ServerOption) *server {
	t.Helper()
	file := policyFile(t, policyText)
	s, err := mesh.NewServer(m.Conns(t, path), file, opts...)
	if err != nil {
		t.Fatal(err)
	}
	register(s)
	listener, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(context.Background())
	started := &server{addr: listener.Addr().String(), stop: cancel, served: make(chan error, 1)}
	go func() {
		defer close(started.served)
		started.served <- s.Serve(ctx, listener)
	}()
	t.Cleanup(func() {
		cancel()
		for range started.served {
		}
	})
	return started
}

func policyFile(t *testing.T, text string) *authz.File {
	t.Helper()
	file, err := authz.Open(writeFile(t, "p.yaml", text))
	if err != nil {
		t.Fatal(err)
	}
	return file
}

// ATTACKS 42: a server whose policy does not fit its services does not start.
func TestServeRefusesAPolicyThatDoesNotFit(t *testing.T) {
	t.Parallel()
	m := meshtest.New(t, "bank.test", policy)
	for name, test := range map[string]struct{ old, new, want string }{
		"a method without a rule":     {"      List: {allow: []}\n", "", "the method List of grpc.health.v1.Health has no rules"},
		"a rule without a method":     {"      AssessPayment:", "      Asess: {allow: []}\n      AssessPayment:", "bank.risk.v1.RiskService has no method Asess"},
		"a service without rules":     {"bank.risk.v1.RiskService", "bank.risk.v1.RiskServices", "the service bank.risk.v1.RiskService is served here and has no rules"},
		"reflection without any rule": {"grpc.reflection.v1.", "grpc.reflection.v2.", "the service grpc.reflection.v1.ServerReflection is served here"},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			s := start(t, m, "/risk", strings.Replace(policy, test.old, test.new, 1), (&risk{}).register)
			select {
			case err := <-s.served:
				if err == nil || !strings.Contains(err.Error(), test.want) {
					t.Errorf("Serve = %v, want it to say %q", err, test.want)
				}
			case <-time.After(5 * time.Second):
				t.Error("the server serves")
			}
			if conn, err := net.Dial("tcp", s.addr); err == nil {
				_ = conn.Close()
				t.Error("the port is still open")
			}
		})
	}
}

// verifying is an authz.Users that never finds one.
type verifying struct{ authz.Users }

// A rule that asks for a user guards nothing at a server that verifies no tokens: it does not start, and takes no such policy later.
func TestARuleWithAUserNeedsAServerThatVerifiesTokens(t *testing.T) {
	t.Parallel()
	m := meshtest.New(t, "bank.test", policy)
	withUser := strings.Replace(policy, "- peer: /payments", "- peer: /payments\n            user: transfer", 1)
	if withUser == policy {
		t.Fatal("the policy of the tests has no rule for payments")
	}
	const want = `asks for a user's token for transfer, and this server verifies no users' tokens`
	s := start(t, m, "/risk", withUser, (&risk{}).register)
	select {
	case err := <-s.served:
		if err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("Serve = %v, want it to say %q", err, want)
		}
	case <-time.After(5 * time.Second):
		t.Error("the server serves")
	}
	for name, opts := range map[string][]mesh.ServerOption{"without users": nil, "with users": {mesh.WithUsers(verifying{})}} {
		r := newRules(t, policy)
		server, err := mesh.NewServer(m.Conns(t, "/risk"), r.file, opts...)
		if err != nil {
			t.Fatal(err)
		}
		(&risk{}).register(server)
		if err := server.Fit(); err != nil {
			t.Fatal(err)
		}
		before := r.file.Policy()
		r.replace(t, withUser)
		eventually(t, "the file is looked at", func() bool { return r.file.Policy() != before || r.file.Status().Failures > 0 })
		if taken := r.file.Policy() != before; taken != (opts != nil) {
			t.Errorf("%s: a policy with a user came into force: %t, %v", name, taken, r.file.Status().Failure)
		}
	}
}

func TestDrainLetsCallsInFlightEnd(t *testing.T) {
	t.Parallel()
	m := meshtest.New(t, "bank.test", policy)
	entered, leave := make(chan struct{}), make(chan struct{})
	s := start(t, m, "/risk", policy, (&risk{assess: func(context.Context) error {
		close(entered)
		<-leave
		return nil
	}}).register)
	client := riskv1.NewRiskServiceClient(m.Dial(t, "/payments", "/risk", s.addr))
	answered := make(chan error, 1)
	go func() {
		_, err := client.AssessPayment(context.Background(), request())
		answered <- err
	}()
	<-entered
	s.stop()
	// The drain has begun once new connections are refused.
	for {
		conn, err := net.Dial("tcp", s.addr)
		if err != nil {
			break
		}
		_ = conn.Close()
	}
	close(leave)
	if err := <-answered; err != nil {
		t.Errorf("a call that was accepted before the drain: %v", err)
	}
	if err := <-s.served; err != nil {
		t.Errorf("Serve = %v after a clean stop", err)
	}
}

func TestDrainIsBounded(t *testing.T) {
	t.Parallel()
	m := meshtest.New(t, "bank.test", policy)
	entered := make(chan struct{})
	s := start(t, m, "/risk", policy, (&risk{assess: func(ctx context.Context) error {
		close(entered)
		<-ctx.Done() // a call that would never end by itself
		return ctx.Err()
	}}).register, mesh.WithDrainTimeout(50*time.Millisecond))
	client := riskv1.NewRiskServiceClient(m.Dial(t, "/payments", "/risk", s.addr))
	answered := make(chan error, 1)
	go func() {
		_, err := client.AssessPayment(context.Background(), request())
		answered <- err
	}()
	<-entered
	s.stop()
	select {
	case err := <-s.served:
		if err != nil {
			t.Errorf("Serve = %v", err)
		}
	case <-time.After(10 * time.Second):
		t.Fatal("the drain did not end")
	}
	if err := <-answered; status.Code(err) != codes.Unavailable {
		t.Errorf("the call that was cut got %v", err)
	}
}

// A handler that ignores its context cannot be ended; the drain is bounded all the same, and says so.
func TestDrainDoesNotWaitForAStubbornHandler(t *testing.T) {
	t.Parallel()
	m := meshtest.New(t, "bank.test", policy)
	entered, leave := make(chan struct{}), make(chan struct{})
	s := start(t, m, "/risk", policy, (&risk{assess: func(context.Context) error {
		close(entered)
		<-leave
		return nil
	}}).register, mesh.WithDrainTimeout(50*time.Millisecond))
	client := riskv1.NewRiskServiceClient(m.Dial(t, "/payments", "/risk", s.addr))
	answered := make(chan struct{})
	go func() {
		defer close(answered)
		_, _ = client.AssessPayment(context.Background(), request()) // it is cut
	}()
	<-entered
	s.stop()
	select {
	case err := <-s.served:
		if err == nil || !strings.Contains(err.Error(), "handlers did not end") {
			t.Errorf("Serve = %v", err)
		}
	case <-time.After(20 * time.Second):
		t.Error("the drain waits for the handler")
	}
	close(leave)
	<-answered
}

// gRPC waits for handshakes in progress before it tells anybody to leave.
func TestAStrangerWhoSaysNothingDoesNotHoldUpTheDrain(t *testing.T) {
	t.Parallel()
	m := meshtest.New(t, "bank.test", policy)
	s := start(t, m, "/risk", policy, (&risk{}).register, mesh.WithDrainTimeout(time.Minute))
	silent, err := net.Dial("tcp", s.addr)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = silent.Close() })
	// A call that is answered was accepted after the stranger.
	client := riskv1.NewRiskServiceClient(m.Dial(t, "/payments", "/risk", s.addr))
	if _, err := client.AssessPayment(t.Context(), request()); err != nil {
		t.Fatal(err)
	}
	begin := time.Now()
	s.stop()
	if err := <-s.served; err != nil {
		t.Errorf("Serve = %v", err)
	}
	if took := time.Since(begin); took > 3*time.Second {
		t.Errorf("the drain took %v", took)
	}
}

func TestDrainSendsStreamsElsewhere(t *testing.T) {
	t.Parallel()
	m := meshtest.New(t, "bank.test", policy)
	service := &payments{watching: make(chan struct{}, 1)}
	// The streams must end long before this.
	s := start(t, m, "/payments", policy, service.register, mesh.WithDrainTimeout(time.Minute))
	stream, err := paymentsv1.NewPaymentServiceClient(m.Dial(t, "/gateway", "/payments", s.addr)).
		WatchPayments(t.Context(), &paymentsv1.WatchPaymentsRequest{AccountId: account})
	if err != nil {
		t.Fatal(err)
	}
	<-service.watching
	s.stop()
	if _, err := stream.Recv(); status.Code(err) != codes.Unavailable || !strings.Contains(err.Error(), "stopping") {
		t.Errorf("the watcher got %v", err)
	}
	select {
	case err := <-s.served:
		if err != nil {
			t.Errorf("Serve = %v", err)
		}
	case <-time.After(10 * time.Second):
		t.Error("the server still drains")
	}
}

// ATTACKS 18: whoever answers, the client wants the identity that it dialled.
func TestDialRefusesAnotherServer(t *testing.T) {
	t.Parallel()
	m := meshtest.New(t, "bank.test", policy)
	service := &risk{}
	addr := m.Serve(t, "/risk", service.register)
	client := riskv1.NewRiskServiceClient(m.Dial(t, "/payments", "/ledger", addr))
	_, err := client.AssessPayment(t.Context(), request())
	if status.Code(err) != codes.Unavailable || !strings.Contains(err.Error(), "expected the server spiffe://bank.test/ledger, got spiffe://bank.test/risk") {
		t.Errorf("the caller got %v", err)
	}
	if service.called.Load() != 0 {
		t.Error("the handler was called")
	}
}
