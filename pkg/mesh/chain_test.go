package mesh_test

import (
	"context"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/health/grpc_health_v1"
	"google.golang.org/grpc/metadata"
	"google.golang.org/grpc/reflection/grpc_reflection_v1"
	"google.golang.org/grpc/status"

	"github.com/countersign-mesh/countersign/pkg/audit"
	"github.com/countersign-mesh/countersign/pkg/identity"
	"github.com/countersign-mesh/countersign/pkg/mesh"
	"github.com/countersign-mesh/countersign/pkg/meshtest"
	paymentsv1 "github.com/countersign-mesh/countersign/proto/gen/bank/payments/v1"
	riskv1 "github.com/countersign-mesh/countersign/proto/gen/bank/risk/v1"
)

const policy = `trust_domain: bank.test
services:
  bank.risk.v1.RiskService:
    methods:
      AssessPayment:
        allow:
          - peer: /payments
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
  # Lets processes of the tests dial each other.
  test.v1.Neighbours:
    served_by: [/risk, /payments, /ledger, /audit]
    methods:
      Meet: {allow: [{peer: /risk}, {peer: /payments}]}
  no.such.v1.Service:
    methods:
      Known:
        allow:
          - peer: /payments
  grpc.health.v1.Health:
    methods:
      Check:
        allow:
          - peer: /operator
      List: {allow: []}
      Watch: {allow: []}
  grpc.reflection.v1.ServerReflection:
    methods:
      ServerReflectionInfo:
        allow:
          - peer: /operator
  mesh.admin.v1.AdminService:
    methods:
      ListConnections: {allow: []}
      ListCuts: {allow: []}
      GetPolicy: {allow: []}
      ExplainDecision: {allow: []}
`

// risk is a risk service that notes who called, and does what a test wants.
type risk struct {
	riskv1.UnimplementedRiskServiceServer
	called atomic.Int32
	assess func(ctx context.Context) error
}

func (r *risk) AssessPayment(ctx context.Context, _ *riskv1.AssessPaymentRequest) (*riskv1.AssessPaymentResponse, error) {
	r.called.Add(1)
	if r.assess != nil {
		if err := r.assess(ctx); err != nil {
			return nil, err
		}
	}
	return &riskv1.AssessPaymentResponse{Verdict: riskv1.Verdict_VERDICT_ALLOW}, nil
}

// AuthFuncOverride is the hook by which go-grpc-middleware's auth lets a service skip the policy.
func (r *risk) AuthFuncOverride(ctx context.Context, _ string) (context.Context, error) {
	return ctx, nil
}

func (r *risk) register(s grpc.ServiceRegistrar) { riskv1.RegisterRiskServiceServer(s, r) }

const account = "acc-aaaaaaaaaaaaaaaaaaaaaaaaaa"

func request() *riskv1.AssessPaymentRequest {
	return &riskv1.AssessPaymentRequest{
		PaymentId:       "pay-aaaaaaaaaaaaaaaaaaaaaaaaaa",
		PayerCustomerId: "alice",
		PayerAccountId:  account,
		PayeeAccountId:  account,
		Amount:          eur(100),
	}
}

// records keeps the decisions of a server.
type records struct {
	mu   sync.Mutex
	list []audit.Decision
}

func (r *records) Record(d audit.Decision) {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.list = append(r.list, d)
}

func (r *records) last(t *testing.T) audit.Decision {
	t.Helper()
	r.mu.Lock()
	defer r.mu.Unlock()
	if len(r.list) == 0 {
		t.Fatal("no decision was recorded")
	}
	return r.list[len(r.list)-1]
}

func TestACallIsLetInByThePeersIdentity(t *testing.T) {
	t.Parallel()
	m := meshtest.New(t, "bank.test", policy)
	var peer *identity.Peer
	service := &risk{assess: func(ctx context.Context) error {
		peer, _ = identity.FromContext(ctx)
		return nil
	}}
	recorded := &records{}
	addr := m.Serve(t, "/risk", service.register, mesh.WithRecorder(recorded))
	client := riskv1.NewRiskServiceClient(m.Dial(t, "/payments", "/risk", addr))
	response, err := client.AssessPayment(t.Context(), request())
	if err != nil || response.GetVerdict() != riskv1.Verdict_VERDICT_ALLOW {
		t.Fatalf("%v, %v", response, err)
	}
	serial := m.Identity(t, "/payments").Status().Serial
	if peer == nil || peer.ID.String() != "spiffe://bank.test/payments" || peer.Serial != serial {
		t.Errorf("the handler saw the peer %+v, want payments with serial %s", peer, serial)
	}
	got := recorded.last(t)
	if !got.Allowed || got.PeerID != "spiffe://bank.test/payments" || got.PeerSerial != serial || got.TraceID == [16]byte{} {
		t.Errorf("recorded %+v", got)
	}
}

