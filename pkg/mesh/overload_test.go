package mesh_test

import (
	"context"
	"fmt"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	"google.golang.org/genproto/googleapis/rpc/errdetails"
	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/health/grpc_health_v1"
	"google.golang.org/grpc/metadata"
	"google.golang.org/grpc/status"
	"google.golang.org/protobuf/types/known/wrapperspb"

	"github.com/countersign-mesh/countersign/pkg/mesh"
	"github.com/countersign-mesh/countersign/pkg/meshtest"
	"github.com/countersign-mesh/countersign/pkg/overload"
	riskv1 "github.com/countersign-mesh/countersign/proto/gen/bank/risk/v1"
)

// occupy makes a call of a kind and leaves it in its handler. It returns what ends it and waits for that.
func (w *world) occupy(t *testing.T, c *caller, name string, kind call) (free func()) {
	t.Helper()
	ctx, cancel := context.WithCancel(t.Context())
	ended, err := w.echo.start(ctx, c.conn, name, kind)
	if err != nil {
		t.Fatal(err)
	}
	return func() {
		cancel()
		<-ended
	}
}

// series returns one series of a registry.
func series(t *testing.T, metrics *prometheus.Registry, name string) float64 {
	t.Helper()
	p := process{Process: &mesh.Process{Metrics: metrics}}
	value, ok := p.series(t)[name]
	if !ok {
		t.Fatalf("there is no %s", name)
	}
	return value
}

func explained(err error) (reason string, delay time.Duration) {
	for _, detail := range status.Convert(err).Details() {
		if info, ok := detail.(*errdetails.ErrorInfo); ok {
			reason = info.GetReason()
		}
	}
	delay, _ = overload.RetryDelay(err)
	return reason, delay
}

// ATTACKS 53: who comes when the server is full is told so at once, and when to come back, and other calls are as they were.
func TestAFullServerSaysWhenToComeBack(t *testing.T) {
	t.Parallel()
	idleStream := call{method: bothMethod, serve: idle, use: sayAndReceive}
	for name, test := range map[string]struct {
		kind  string
		hold  call
		again func(ctx context.Context, conn *grpc.ClientConn, opts ...grpc.CallOption) error
		other func(ctx context.Context, conn *grpc.ClientConn) error
	}{
		"of calls": {"unary", call{method: unaryMethod, unary: waitUnary}, sayWith, converse},
		"of streams": {"stream", idleStream, func(ctx context.Context, conn *grpc.ClientConn, opts ...grpc.CallOption) error {
			return call{method: bothMethod, use: sayAndReceive}.makeWith(ctx, conn, opts...)
		}, say},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			metrics := prometheus.NewRegistry()
			w := newWorld(t, []string{"/good", "/other", "/third"}, mesh.WithMaxCalls(4), mesh.WithMaxStreams(4), mesh.WithMetrics(metrics))
			good, other := w.caller(t, w.ca.SVID(t, "/good")), w.caller(t, w.ca.SVID(t, "/other"))
			third, denied := w.caller(t, w.ca.SVID(t, "/third")), w.caller(t, w.ca.SVID(t, "/nobody"))
			before := test.again(t.Context(), denied.conn)
			var ends []func()
			for i := range 3 {
				ends = append(ends, w.occupy(t, good, strconv.Itoa(i), test.hold))
			}
			wantBusy(t, "a peer that has three quarters", "PEER_SHARE_TAKEN", good.conn, test.again)
			ends = append(ends, w.occupy(t, other, "3", test.hold))
			wantBusy(t, "one too many", "SERVER_FULL", third.conn, test.again)
			// A peer that may not call is told the same as ever.
			after := test.again(t.Context(), denied.conn)
			if status.Code(after) != codes.PermissionDenied || status.Convert(after).Message() != status.Convert(before).Message() ||
				len(status.Convert(after).Details()) != len(status.Convert(before).Details()) {
				t.Errorf("a denied peer is told %v by a full server, and %v by an empty one", after, before)
			}
			if err := test.other(t.Context(), third.conn); err != nil {
				t.Errorf("a call of the other kind: %v", err)
			}
			if got := series(t, metrics, fmt.Sprintf("countersign_calls_in_flight{kind=%q}", test.kind)); got != 4 {
				t.Errorf("%v calls are counted, want 4", got)
			}
			for _, end := range ends {
				end()
			}
			eventually(t, "a call when the others have ended", func() bool {
				return series(t, metrics, fmt.Sprintf("countersign_calls_in_flight{kind=%q}", test.kind)) == 0
			})
			if err := say(t.Context(), third.conn); err != nil {
				t.Errorf("when the others have ended: %v", err)
			}
		})
	}
}

