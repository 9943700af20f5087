package overload_test

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"log/slog"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"github.com/google/go-cmp/cmp"
	"github.com/spiffe/go-spiffe/v2/spiffeid"
	"go.uber.org/goleak"
	"golang.org/x/time/rate"
	"google.golang.org/genproto/googleapis/rpc/errdetails"
	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/credentials"
	"google.golang.org/grpc/metadata"
	"google.golang.org/grpc/peer"
	"google.golang.org/grpc/status"
	"google.golang.org/protobuf/types/known/durationpb"

	"github.com/countersign-mesh/countersign/pkg/identity"
	"github.com/countersign-mesh/countersign/pkg/overload"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

// shown is the credentials of a peer that has shown who it is.
type shown struct {
	credentials.AuthInfo
	peer *identity.Peer
}

func (s shown) Peer() *identity.Peer { return s.peer }

// from is the context of a call of a peer, such as "/payments".
func from(t testing.TB, path string) context.Context {
	t.Helper()
	id := spiffeid.RequireFromString("spiffe://bank.test" + path)
	return peer.NewContext(context.Background(), &peer.Peer{AuthInfo: shown{peer: &identity.Peer{ID: id}}})
}

func newGate(t testing.TB, limits overload.Limits) *overload.Gate {
	t.Helper()
	if limits.Rate == nil {
		limits.Rate = rate.NewLimiter(rate.Inf, 0)
	}
	gate, err := overload.New(limits, overload.WithLogger(slog.New(slog.DiscardHandler)))
	if err != nil {
		t.Fatal(err)
	}
	return gate
}

var (
	unaryInfo  = &grpc.UnaryServerInfo{Server: new(int), FullMethod: "/test/Unary"}
	streamInfo = &grpc.StreamServerInfo{FullMethod: "/test/Stream"}
)

// call calls a unary handler through the gate.
func call(ctx context.Context, gate *overload.Gate, handler func() error) error {
	_, err := gate.Unary()(ctx, nil, unaryInfo, func(context.Context, any) (any, error) { return nil, handler() })
	return err
}

// open opens a stream through the gate.
func open(ctx context.Context, gate *overload.Gate, handler func() error) error {
	return gate.Stream()(new(int), stream{ctx: ctx}, streamInfo, func(any, grpc.ServerStream) error { return handler() }) //nolint:contextcheck // it is the stream's
}

type stream struct {
	grpc.ServerStream
	ctx context.Context
}

func (s stream) Context() context.Context { return s.ctx }

func (stream) SetTrailer(metadata.MD) {}

// holders are calls that stay in their handlers.
type holders struct {
	release chan struct{}
	over    sync.WaitGroup
}

// hold makes n calls and returns when all are in their handlers.
func hold(t *testing.T, n int, enter func(handler func() error) error) *holders {
	t.Helper()
	h := &holders{release: make(chan struct{})}
	in := make(chan error, n)
	for range n {
		h.over.Go(func() {
			err := enter(func() error { in <- nil; <-h.release; return nil })
			if err != nil {
				in <- err
			}
		})
	}
	for range n {
		if err := <-in; err != nil {
			t.Errorf("a call is not let in: %v", err)
		}
	}
	return h
}

func (h *holders) end() {
	close(h.release)
	h.over.Wait()
}

func nothing() error { return nil }

func TestCallsAndStreamsAreBoundedApart(t *testing.T) {
	t.Parallel()
	gate := newGate(t, overload.Limits{Calls: 4, Streams: 8})
	payments, gateway := from(t, "/payments"), from(t, "/gateway")
	calls := hold(t, 3, func(handler func() error) error { return call(payments, gate, handler) })
	wantRefused(t, "a fourth call of a peer that has three quarters", call(payments, gate, nothing), "share")
	others := hold(t, 1, func(handler func() error) error { return call(gateway, gate, handler) })
	wantRefused(t, "a fifth call", call(from(t, "/accounts"), gate, nothing), "full")
	wantRefused(t, "a fifth call, of a peer that has its share", call(payments, gate, nothing), "full")

	streams := hold(t, 6, func(handler func() error) error { return open(payments, gate, handler) })
	wantRefused(t, "a seventh stream of a peer", open(payments, gate, nothing), "share")
	if err := open(gateway, gate, nothing); err != nil {
		t.Errorf("a stream of another peer: %v", err)
	}
	want := overload.Status{Kinds: map[string]overload.KindStatus{
		"unary":    {InFlight: 4, Limit: 4, Refused: map[string]uint64{"full": 2, "share": 1, "rate": 0, "deadline": 0}},
		"stream":   {InFlight: 6, Limit: 8, Refused: map[string]uint64{"full": 0, "share": 1, "rate": 0, "deadline": 0}},
		"operator": {InFlight: 0, Limit: 64, Refused: map[string]uint64{"full": 0, "share": 0}},
	}}
	if diff := cmp.Diff(want, gate.Status()); diff != "" {
		t.Errorf("status (-want +got):\n%s", diff)
	}
	for _, h := range []*holders{calls, others, streams} {
		h.end()
	}
	if err := call(payments, gate, nothing); err != nil {
		t.Errorf("when the others have ended: %v", err)
	}
}

