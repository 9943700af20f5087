package mesh

import (
	"context"
	"log/slog"

	"github.com/prometheus/client_golang/prometheus"
	"go.opentelemetry.io/otel/propagation"
	"google.golang.org/grpc/metadata"
	"google.golang.org/grpc/tap"

	"github.com/countersign-mesh/countersign/pkg/authz"
	"github.com/countersign-mesh/countersign/pkg/transport"
)

// admit is asked when a call's headers have arrived, before any of its messages is read (grpc.InTapHandle). What it refuses has
// cost next to nothing and looks the same whatever the method and the message. It runs on the goroutine that reads the
// connection, so it must not block and not panic.
func admit(guard *authz.Guard, log *slog.Logger, panics prometheus.Counter) tap.ServerInHandle {
	recovered := recoverer(log, panics)
	return func(ctx context.Context, info *tap.Info) (_ context.Context, err error) {
		defer func() {
			if p := recover(); p != nil {
				err = recovered(ctx, p)
			}
		}()
		if err := transport.Enter(ctx); err != nil {
			return ctx, err
		}
		// Telemetry has not seen the call yet; a denial is to be found by the caller's trace all the same.
		traced := propagation.TraceContext{}.Extract(ctx, headers(info.Header))
		return ctx, guard.Admit(traced, info.FullMethodName)
	}
}

// headers is metadata as OpenTelemetry reads it.
type headers metadata.MD

// Get implements propagation.TextMapCarrier.
func (h headers) Get(key string) string {
	if values := metadata.MD(h).Get(key); len(values) > 0 {
		return values[0]
	}
	return ""
}

// Set implements propagation.TextMapCarrier. Nothing is written here.
func (h headers) Set(string, string) {}

// Keys implements propagation.TextMapCarrier.
func (h headers) Keys() []string {
	keys := make([]string, 0, len(h))
	for key := range h {
		keys = append(keys, key)
	}
	return keys
}
