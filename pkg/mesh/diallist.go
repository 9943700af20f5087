package mesh

import (
	"context"
	"sync/atomic"

	"github.com/spiffe/go-spiffe/v2/spiffeid"
	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"

	"github.com/countersign-mesh/countersign/pkg/authz"
	"github.com/countersign-mesh/countersign/pkg/policy"
)

// dialList keeps a client to the servers that the policy in force lists for it.
type dialList struct {
	policies       authz.Policies
	client, server spiffeid.ID
	// passed is the policy that was asked last and lists the server, so that a call costs one comparison.
	passed atomic.Pointer[policy.Policy]
}

// check fails when the policy in force does not list the server.
func (l *dialList) check() error {
	now := l.policies.Policy()
	if l.passed.Load() == now {
		return nil
	}
	if err := now.Dials(l.client, l.server); err != nil {
		return err
	}
	l.passed.Store(now)
	return nil
}

// refusal is what a call ends with that the own policy does not list. Its reason is no secret: it comes from the process's own file.
func (l *dialList) refusal() error {
	if err := l.check(); err != nil {
		return status.Errorf(codes.PermissionDenied, "the own policy does not list %s any more: %v", l.server, err)
	}
	return nil
}

func (l *dialList) unary(ctx context.Context, method string, req, reply any, cc *grpc.ClientConn, invoker grpc.UnaryInvoker, opts ...grpc.CallOption) error {
	if err := l.refusal(); err != nil {
		return err
	}
	return invoker(ctx, method, req, reply, cc, opts...)
}

func (l *dialList) stream(ctx context.Context, desc *grpc.StreamDesc, cc *grpc.ClientConn, method string, streamer grpc.Streamer, opts ...grpc.CallOption) (grpc.ClientStream, error) {
	if err := l.refusal(); err != nil {
		return nil, err
	}
	return streamer(ctx, desc, cc, method, opts...)
}