func wantRefused(t *testing.T, what string, err error, reason string) {
	t.Helper()
	if got := overload.ReasonOf(err); got != reason {
		t.Errorf("%s: %v is refused for %q, want %q", what, err, got, reason)
	}
	code := codes.ResourceExhausted
	if reason == "deadline" {
		code = codes.DeadlineExceeded
	}
	info, retry := details(err)
	if status.Code(err) != code || !strings.HasSuffix(status.Convert(err).Message(), ": nothing was done") || info.GetDomain() != "countersign" {
		t.Errorf("%s: %v with %v", what, err, info)
	}
	if (retry != nil) != (code == codes.ResourceExhausted) {
		t.Errorf("%s: retry info %v", what, retry)
	}
}

func details(err error) (info *errdetails.ErrorInfo, retry *errdetails.RetryInfo) {
	for _, detail := range status.Convert(err).Details() {
		switch d := detail.(type) {
		case *errdetails.ErrorInfo:
			info = d
		case *errdetails.RetryInfo:
			retry = d
		}
	}
	return info, retry
}

// However calls come and end, there are never more in their handlers than the limits say, and all slots come back.
func TestTheBoundsHoldAndEverySlotComesBack(t *testing.T) {
	t.Parallel()
	gate := newGate(t, overload.Limits{Calls: 8, Streams: 8})
	var inside, most [4]atomic.Int32
	var all, mostOfAll, refused atomic.Int32
	ctxs := []context.Context{from(t, "/peer-0"), from(t, "/peer-1"), from(t, "/peer-2"), from(t, "/peer-3")}
	var callers sync.WaitGroup
	for caller := range 32 {
		callers.Go(func() {
			peer := caller % 4
			for n := range 1000 {
				err := endSomehow(n, func(handler func() error) error {
					return call(ctxs[peer], gate, func() error {
						defer inside[peer].Add(-1)
						defer all.Add(-1)
						raise(&most[peer], inside[peer].Add(1))
						raise(&mostOfAll, all.Add(1))
						return handler()
					})
				})
				if overload.ReasonOf(err) != "" {
					refused.Add(1)
				}
			}
		})
	}
	callers.Wait()
	if mostOfAll.Load() > 8 {
		t.Errorf("%d calls were in handlers at once", mostOfAll.Load())
	}
	for peer := range most {
		if n := most[peer].Load(); n > 6 {
			t.Errorf("%d calls of peer %d were in handlers at once", n, peer)
		}
	}
	if refused.Load() == 0 {
		t.Error("nothing was refused, so this shows nothing")
	}
	if n := gate.Status().Kinds["unary"].InFlight; n != 0 {
		t.Errorf("%d slots did not come back", n)
	}
	calls := hold(t, 6, func(handler func() error) error { return call(ctxs[0], gate, handler) })
	calls.end()
}

func raise(most *atomic.Int32, n int32) {
	for {
		now := most.Load()
		if n <= now || most.CompareAndSwap(now, n) {
			return
		}
	}
}

// endSomehow has a handler end in one of the ways that there are.
func endSomehow(n int, enter func(handler func() error) error) (err error) {
	defer func() {
		if p := recover(); p != nil {
			err = errors.New("panicked")
		}
	}()
	return enter(func() error {
		switch n % 4 {
		case 0:
			panic("in a handler")
		case 1:
			return errors.New("failed")
		case 2:
			return context.Canceled
		default:
			<-time.After(time.Microsecond)
			return nil
		}
	})
}

