package overload_test

import (
	"context"
	"log/slog"
	"strings"
	"sync"
	"testing"

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

func (h *holders) end() {
	close(h.release)
	h.over.Wait()
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

func nothing() error { return nil }

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