func sayWith(ctx context.Context, conn *grpc.ClientConn, opts ...grpc.CallOption) error {
	return conn.Invoke(ctx, unaryMethod, small(), new(wrapperspb.BytesValue), opts...)
}

// converse opens a stream, has a message answered and ends it.
func converse(ctx context.Context, conn *grpc.ClientConn) error {
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	stream, err := talk(ctx, conn)
	if err != nil {
		return err
	}
	return exchange(stream)
}

func (c call) makeWith(ctx context.Context, conn *grpc.ClientConn, opts ...grpc.CallOption) error {
	stream, err := conn.NewStream(ctx, descs[c.method], c.method, opts...)
	if err != nil {
		return err
	}
	return c.use(stream, nil)
}

func wantBusy(t *testing.T, what, reason string, conn *grpc.ClientConn, again func(context.Context, *grpc.ClientConn, ...grpc.CallOption) error) {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), time.Minute) // should it be let in
	defer cancel()
	var trailer metadata.MD
	err := again(ctx, conn, grpc.Trailer(&trailer))
	why, delay := explained(err)
	if status.Code(err) != codes.ResourceExhausted || why != reason || delay <= 0 {
		t.Errorf("%s: %v for %s, come back in %v", what, err, why, delay)
	}
	pushback := trailer.Get("grpc-retry-pushback-ms")
	if len(pushback) != 1 || pushback[0] != strconv.FormatInt((delay+time.Millisecond-1).Milliseconds(), 10) {
		t.Errorf("%s: the trailer says %v beside %v", what, pushback, delay)
	}
}

// ATTACKS 53: a call that cannot be answered in time is not begun.
func TestTooLittleOfTheDeadlineIsRefused(t *testing.T) {
	t.Parallel()
	metrics := prometheus.NewRegistry()
	w := newWorld(t, []string{"/good"}, mesh.WithLeastDeadline(time.Hour), mesh.WithMetrics(metrics))
	reached := make(chan struct{}, 10)
	w.echo.accepted = func(context.Context) { reached <- struct{}{} }
	good, denied := w.caller(t, w.ca.SVID(t, "/good")), w.caller(t, w.ca.SVID(t, "/nobody"))
	short, cancel := context.WithTimeout(t.Context(), 30*time.Minute)
	defer cancel()
	var trailer metadata.MD
	err := sayWith(short, good.conn, grpc.Trailer(&trailer))
	reason, _ := explained(err)
	if status.Code(err) != codes.DeadlineExceeded || reason != "DEADLINE_TOO_SHORT" || !strings.Contains(err.Error(), "nothing was done") {
		t.Errorf("with half of it left: %v for %s", err, reason)
	}
	if got := trailer.Get("grpc-retry-pushback-ms"); len(got) != 1 || got[0] != "-1" {
		t.Errorf("the trailer says %v", got)
	}
	if err := converse(short, good.conn); status.Code(err) != codes.DeadlineExceeded {
		t.Errorf("a stream with half of it left: %v", err)
	}
	if len(reached) > 0 {
		t.Error("a handler was called")
	}
	if err := say(short, denied.conn); status.Code(err) != codes.PermissionDenied {
		t.Errorf("a denied peer is told %v", err)
	}
	long, cancel := context.WithTimeout(t.Context(), 2*time.Hour)
	defer cancel()
	for _, ctx := range []context.Context{long, t.Context()} {
		if err := say(ctx, good.conn); err != nil {
			t.Errorf("with enough time: %v", err)
		}
	}
	for kind, want := range map[string]float64{"unary": 1, "stream": 1} {
		if got := series(t, metrics, fmt.Sprintf("countersign_calls_refused_total{kind=%q,reason=\"deadline\"}", kind)); got != want {
			t.Errorf("%v refusals of kind %s are counted, want %v", got, kind, want)
		}
	}
}