// ATTACKS 53: the deadline is asked before there is any effect, on slots and on the rate too.
func TestTooLittleDeadlineIsRefusedFirst(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		gate := newGate(t, overload.Limits{Calls: 1, Streams: 1, Rate: rate.NewLimiter(0, 1)})
		for _, test := range []struct {
			left time.Duration
			want string
		}{{-time.Second, "deadline"}, {0, "deadline"}, {overload.LeastDeadline - 1, "deadline"}} {
			ctx, cancel := context.WithDeadline(from(t, "/payments"), time.Now().Add(test.left))
			wantRefused(t, fmt.Sprintf("a call with %v left", test.left), call(ctx, gate, nothing), test.want)
			wantRefused(t, fmt.Sprintf("a stream with %v left", test.left), open(ctx, gate, nothing), test.want)
			info, _ := details(call(ctx, gate, nothing))
			if info.GetReason() != "DEADLINE_TOO_SHORT" {
				t.Errorf("the reason is %q", info.GetReason())
			}
			cancel()
		}
		ctx, cancel := context.WithTimeout(from(t, "/payments"), overload.LeastDeadline)
		defer cancel()
		if err := call(ctx, gate, nothing); err != nil { // what was refused before has not used the rate's one token up
			t.Errorf("a call with just enough: %v", err)
		}
		wantRefused(t, "one more", call(ctx, gate, nothing), "rate")
		unary := gate.Status().Kinds["unary"]
		if unary.Refused["deadline"] != 6 || unary.Refused["rate"] != 1 || unary.InFlight != 0 {
			t.Errorf("it stands at %+v", unary)
		}
	})
}

func TestOperatorsHaveSlotsOfTheirOwn(t *testing.T) {
	t.Parallel()
	gate := newGate(t, overload.Limits{Calls: 1, Streams: 1, Rate: rate.NewLimiter(0, 1)})
	health := new(string)
	gate.Reserve(health)
	ctx, cancel := context.WithTimeout(from(t, "/operator"), time.Millisecond)
	defer cancel()
	check := func(handler func() error) error {
		_, err := gate.Unary()(ctx, nil, &grpc.UnaryServerInfo{Server: health}, func(context.Context, any) (any, error) { return nil, handler() })
		return err
	}
	watch := func(handler func() error) error {
		return gate.Stream()(health, stream{ctx: ctx}, streamInfo, func(any, grpc.ServerStream) error { return handler() }) //nolint:contextcheck // it is the stream's
	}
	busy := hold(t, 1, func(handler func() error) error { return call(from(t, "/payments"), gate, handler) })
	defer busy.end()
	wantRefused(t, "a call to the full server", call(from(t, "/operator"), gate, nothing), "full")
	for range 3 { // more than the rate lets through, with less than the least deadline
		if err := errors.Join(check(nothing), watch(nothing)); err != nil {
			t.Errorf("health of a full server: %v", err)
		}
	}
	watches := hold(t, 48, watch)
	defer watches.end()
	wantRefused(t, "a 49th watch of one peer", watch(nothing), "share")
}

func TestEachPeersShareIsItsOwnWhereverItCallsFrom(t *testing.T) {
	t.Parallel()
	gate := newGate(t, overload.Limits{Calls: 4})
	first := hold(t, 3, func(handler func() error) error { return call(from(t, "/payments"), gate, handler) })
	defer first.end()
	wantRefused(t, "the same peer on another connection", call(from(t, "/payments"), gate, nothing), "share")
	if err := call(from(t, "/payments-2"), gate, nothing); err != nil {
		t.Errorf("another peer: %v", err)
	}
}