// Denied before anything else happens: ATTACKS 46 (no side effect), 47 (AuthFuncOverride), 49 (headers).
func TestACallIsDeniedByThePeersIdentity(t *testing.T) {
	t.Parallel()
	m := meshtest.New(t, "bank.test", policy)
	service, recorded := &risk{}, &records{}
	addr := m.Serve(t, "/risk", service.register, mesh.WithRecorder(recorded))
	client := riskv1.NewRiskServiceClient(m.Dial(t, "/gateway", "/risk", addr))
	for name, test := range map[string]struct {
		ctx     context.Context
		request *riskv1.AssessPaymentRequest
	}{
		"a good request":                               {t.Context(), request()},
		"a request that validation would refuse":       {t.Context(), &riskv1.AssessPaymentRequest{}},
		"a caller that names another in its headers":   {metadata.AppendToOutgoingContext(t.Context(), "spiffe-id", "spiffe://bank.test/payments", "x-forwarded-client-cert", "URI=spiffe://bank.test/payments", "grpc-metadata-spiffe-id", "spiffe://bank.test/payments"), request()},
		"a caller that names another in authorization": {metadata.AppendToOutgoingContext(t.Context(), "authorization", "Bearer spiffe://bank.test/payments"), request()},
	} {
		_, err := client.AssessPayment(test.ctx, test.request)
		if st := status.Convert(err); st.Code() != codes.PermissionDenied || st.Message() != "permission denied" {
			t.Errorf("%s: %v", name, err)
		}
		if got := recorded.last(t); got.Allowed || got.PeerID != "spiffe://bank.test/gateway" {
			t.Errorf("%s: recorded %+v", name, got)
		}
	}
	if n := service.called.Load(); n != 0 {
		t.Errorf("the handler was called %d times", n)
	}
}

// ATTACKS 43: the ordinary server answers UNIMPLEMENTED and so tells which methods exist.
func TestAnUnknownMethodIsDeniedLikeAnyOther(t *testing.T) {
	t.Parallel()
	m := meshtest.New(t, "bank.test", policy)
	metrics := prometheus.NewRegistry()
	addr := m.Serve(t, "/risk", (&risk{}).register, mesh.WithMetrics(metrics))
	conn := m.Dial(t, "/payments", "/risk", addr)
	for method, want := range map[string]codes.Code{
		"/bank.risk.v1.RiskService/Nothing":        codes.PermissionDenied,
		"/bank.risk.v1.Nothing/AssessPayment":      codes.PermissionDenied,
		"/bank.ledger.v1.LedgerService/Post":       codes.PermissionDenied,
		"//bank.risk.v1.RiskService/AssessPayment": codes.PermissionDenied,
		"/bank.risk.v1.RiskService/AssessPayment/": codes.PermissionDenied,
		"/bank.risk.v1.RiskService/assesspayment":  codes.PermissionDenied,
		// The policy allows it and this server does not have it: nothing to hide from this peer.
		"/no.such.v1.Service/Known": codes.Unimplemented,
	} {
		err := conn.Invoke(t.Context(), method, request(), &riskv1.AssessPaymentResponse{})
		if status.Code(err) != want {
			t.Errorf("%s: %v, want %s", method, err, want)
		}
	}
	families, err := metrics.Gather()
	if err != nil {
		t.Fatal(err)
	}
	for _, family := range families {
		if strings.Contains(family.String(), "Nothing") {
			t.Errorf("a name that a caller made up became a time series: %s", family.GetName())
		}
	}
}

// ATTACKS 44.
func TestHealthAndReflectionAreUnderThePolicy(t *testing.T) {
	t.Parallel()
	m := meshtest.New(t, "bank.test", policy)
	addr := m.Serve(t, "/risk", (&risk{}).register)
	for caller, want := range map[string]codes.Code{"/operator": codes.OK, "/payments": codes.PermissionDenied} {
		conn := m.Dial(t, caller, "/risk", addr)
		_, err := grpc_health_v1.NewHealthClient(conn).Check(t.Context(), &grpc_health_v1.HealthCheckRequest{})
		if status.Code(err) != want {
			t.Errorf("health for %s: %v, want %s", caller, err, want)
		}
		if err := listServices(t.Context(), conn); status.Code(err) != want {
			t.Errorf("reflection for %s: %v, want %s", caller, err, want)
		}
	}
}

func listServices(ctx context.Context, conn *grpc.ClientConn) error {
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	stream, err := grpc_reflection_v1.NewServerReflectionClient(conn).ServerReflectionInfo(ctx)
	if err != nil {
		return err
	}
	// What was wrong with a stream is what Recv says.
	_ = stream.Send(&grpc_reflection_v1.ServerReflectionRequest{
		MessageRequest: &grpc_reflection_v1.ServerReflectionRequest_ListServices{},
	})
	_, err = stream.Recv()
	return err
}

