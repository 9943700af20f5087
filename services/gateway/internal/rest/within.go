package rest

import (
	"context"
	"errors"
	"io"
	"sync/atomic"

	"github.com/fullstorydev/grpchan/inprocgrpc"
	"google.golang.org/grpc"
	"google.golang.org/grpc/metadata"
	"google.golang.org/grpc/peer"

	"github.com/countersign-mesh/countersign/pkg/mesh"
	"github.com/countersign-mesh/countersign/pkg/userauth"
	mobilev1 "github.com/countersign-mesh/countersign/proto/gen/bank/mobile/v1"
)

// Within returns a connection to the bank's methods within this process, by the way that calls over gRPC go: users is what lets them in there. Whom the request was let
// in for goes along, and where it has come from, and nothing else of the request's context.
func Within(edge *mesh.Edge, users mesh.Interceptors, bank mobilev1.MobileBankServiceServer) grpc.ClientConnInterface {
	chain := edge.Chain(users)
	channel := (&inprocgrpc.Channel{}).
		WithServerStatsHandler(edge.Telemetry()).
		WithServerUnaryInterceptor(func(ctx context.Context, req any, info *grpc.UnaryServerInfo, handler grpc.UnaryHandler) (any, error) {
			return chain.Unary(withRequest(ctx), req, info, handler)
		}).
		WithServerStreamInterceptor(func(srv any, ss grpc.ServerStream, info *grpc.StreamServerInfo, handler grpc.StreamHandler) error {
			watched := &watchedStream{ServerStream: ss, ctx: withRequest(ss.Context())}
			err := chain.Stream(srv, watched, info, handler)
			if failed, ok := inprocgrpc.ClientContext(ss.Context()).Value(failedKey{}).(*failed); ok && err != nil && !watched.sent.Load() {
				failed.Store(&err)
			}
			return err
		})
	mobilev1.RegisterMobileBankServiceServer(channel, bank)
	return channel
}

// withRequest takes over from the request's side of a call the customer, and where the request has come from, for those who log calls.
func withRequest(ctx context.Context) context.Context {
	request := inprocgrpc.ClientContext(ctx)
	if request == nil {
		return ctx
	}
	if from := originOf(request); from != nil {
		client := &peer.Peer{Addr: from.addr}
		if within, ok := peer.FromContext(ctx); ok {
			client.AuthInfo = within.AuthInfo // a call within the process, whatever has led to it
		}
		ctx = peer.NewContext(ctx, client)
	}
	if p, ok := userauth.FromContext(request); ok {
		ctx = userauth.NewContext(ctx, p)
	}
	return ctx
}

// failed is why a stream has ended before its first message.
type failed = atomic.Pointer[error]

type failedKey struct{}

// watchedStream knows whether a message was sent.
type watchedStream struct {
	grpc.ServerStream
	ctx  context.Context //nolint:containedctx // as in gRPC, it is the stream's own
	sent atomic.Bool
}

// Context returns the context of the stream.
func (s *watchedStream) Context() context.Context { return s.ctx }

// SendMsg sends a message.
func (s *watchedStream) SendMsg(m any) error {
	s.sent.Store(true)
	return s.ServerStream.SendMsg(m)
}

// promptConn has a stream that ends before its first message fail when it is opened. What translates asks for its headers then, and answers an error as for any
// other call; later it could only put it into a body that has begun.
type promptConn struct{ grpc.ClientConnInterface }

// Invoke implements grpc.ClientConnInterface.
func (c promptConn) Invoke(ctx context.Context, method string, args, reply any, opts ...grpc.CallOption) error {
	called(ctx)
	return c.ClientConnInterface.Invoke(ctx, method, args, reply, opts...)
}

// NewStream implements grpc.ClientConnInterface.
func (c promptConn) NewStream(ctx context.Context, desc *grpc.StreamDesc, method string, opts ...grpc.CallOption) (grpc.ClientStream, error) {
	called(ctx)
	failed := new(failed)
	stream, err := c.ClientConnInterface.NewStream(context.WithValue(ctx, failedKey{}, failed), desc, method, opts...)
	if err != nil {
		return nil, err
	}
	return promptStream{stream, failed}, nil
}

// called says that a request has become a call.
func called(ctx context.Context) {
	if from := originOf(ctx); from != nil {
		from.called.Store(true)
	}
}

type promptStream struct {
	grpc.ClientStream
	failed *failed
}

// SendMsg sends the request. That the stream has ended meanwhile is no error of it, as over gRPC: why, is for Header to say.
func (s promptStream) SendMsg(m any) error {
	if err := s.ClientStream.SendMsg(m); !errors.Is(err, io.EOF) {
		return err
	}
	return nil
}

// Header waits for the first message or the end.
func (s promptStream) Header() (metadata.MD, error) {
	header, err := s.ClientStream.Header()
	if failure := s.failed.Load(); err == nil && failure != nil {
		return nil, *failure
	}
	return header, err
}