func TestRetryDelayIsReadFromTheError(t *testing.T) {
	t.Parallel()
	with := func(code codes.Code, delay *durationpb.Duration) error {
		st, err := status.New(code, "busy").WithDetails(&errdetails.RetryInfo{RetryDelay: delay})
		if err != nil {
			t.Fatal(err)
		}
		return st.Err()
	}
	for name, test := range map[string]struct {
		err  error
		want time.Duration
		ok   bool
	}{
		"no error":                         {nil, 0, false},
		"an error that is no status":       {errors.New("no"), 0, false},
		"a status without details":         {status.Error(codes.ResourceExhausted, "busy"), 0, false},
		"a delay":                          {with(codes.ResourceExhausted, durationpb.New(time.Second)), time.Second, true},
		"a delay in a wrapped error":       {fmt.Errorf("pay: %w", with(codes.Unavailable, durationpb.New(time.Second))), time.Second, true},
		"a delay below zero":               {with(codes.ResourceExhausted, durationpb.New(-time.Second)), 0, true},
		"a delay that is none":             {with(codes.ResourceExhausted, nil), 0, false},
		"a delay that is no valid message": {with(codes.ResourceExhausted, &durationpb.Duration{Seconds: 1, Nanos: -1}), 0, false},
	} {
		if got, ok := overload.RetryDelay(test.err); got != test.want || ok != test.ok {
			t.Errorf("%s: %v, %t, want %v, %t", name, got, ok, test.want, test.ok)
		}
	}
}

func TestNumbersThatMakeNoSenseAreRefused(t *testing.T) {
	t.Parallel()
	for _, limits := range []overload.Limits{{Calls: -1}, {Streams: -1}, {Calls: 1_000_001}} {
		if _, err := overload.New(limits); err == nil {
			t.Errorf("%+v is accepted", limits)
		}
	}
}

// A flood of refusals is one line, and a count.
func TestRefusalsAreLoggedOnceInAWhile(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		var log bytes.Buffer
		gate, err := overload.New(overload.Limits{Rate: rate.NewLimiter(0, 0)}, overload.WithLogger(slog.New(slog.NewTextHandler(&log, nil))))
		if err != nil {
			t.Fatal(err)
		}
		refuse := func() {
			for range 1000 {
				wantRefused(t, "a call", call(from(t, "/payments"), gate, nothing), "rate")
			}
		}
		refuse()
		<-time.After(10 * time.Second) // of the bubble
		refuse()
		if n := strings.Count(log.String(), "\n"); n != 2 || !strings.Contains(log.String(), "refused_so_far=1001") {
			t.Errorf("%d lines:\n%s", n, &log)
		}
	})
}

func TestACallThatIsLetInAllocatesNothing(t *testing.T) {
	ctx, cancel := context.WithTimeout(from(t, "/payments"), time.Hour)
	defer cancel()
	unary, handler := newGate(t, overload.Limits{}).Unary(), func(context.Context, any) (any, error) { return nil, nil }
	if n := testing.AllocsPerRun(1000, func() {
		if _, err := unary(ctx, nil, unaryInfo, handler); err != nil {
			t.Error(err)
		}
	}); n > 0 {
		t.Errorf("%v allocations a call", n)
	}
}

func BenchmarkGate(b *testing.B) {
	ctx, cancel := context.WithTimeout(from(b, "/payments"), time.Hour)
	defer cancel()
	handler := func(context.Context, any) (any, error) { return nil, nil }
	alone := rate.NewLimiter(1e9, 1e9)
	tight := newGate(b, overload.Limits{Rate: rate.NewLimiter(0, 0)})
	for name, unary := range map[string]grpc.UnaryServerInterceptor{
		"without": func(ctx context.Context, request any, _ *grpc.UnaryServerInfo, handler grpc.UnaryHandler) (any, error) {
			return handler(ctx, request)
		},
		"the rate alone": func(ctx context.Context, request any, _ *grpc.UnaryServerInfo, handler grpc.UnaryHandler) (any, error) {
			if !alone.Allow() {
				return nil, errors.New("refused")
			}
			return handler(ctx, request)
		},
		"let in":                newGate(b, overload.Limits{Calls: 100_000}).Unary(),
		"let in, with the rate": newGate(b, overload.Limits{Calls: 100_000, Rate: rate.NewLimiter(1e9, 1e9)}).Unary(),
		"refused":               tight.Unary(),
	} {
		b.Run(name, func(b *testing.B) {
			b.ReportAllocs()
			for b.Loop() {
				_, _ = unary(ctx, nil, unaryInfo, handler)
			}
		})
		b.Run(name+", at once", func(b *testing.B) {
			b.ReportAllocs()
			b.RunParallel(func(pb *testing.PB) {
				for pb.Next() {
					_, _ = unary(ctx, nil, unaryInfo, handler)
				}
			})
		})
	}
}
