package overload_test

import (
	"context"
	"errors"
	"testing"
	"time"

	"golang.org/x/time/rate"
	"google.golang.org/grpc"

	"github.com/countersign-mesh/countersign/pkg/overload"
)

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
