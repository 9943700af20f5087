package mesh

import (
	"context"
	"fmt"
	"sync/atomic"
	"time"

	"github.com/spiffe/go-spiffe/v2/spiffeid"
	"go.opentelemetry.io/otel/trace"
	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"

	"github.com/countersign-mesh/countersign/pkg/audit"
	"github.com/countersign-mesh/countersign/pkg/authz"
	"github.com/countersign-mesh/countersign/pkg/policy"
)

// dialList keeps a client to the servers that the policy in force lists for it.
type dialList struct {
	policies       authz.Policies
	client, server spiffeid.ID
	recorder       audit.Recorder // may be nil
	// passed is the policy that was asked last and lists the server, so that a call costs one comparison.
	passed atomic.Pointer[policy.Policy]
}

// check fails when a policy does not list the server.
func (l *dialList) check(now *policy.Policy) error {
	if l.passed.Load() == now {
		return nil
	}
	if err := now.Dials(l.client, l.server); err != nil {
		return err
	}
	l.passed.Store(now)
	return nil
}

// refuse fails for a call that the policy in force does not list, and records that. Its reason is no secret: it comes from the process's own file.
func (l *dialList) refuse(ctx context.Context, method string) error {
	now := l.policies.Policy()
	err := l.check(now)
	if err == nil {
		return nil
	}
	err = fmt.Errorf("the own policy does not list %s any more: %w", l.server, err)
	if l.recorder != nil {
		l.recorder.Record(audit.Decision{
			ID:            audit.NewID(),
			Time:          time.Now(),
			PeerID:        l.client.String(),
			Method:        method,
			Reason:        "not sent: " + err.Error(),
			PolicyVersion: now.Version(),
			TraceID:       trace.SpanContextFromContext(ctx).TraceID(),
		})
	}
	return status.Error(codes.PermissionDenied, err.Error())
}

func (l *dialList) unary(ctx context.Context, method string, req, reply any, cc *grpc.ClientConn, invoker grpc.UnaryInvoker, opts ...grpc.CallOption) error {
	if err := l.refuse(ctx, method); err != nil {
		return err
	}
	return invoker(ctx, method, req, reply, cc, opts...)
}

func (l *dialList) stream(ctx context.Context, desc *grpc.StreamDesc, cc *grpc.ClientConn, method string, streamer grpc.Streamer, opts ...grpc.CallOption) (grpc.ClientStream, error) {
	if err := l.refuse(ctx, method); err != nil {
		return nil, err
	}
	return streamer(ctx, desc, cc, method, opts...)
}
