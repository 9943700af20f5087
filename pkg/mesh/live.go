package mesh

import (
	"context"
	"slices"

	"google.golang.org/grpc"
	"google.golang.org/grpc/peer"

	"github.com/countersign-mesh/countersign/pkg/transport"
)

// liveUnary refuses a call on a connection that was cut. A call that was under way at that moment ends then, and its answer is not
// given to a peer that is no longer good.
func liveUnary(ctx context.Context, req any, _ *grpc.UnaryServerInfo, handler grpc.UnaryHandler) (any, error) {
	release, err := transport.Bind(ctx)
	if err != nil {
		return nil, err
	}
	defer release()
	resp, err := handler(ctx, req)
	if ended := transport.CheckLive(ctx); ended != nil {
		return nil, ended
	}
	return resp, err
}

// liveStream refuses a stream, and each of its messages, on a connection that was cut.
func liveStream(srv any, ss grpc.ServerStream, _ *grpc.StreamServerInfo, handler grpc.StreamHandler) error {
	release, err := transport.Bind(ss.Context())
	if err != nil {
		return err
	}
	defer release()
	err = handler(srv, liveServerStream{ss})
	if ended := transport.CheckLive(ss.Context()); ended != nil {
		return ended
	}
	return err
}

type liveServerStream struct{ grpc.ServerStream }

func (s liveServerStream) RecvMsg(m any) error {
	if err := s.ServerStream.RecvMsg(m); err != nil {
		return err
	}
	return transport.CheckLive(s.Context())
}

func (s liveServerStream) SendMsg(m any) error {
	if err := transport.CheckLive(s.Context()); err != nil {
		return err
	}
	return s.ServerStream.SendMsg(m)
}

// liveCall is for the calls of a client: one that ends because its connection was cut says so.
func liveCall(ctx context.Context, method string, req, reply any, cc *grpc.ClientConn, invoker grpc.UnaryInvoker, opts ...grpc.CallOption) error {
	var server peer.Peer
	err := invoker(ctx, method, req, reply, cc, slices.Concat(opts, []grpc.CallOption{grpc.Peer(&server)})...)
	return transport.Leave(&server, err)
}

// liveClientStreams is liveCall for streams.
func liveClientStreams(ctx context.Context, desc *grpc.StreamDesc, cc *grpc.ClientConn, method string, streamer grpc.Streamer, opts ...grpc.CallOption) (grpc.ClientStream, error) {
	stream, err := streamer(ctx, desc, cc, method, opts...)
	if err != nil {
		return nil, err
	}
	return &liveClientStream{ClientStream: stream, single: !desc.ServerStreams}, nil
}

// liveClientStream is a stream whose messages are received by one goroutine at a time, as gRPC has it.
type liveClientStream struct {
	grpc.ClientStream
	// single says that one message is all there is to receive.
	single bool
	left   bool
}

// RecvMsg receives a message. Its error, or the only message, is the end of the stream. A message of a server that was cut is not handed on: gRPC has
// buffered it, but nothing that such a server says is to be believed.
func (s *liveClientStream) RecvMsg(m any) error {
	err := s.ClientStream.RecvMsg(m)
	if err == nil {
		if err = transport.CheckLive(s.Context()); err != nil {
			s.drain(m)
		}
	}
	if s.left || err == nil && !s.single {
		return err
	}
	s.left = true
	server, _ := peer.FromContext(s.Context())
	return transport.Leave(server, err)
}

// drain reads the stream to its end, which is near: its connection is closed. gRPC holds on to a stream until then.
func (s *liveClientStream) drain(m any) {
	for s.ClientStream.RecvMsg(m) == nil {
		continue
	}
}
