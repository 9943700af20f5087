package transport_test

import (
	"context"
	"net"
	"slices"
	"sync"
	"testing"
	"time"

	"google.golang.org/grpc"
	"google.golang.org/grpc/credentials"
	"google.golang.org/grpc/peer"
	"google.golang.org/grpc/tap"
	"google.golang.org/grpc/test/bufconn"
	"google.golang.org/protobuf/types/known/durationpb"
	"google.golang.org/protobuf/types/known/emptypb"
	"google.golang.org/protobuf/types/known/wrapperspb"

	"github.com/countersign-mesh/countersign/pkg/transport"
)

// desk is a gRPC server whose calls take as long as their callers say. Its interceptors, and those of its clients, use this package as package
// mesh does.
type desk struct {
	listener net.Listener
	reach    func(ctx context.Context) (net.Conn, error)
	// broken gets the context of each call that ended before its time.
	broken chan context.Context
}

// openDesk starts a desk. With loopback it is reached by TCP, and otherwise inside the process, as a test needs that runs in a bubble
// with a clock of its own (testing/synctest).
func openDesk(t testing.TB, creds credentials.TransportCredentials, loopback bool) *desk {
	t.Helper()
	d := &desk{broken: make(chan context.Context, 1000)}
	if loopback {
		d.listener = listen(t)
		d.reach = func(ctx context.Context) (net.Conn, error) {
			return new(net.Dialer).DialContext(ctx, "tcp", d.listener.Addr().String())
		}
	} else {
		inside := bufconn.Listen(1 << 20)
		d.listener, d.reach = inside, inside.DialContext
	}
	server := grpc.NewServer(grpc.Creds(creds), grpc.InTapHandle(enter), grpc.UnaryInterceptor(boundUnary), grpc.StreamInterceptor(boundStream))
	server.RegisterService(&grpc.ServiceDesc{
		ServiceName: "test.Desk",
		HandlerType: (*any)(nil),
		Methods:     []grpc.MethodDesc{{MethodName: "Wait", Handler: d.wait}},
		Streams:     []grpc.StreamDesc{{StreamName: "Feed", Handler: d.feed, ServerStreams: true}},
	}, d)
	var serving sync.WaitGroup
	serving.Go(func() { _ = server.Serve(d.listener) })
	t.Cleanup(func() {
		server.Stop()
		serving.Wait()
	})
	return d
}

// wait takes as long as its request says.
//
//nolint:revive // the order of the arguments is gRPC's
func (d *desk) wait(_ any, ctx context.Context, decode func(any) error, intercept grpc.UnaryServerInterceptor) (any, error) {
	var how durationpb.Duration
	if err := decode(&how); err != nil {
		return nil, err
	}
	handle := func(ctx context.Context, _ any) (any, error) {
		timer := time.NewTimer(how.AsDuration())
		defer timer.Stop()
		select {
		case <-timer.C:
			return new(emptypb.Empty), nil
		case <-ctx.Done():
			d.broken <- ctx
			return nil, ctx.Err()
		}
	}
	return intercept(ctx, &how, &grpc.UnaryServerInfo{}, handle)
}

// feed sends messages of so many bytes until its context ends; none if its request says zero.
func (d *desk) feed(_ any, stream grpc.ServerStream) error {
	var size wrapperspb.Int64Value
	if err := stream.RecvMsg(&size); err != nil {
		return err
	}
	message := wrapperspb.Bytes(make([]byte, size.Value))
	if err := stream.SendMsg(message); err != nil {
		return err
	}
	for size.Value > 0 {
		if err := stream.SendMsg(message); err != nil {
			d.broken <- stream.Context()
			return err
		}
	}
	<-stream.Context().Done()
	d.broken <- stream.Context()
	return stream.Context().Err()
}

// secured says whether a call's connection is one of this package, and not of go-spiffe's own credentials.
func secured(ctx context.Context) bool {
	p, ok := peer.FromContext(ctx)
	return ok && p.AuthInfo.AuthType() == "spiffe-x509"
}

func enter(ctx context.Context, _ *tap.Info) (context.Context, error) {
	if !secured(ctx) {
		return ctx, nil
	}
	return ctx, transport.Enter(ctx)
}

func boundUnary(ctx context.Context, req any, _ *grpc.UnaryServerInfo, handler grpc.UnaryHandler) (any, error) {
	if !secured(ctx) {
		return handler(ctx, req)
	}
	release, err := transport.Bind(ctx)
	if err != nil {
		return nil, err
	}
	defer release()
	return handler(ctx, req)
}

func boundStream(srv any, stream grpc.ServerStream, _ *grpc.StreamServerInfo, handler grpc.StreamHandler) error {
	if !secured(stream.Context()) {
		return handler(srv, stream)
	}
	release, err := transport.Bind(stream.Context())
	if err != nil {
		return err
	}
	defer release()
	return handler(srv, stream)
}

// client connects to the desk. Calls are tried once: gRPC's own retries are off.
func (d *desk) client(t testing.TB, creds credentials.TransportCredentials) *grpc.ClientConn {
	t.Helper()
	conn, err := grpc.NewClient("passthrough:///ledger:1",
		grpc.WithContextDialer(func(ctx context.Context, _ string) (net.Conn, error) { return d.reach(ctx) }),
		grpc.WithTransportCredentials(creds), grpc.WithDisableRetry(), grpc.WithUnaryInterceptor(leaveUnary))
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = conn.Close() })
	return conn
}

func leaveUnary(ctx context.Context, method string, req, reply any, cc *grpc.ClientConn, invoker grpc.UnaryInvoker, opts ...grpc.CallOption) error {
	var server peer.Peer
	err := invoker(ctx, method, req, reply, cc, slices.Concat(opts, []grpc.CallOption{grpc.Peer(&server)})...)
	return transport.Leave(&server, err)
}

// wait makes a call that takes so long.
func wait(ctx context.Context, conn *grpc.ClientConn, long time.Duration) error {
	return conn.Invoke(ctx, "/test.Desk/Wait", durationpb.New(long), new(emptypb.Empty))
}

// begin makes a call that takes so long and returns where its end is told.
func begin(t testing.TB, conn *grpc.ClientConn, long time.Duration) <-chan error {
	t.Helper()
	ended := make(chan error, 1)
	go func() { ended <- wait(t.Context(), conn, long) }()
	return ended
}

// feed opens a stream of messages of so many bytes that goes on until ctx ends, waits for the first, and returns where its end is told.
func feed(ctx context.Context, t testing.TB, conn *grpc.ClientConn, size int64) <-chan error {
	t.Helper()
	stream, err := conn.NewStream(ctx, &grpc.StreamDesc{ServerStreams: true}, "/test.Desk/Feed")
	if err != nil {
		t.Fatal(err)
	}
	var message wrapperspb.BytesValue
	for _, step := range []func() error{
		func() error { return stream.SendMsg(wrapperspb.Int64(size)) },
		stream.CloseSend,
		func() error { return stream.RecvMsg(&message) },
	} {
		if err := step(); err != nil {
			t.Fatal(err)
		}
	}
	ended := make(chan error, 1)
	server, _ := peer.FromContext(stream.Context()) //nolint:contextcheck // it is the stream that knows its connection
	go func() {
		for {
			if err := stream.RecvMsg(&message); err != nil {
				ended <- transport.Leave(server, err)
				return
			}
		}
	}()
	return ended
}