// ATTACKS 48: a panic is an error of that call, and nobody is let in by one.
func TestAPanicEndsTheCallAndNotTheProcess(t *testing.T) {
	t.Parallel()
	for name, test := range map[string]struct {
		service  *risk
		recorder audit.Recorder
		reached  int32
	}{
		"in a handler":         {&risk{assess: func(context.Context) error { panic("handler") }}, &records{}, 1},
		"inside authorization": {&risk{}, panicking{}, 0},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			m := meshtest.New(t, "bank.test", policy)
			addr := m.Serve(t, "/risk", test.service.register, mesh.WithRecorder(test.recorder))
			client := riskv1.NewRiskServiceClient(m.Dial(t, "/payments", "/risk", addr))
			for range 2 {
				_, err := client.AssessPayment(t.Context(), request())
				if st := status.Convert(err); st.Code() != codes.Internal || st.Message() != "internal error" {
					t.Errorf("the caller got %v", err)
				}
			}
			if got := test.service.called.Load(); got != 2*test.reached {
				t.Errorf("the handler was called %d times", got)
			}
		})
	}
}

type panicking struct{}

func (panicking) Record(audit.Decision) { panic("authorization") }

func TestValidationFollowsAuthorization(t *testing.T) {
	t.Parallel()
	m := meshtest.New(t, "bank.test", policy)
	service := &risk{}
	addr := m.Serve(t, "/risk", service.register)
	client := riskv1.NewRiskServiceClient(m.Dial(t, "/payments", "/risk", addr))
	bad := request()
	bad.PaymentId = "nonsense"
	_, err := client.AssessPayment(t.Context(), bad)
	if status.Code(err) != codes.InvalidArgument || !strings.Contains(err.Error(), "payment_id") {
		t.Errorf("the caller got %v", err)
	}
	if service.called.Load() != 0 {
		t.Error("the handler was called")
	}
}

func TestTheRateLimitRefusesWhatIsTooMuch(t *testing.T) {
	t.Parallel()
	m := meshtest.New(t, "bank.test", policy)
	addr := m.Serve(t, "/risk", (&risk{}).register, mesh.WithRateLimit(0.001, 3))
	client := riskv1.NewRiskServiceClient(m.Dial(t, "/payments", "/risk", addr))
	denied := riskv1.NewRiskServiceClient(m.Dial(t, "/gateway", "/risk", addr))
	for i := range 4 {
		// A peer that is denied uses up nothing of the others' share.
		if _, err := denied.AssessPayment(t.Context(), request()); status.Code(err) != codes.PermissionDenied {
			t.Errorf("denied call %d: %v", i, err)
		}
		want := codes.OK
		if i == 3 {
			want = codes.ResourceExhausted
		}
		if _, err := client.AssessPayment(t.Context(), request()); status.Code(err) != want {
			t.Errorf("call %d: %v, want %s", i, err, want)
		}
	}
}

// payments is a payment service whose watchers wait for ever.
type payments struct {
	paymentsv1.UnimplementedPaymentServiceServer
	watching chan struct{}
}

func (p *payments) WatchPayments(_ *paymentsv1.WatchPaymentsRequest, stream grpc.ServerStreamingServer[paymentsv1.WatchPaymentsResponse]) error {
	p.watching <- struct{}{}
	<-stream.Context().Done()
	return context.Cause(stream.Context())
}

func (p *payments) register(s grpc.ServiceRegistrar) { paymentsv1.RegisterPaymentServiceServer(s, p) }

// A connection that was cut takes its streams with it (ATTACKS 37; the rest is in package transport).
func TestAStreamEndsWithItsConnection(t *testing.T) {
	t.Parallel()
	m := meshtest.New(t, "bank.test", policy)
	service := &payments{watching: make(chan struct{}, 1)}
	addr := m.Serve(t, "/payments", service.register)
	stream, err := paymentsv1.NewPaymentServiceClient(m.Dial(t, "/gateway", "/payments", addr)).
		WatchPayments(t.Context(), &paymentsv1.WatchPaymentsRequest{AccountId: account})
	if err != nil {
		t.Fatal(err)
	}
	<-service.watching
	ended := make(chan error, 1)
	go func() {
		_, err := stream.Recv()
		ended <- err
	}()
	m.CA().NewRoot(t)
	m.CA().Retire()
	m.Rotate(t, "/payments")
	select {
	case err := <-ended:
		if err == nil {
			t.Error("the stream got a message")
		}
	case <-time.After(time.Second):
		t.Errorf("the stream did not end within a second after its authority left the bundle, but later with %v", <-ended)
	}
}