// The operator reaches a server that is full, and who is denied still is.
func TestAFullServerIsOpenToItsOperator(t *testing.T) {
	t.Parallel()
	m := meshtest.New(t, "bank.test", policy)
	entered, leave := make(chan struct{}), make(chan struct{})
	service := &risk{assess: func(context.Context) error { entered <- struct{}{}; <-leave; return nil }}
	addr := m.Serve(t, "/risk", service.register,
		mesh.WithMaxCalls(1), mesh.WithMaxStreams(1), mesh.WithRateLimit(0, 1), mesh.WithLeastDeadline(time.Hour))
	client := riskv1.NewRiskServiceClient(m.Dial(t, "/payments", "/risk", addr))
	ended := make(chan error, 1)
	go func() {
		_, err := client.AssessPayment(t.Context(), request())
		ended <- err
	}()
	<-entered
	bad := request()
	bad.PaymentId = "nonsense"
	if _, err := client.AssessPayment(t.Context(), bad); status.Code(err) != codes.ResourceExhausted {
		t.Errorf("a request that validation would refuse: %v", err)
	}
	ctx, cancel := context.WithTimeout(t.Context(), 30*time.Second)
	defer cancel()
	for caller, want := range map[string]codes.Code{"/operator": codes.OK, "/payments": codes.PermissionDenied} {
		conn := m.Dial(t, caller, "/risk", addr)
		_, err := grpc_health_v1.NewHealthClient(conn).Check(ctx, &grpc_health_v1.HealthCheckRequest{})
		if status.Code(err) != want {
			t.Errorf("health for %s: %v, want %s", caller, err, want)
		}
		if err := listServices(ctx, conn); status.Code(err) != want {
			t.Errorf("reflection for %s: %v, want %s", caller, err, want)
		}
	}
	close(leave)
	if err := <-ended; err != nil {
		t.Errorf("the call that filled the server: %v", err)
	}
}

func TestANumberOfSlotsThatMakesNoSenseIsRefused(t *testing.T) {
	t.Parallel()
	w := newWorld(t, []string{"/good"})
	for _, option := range []mesh.ServerOption{mesh.WithMaxCalls(-1), mesh.WithMaxStreams(-1)} {
		if _, err := mesh.NewServer(w.conns, w.rules.file, option); err == nil {
			t.Error("it is accepted")
		}
	}
}

// A call that is denied by its content is denied by a full server too, and has not used up what the rate lets through.
func TestACallThatItsContentDeniesTakesNoRoom(t *testing.T) {
	t.Parallel()
	m := meshtest.New(t, "bank.test", strings.Replace(policy, "- peer: /payments\n", "- peer: /payments\n            when: request.payer_customer_id == \"alice\"\n", 1))
	addr := m.Serve(t, "/risk", (&risk{}).register, mesh.WithRateLimit(0, 1))
	client := riskv1.NewRiskServiceClient(m.Dial(t, "/payments", "/risk", addr))
	others := request()
	others.PayerCustomerId = "mallory"
	for _, test := range []struct {
		request *riskv1.AssessPaymentRequest
		want    codes.Code
	}{{others, codes.PermissionDenied}, {request(), codes.OK}, {request(), codes.ResourceExhausted}, {others, codes.PermissionDenied}} {
		if _, err := client.AssessPayment(t.Context(), test.request); status.Code(err) != test.want {
			t.Errorf("a call for %s: %v, want %s", test.request.GetPayerCustomerId(), err, test.want)
		}
	}
}
