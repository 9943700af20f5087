// Package limit bounds how much one customer asks of the bank. A token that was lost, or an app that has gone mad, must not take what others need.
package limit

import (
	"context"
	"strconv"
	"sync"
	"time"

	lru "github.com/hashicorp/golang-lru/v2"
	"golang.org/x/time/rate"
	"google.golang.org/genproto/googleapis/rpc/errdetails"
	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/metadata"
	"google.golang.org/grpc/status"
	"google.golang.org/protobuf/types/known/durationpb"

	"github.com/countersign-mesh/countersign/pkg/mesh"
)

const (
	// remembered is how many customers' rates are known. Whoever has not called for longer than that many others have starts anew.
	remembered = 65_536
	// maxStreams is how many streams one customer has open at once: some devices, each with some accounts on its screen.
	maxStreams = 32
	// streamDelay is when one who has too many streams is to come back.
	streamDelay = 5 * time.Second
)

// Limit knows how often each customer calls, over all fronts. It is safe for concurrent use. The zero value is not usable; see New.
type Limit struct {
	caller    func(context.Context) string
	perSecond rate.Limit
	burst     int
	now       func() time.Time
	rates     *lru.Cache[string, *rate.Limiter]

	mu      sync.Mutex
	streams map[string]int
}

// New returns a Limit that lets each caller begin so many calls a second, and so many at once after a rest. now is time.Now but in tests.
func New(caller func(context.Context) string, perSecond, burst int, now func() time.Time) *Limit {
	rates, err := lru.New[string, *rate.Limiter](remembered)
	if err != nil {
		panic(err) // it fails for a size that is not positive
	}
	return &Limit{caller: caller, perSecond: rate.Limit(perSecond), burst: burst, now: now, rates: rates, streams: make(map[string]int)}
}

// Interceptors refuse what is too much with RESOURCE_EXHAUSTED, and say when to come back. They belong behind the authentication.
func (l *Limit) Interceptors() mesh.Interceptors {
	return mesh.Interceptors{Unary: l.unary, Stream: l.stream}
}

func (l *Limit) unary(ctx context.Context, req any, _ *grpc.UnaryServerInfo, handler grpc.UnaryHandler) (any, error) {
	if delay := l.delay(l.caller(ctx)); delay > 0 {
		_ = grpc.SetTrailer(ctx, pushback(delay)) // fails where there is nobody to tell
		return nil, tooMuch(delay)
	}
	return handler(ctx, req)
}

func (l *Limit) stream(srv any, ss grpc.ServerStream, info *grpc.StreamServerInfo, handler grpc.StreamHandler) error {
	if delay := l.delay(l.caller(ss.Context())); delay > 0 {
		ss.SetTrailer(pushback(delay))
		return tooMuch(delay)
	}
	return l.streamBegun(srv, ss, info, handler)
}

// Begin takes a call of the caller that a context names into account, or refuses it. It is for a door that hears who calls before it hears what; what becomes of
// that goes through Begun.
func (l *Limit) Begin(ctx context.Context) error {
	if delay := l.delay(l.caller(ctx)); delay > 0 {
		return tooMuch(delay)
	}
	return nil
}

// Begun are the Interceptors for calls that Begin has taken into account: a good one is not counted twice. How many streams a caller has open is still theirs to
// say.
func (l *Limit) Begun() mesh.Interceptors {
	return mesh.Interceptors{Unary: unaryBegun, Stream: l.streamBegun}
}

func unaryBegun(ctx context.Context, req any, _ *grpc.UnaryServerInfo, handler grpc.UnaryHandler) (any, error) {
	return handler(ctx, req)
}

func (l *Limit) streamBegun(srv any, ss grpc.ServerStream, _ *grpc.StreamServerInfo, handler grpc.StreamHandler) error {
	caller := l.caller(ss.Context())
	if !l.open(caller) {
		ss.SetTrailer(pushback(streamDelay))
		return tooMuch(streamDelay)
	}
	defer l.closed(caller)
	return handler(srv, ss)
}

// delay takes one call into account. It returns 0 when it may begin, and otherwise when it may.
func (l *Limit) delay(caller string) time.Duration {
	limiter, ok := l.rates.Get(caller)
	if !ok {
		limiter = rate.NewLimiter(l.perSecond, l.burst)
		if before, there, _ := l.rates.PeekOrAdd(caller, limiter); there {
			limiter = before
		}
	}
	now := l.now()
	reserved := limiter.ReserveN(now, 1)
	delay := reserved.DelayFrom(now)
	if delay > 0 {
		reserved.CancelAt(now)
	}
	return delay
}

func (l *Limit) open(caller string) bool {
	l.mu.Lock()
	defer l.mu.Unlock()
	if l.streams[caller] >= maxStreams {
		return false
	}
	l.streams[caller]++
	return true
}

func (l *Limit) closed(caller string) {
	l.mu.Lock()
	defer l.mu.Unlock()
	if l.streams[caller]--; l.streams[caller] == 0 {
		delete(l.streams, caller)
	}
}

// pushback tells gRPC's clients when to try again (gRFC A6).
func pushback(delay time.Duration) metadata.MD {
	return metadata.Pairs("grpc-retry-pushback-ms", strconv.FormatInt(max(1, delay.Milliseconds()), 10))
}

func tooMuch(delay time.Duration) error {
	answer, err := status.New(codes.ResourceExhausted, "you are calling too often: nothing was done").WithDetails(
		&errdetails.ErrorInfo{Domain: "countersign", Reason: "CUSTOMER_RATE_EXCEEDED"}, &errdetails.RetryInfo{RetryDelay: durationpb.New(delay)})
	if err != nil { // it fails only for a status of OK
		return err
	}
	return answer.Err()
}
