package mesh_test

import (
	"context"
	"fmt"
	"log/slog"
	"math/rand/v2"
	"strconv"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	"github.com/spiffe/go-spiffe/v2/spiffeid"
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

// heedful is the service config of a client that sends refused calls again when the server says so. By itself it would wait for ever.
const heedful = `{"methodConfig": [{"name": [{}], "retryPolicy": {
	"maxAttempts": 5, "initialBackoff": "1000s", "maxBackoff": "1000s", "backoffMultiplier": 1, "retryableStatusCodes": ["RESOURCE_EXHAUSTED"]
}}]}`

// onRefusal is a log that does something at the first line about refusals.
type onRefusal struct {
	slog.Handler
	once *sync.Once
	do   func()
}

func (l onRefusal) Handle(_ context.Context, r slog.Record) error {
	if r.Message == "calls are refused" {
		l.once.Do(l.do)
	}
	return nil
}

func (onRefusal) Enabled(context.Context, slog.Level) bool { return true }

// gRPC's client as it comes heeds what a full server says, unary and stream.
func TestAStockClientComesBackWhenTheServerSays(t *testing.T) {
	t.Parallel()
	for name, come := range map[string]func(ctx context.Context, conn *grpc.ClientConn) error{"with a call": say, "with a stream": converse} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			var free func()
			log := slog.New(onRefusal{slog.DiscardHandler, new(sync.Once), func() { free() }})
			w := newWorld(t, []string{"/good"}, mesh.WithMaxCalls(1), mesh.WithMaxStreams(1), mesh.WithLogger(log))
			c := w.caller(t, w.ca.SVID(t, "/good"))
			kind := call{method: unaryMethod, unary: waitUnary}
			if name == "with a stream" {
				kind = call{method: bothMethod, serve: idle, use: sayAndReceive}
			}
			free = w.occupy(t, c, "it", kind)
			stock, err := grpc.NewClient(w.addr, grpc.WithDefaultServiceConfig(heedful),
				grpc.WithTransportCredentials(c.conns.Client(spiffeid.RequireFromString("spiffe://bank.test/ledger"))))
			if err != nil {
				t.Fatal(err)
			}
			defer stock.Close()
			ctx, cancel := context.WithTimeout(t.Context(), time.Minute) // less than its own backoff
			defer cancel()
			if err := come(ctx, stock); err != nil {
				t.Errorf("it does not come back in time: %v", err)
			}
		})
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

