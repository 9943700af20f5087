package userauth_test

import (
	"context"
	"testing"
	"time"

	"google.golang.org/grpc"
	"google.golang.org/protobuf/types/known/wrapperspb"

	"github.com/countersign-mesh/countersign/pkg/userauth"
	"github.com/countersign-mesh/countersign/pkg/userauth/userauthtest"
)

// BenchmarkCall is a call at the edge, over TLS with a device's certificate: without a token, with one that is known by now, and with a new one each time. The
// three take turns, so that whatever else the machine does falls on all of them.
func BenchmarkCall(b *testing.B) {
	w := newWorld(b)
	open := func(ctx context.Context, req any, _ *grpc.UnaryServerInfo, handler grpc.UnaryHandler) (any, error) {
		return handler(ctx, req)
	}
	bare := w.dial(w.serveGRPC(open, nil), w.phone)
	edge := w.dial(w.serveGRPC(userauth.UnaryServerInterceptor(w.verifier), nil), w.phone)
	known := authorized(b, "Bearer "+w.token(nil))
	var without, withKnown, withNew time.Duration
	call := func(ctx context.Context, conn *grpc.ClientConn) time.Duration {
		began := time.Now()
		if err := conn.Invoke(ctx, "/test.Bank/Who", wrapperspb.String("x"), new(wrapperspb.StringValue)); err != nil {
			b.Fatal(err)
		}
		return time.Since(began)
	}
	for range 100 { // until all that is made once is made
		call(b.Context(), bare)
		call(known, edge)
	}
	for b.Loop() {
		fresh := authorized(b, "Bearer "+w.token(userauthtest.Claims{"exp": from(3000e9)}))
		without += call(b.Context(), bare)
		withKnown += call(known, edge)
		withNew += call(fresh, edge)
	}
	micros := func(d time.Duration) float64 { return float64(d.Microseconds()) / float64(b.N) }
	b.ReportMetric(0, "ns/op") // of the three together, and of the issuer's signature
	b.ReportMetric(micros(without), "without-µs")
	b.ReportMetric(micros(withKnown), "known-µs")
	b.ReportMetric(micros(withNew), "new-µs")
	b.ReportMetric(micros(withKnown)/micros(without), "known/without")
	b.ReportMetric(micros(withNew)/micros(without), "new/without")
}