// Whatever becomes of a call, its slot comes back. Not beside other tests: it leaves them little of the machine.
func TestEverySlotComesBack(t *testing.T) { //nolint:paralleltest // see above
	const places = 2
	metrics := prometheus.NewRegistry()
	w := newWorld(t, []string{"/good"}, mesh.WithMaxCalls(places), mesh.WithMaxStreams(places), mesh.WithMetrics(metrics), mesh.WithLeastDeadline(1))
	w.echo.accepted = func(ctx context.Context) {
		switch rand.IntN(4) {
		case 0:
			panic("in a handler")
		case 1, 2:
			<-ctx.Done() // until the caller goes, or its deadline passes
		}
	}
	const callers, each = 20, 500
	var calling sync.WaitGroup
	for range callers {
		c := w.caller(t, w.ca.SVID(t, "/good"))
		calling.Go(func() {
			for n := range each {
				ctx, cancel := context.WithTimeout(t.Context(), rand.N(20*time.Millisecond))
				if n%10 == 0 {
					time.AfterFunc(rand.N(time.Millisecond), cancel)
				}
				if n%2 == 0 {
					_ = say(ctx, c.conn)
				} else {
					_ = converse(ctx, c.conn)
				}
				cancel()
			}
			_ = c.conn.Close()
		})
	}
	calling.Wait()
	for _, kind := range []string{"unary", "stream"} {
		eventually(t, "slots come back", func() bool {
			return series(t, metrics, fmt.Sprintf("countersign_calls_in_flight{kind=%q}", kind)) == 0
		})
		if series(t, metrics, fmt.Sprintf("countersign_calls_refused_total{kind=%q,reason=\"full\"}", kind)) == 0 {
			t.Errorf("no %s was refused, so the slots were never all taken", kind)
		}
	}
	w.echo.accepted = nil
	c := w.caller(t, w.ca.SVID(t, "/good"))
	for i := range places {
		t.Cleanup(w.occupy(t, c, strconv.Itoa(i), call{method: unaryMethod, unary: waitUnary}))
		t.Cleanup(w.occupy(t, c, "s"+strconv.Itoa(i), call{method: bothMethod, serve: idle, use: sayAndReceive}))
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

// ATTACKS 53: five times the load that a server can take. What it takes on it does as well as without the rest, and does all of it for somebody: it
// begins nothing that it does not finish. Not beside other tests: it compares times.
func TestFiveTimesTheLoad(t *testing.T) { //nolint:paralleltest // see above
	const (
		places = 4
		rounds = 6
		each   = 60 // calls that are done in a round
	)
	metrics := prometheus.NewRegistry()
	w := newWorld(t, []string{"/good", "/other"}, mesh.WithMaxCalls(places), mesh.WithMetrics(metrics))
	var inside, most, begun atomic.Int32
	w.echo.accepted = func(context.Context) {
		begun.Add(1)
		for n := inside.Add(1); ; {
			if now := most.Load(); n <= now || most.CompareAndSwap(now, n) {
				break
			}
		}
		defer inside.Add(-1)
		<-time.After(2 * time.Millisecond) // it waits for a disk, say
	}
	callers := make([]*caller, 5*places)
	for i := range callers {
		callers[i] = w.caller(t, w.ca.SVID(t, []string{"/good", "/good", "/good", "/other"}[i%4]))
		if err := say(t.Context(), callers[i].conn); err != nil { // connects
			t.Fatal(err)
		}
	}
	begun.Store(0)
	// In turns, so that whatever else the machine does falls on both alike.
	var alone, crowded turn
	for range rounds {
		alone.add(drive(t, callers[:places], each))
		crowded.add(drive(t, callers, each))
	}
	if alone.refused != 0 {
		t.Errorf("%d calls of no more than there are places were refused", alone.refused)
	}
	if crowded.refused == 0 || most.Load() > places {
		t.Errorf("of five times the load %d calls were refused, and %d were in handlers at once", crowded.refused, most.Load())
	}
	if done := alone.done + crowded.done; int(begun.Load()) != done {
		t.Errorf("%d calls were begun, and %d answered", begun.Load(), done)
	}
	goodput := alone.took.Seconds() / crowded.took.Seconds() * float64(crowded.done) / float64(alone.done)
	if goodput < 0.25 {
		t.Errorf("goodput under five times the load is %.2f of what it is without", goodput)
	}
	t.Logf("goodput %.2f of what it is without overload; %d calls done, %d refused; a refusal takes %.2f of the time of an answer",
		goodput, crowded.done, crowded.refused, crowded.refusing.Seconds()/float64(crowded.refused)/(crowded.answering.Seconds()/float64(crowded.done)))
}

// turn is what became of some calls.
type turn struct {
	done, refused             int
	took, answering, refusing time.Duration
}

func (a *turn) add(b turn) {
	a.done, a.refused, a.took = a.done+b.done, a.refused+b.refused, a.took+b.took
	a.answering, a.refusing = a.answering+b.answering, a.refusing+b.refusing
}

// drive has each caller make one call after another, whatever it is told, until so many are done.
func drive(t *testing.T, callers []*caller, enough int) turn {
	t.Helper()
	var (
		mu      sync.Mutex
		calling sync.WaitGroup
		all     turn
	)
	begin := time.Now()
	for _, c := range callers {
		calling.Go(func() {
			for more := true; more; {
				sent := time.Now()
				answer := new(wrapperspb.BytesValue)
				err := c.conn.Invoke(t.Context(), unaryMethod, small(), answer)
				took := time.Since(sent)
				mu.Lock()
				switch _, delay := explained(err); {
				case err == nil && string(answer.GetValue()) == "hello":
					all.done, all.answering = all.done+1, all.answering+took
				case status.Code(err) == codes.ResourceExhausted && delay > 0:
					all.refused, all.refusing = all.refused+1, all.refusing+took
				default:
					t.Errorf("a call ended with %q, %v", answer.GetValue(), err)
				}
				more = all.done < enough
				mu.Unlock()
			}
		})
	}
	calling.Wait()
	all.took = time.Since(begin)
	return all
}

// levels is a log that counts the lines of each message above debug.
type levels struct {
	slog.Handler
	mu    *sync.Mutex
	lines map[string]int
}

func (levels) Enabled(context.Context, slog.Level) bool { return true }

func (l levels) Handle(_ context.Context, r slog.Record) error {
	l.mu.Lock()
	defer l.mu.Unlock()
	if r.Level > slog.LevelDebug {
		l.lines[r.Message]++
	}
	return nil
}

// The log of an overloaded server does not grow with what it refuses; what its handlers refuse is logged as ever.
func TestRefusedCallsDoNotFillTheLog(t *testing.T) {
	t.Parallel()
	m := meshtest.New(t, "bank.test", policy)
	log := levels{slog.DiscardHandler, new(sync.Mutex), make(map[string]int)}
	service := &risk{assess: func(context.Context) error { return status.Error(codes.ResourceExhausted, "no paper") }}
	addr := m.Serve(t, "/risk", service.register, mesh.WithRateLimit(0, 3), mesh.WithLogger(slog.New(log)))
	client := riskv1.NewRiskServiceClient(m.Dial(t, "/payments", "/risk", addr))
	for range 10 {
		if _, err := client.AssessPayment(t.Context(), request()); status.Code(err) != codes.ResourceExhausted {
			t.Errorf("a call: %v", err)
		}
	}
	eventually(t, "the calls that handlers ended are logged", func() bool {
		log.mu.Lock()
		defer log.mu.Unlock()
		return log.lines["finished call"] >= 3
	})
	log.mu.Lock()
	defer log.mu.Unlock()
	if log.lines["finished call"] != 3 || log.lines["calls are refused"] != 1 {
		t.Errorf("seven calls were refused, and three failed in their handler, and these lines were logged: %v", log.lines)
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
