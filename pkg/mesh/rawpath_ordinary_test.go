package mesh_test

import (
	"context"
	"net"
	"sync"
	"sync/atomic"
	"testing"

	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"
	"google.golang.org/protobuf/types/known/emptypb"
)

// ATTACKS 41, ordinary: in, where something is served beside the methods that are registered. gRPC's server takes a path for a method's as it stands,
// and interceptors are asked by it: one that looks it up among those that are denied finds none of these there. What gRPC holds off by itself, since
// CVE-2026-33186, is a path without a slash in front. A proxy, which serves what is not registered, gets all others past the list and has to see for
// itself what they mean.
func TestOrdinaryPathsThatAreNotWellFormedPassADenyList(t *testing.T) {
	t.Parallel()
	o := newDenyList(t, true)
	for _, form := range forms() {
		got := o.writer.ask(t, form.headers(unaryMethod))
		if passed := o.passed.Swap(0); (passed == 1) != form.in {
			t.Errorf("%s: passed the list %d times, want in %t: %s", form.name, passed, form.in, got.text)
		}
	}
	if got := o.writer.ask(t, headersOf(unaryMethod)); got.text != denied || o.passed.Load() != 0 {
		t.Errorf("the well-formed path: %s, want what the list is for", got.text)
	}
	if n := o.reached.Load(); n != 0 {
		t.Errorf("the method that is denied was reached %d times", n)
	}
}

// ATTACKS 41, 43, ordinary: the same server with nothing beside its methods lets none of these in, and its answers tell which methods and services
// there are: it gives them itself and asks no interceptor.
func TestOrdinaryAnswersTellWhatThereIs(t *testing.T) {
	t.Parallel()
	o := newDenyList(t, false)
	for _, form := range forms() {
		o.writer.ask(t, form.headers(unaryMethod))
		if n := o.reached.Swap(0); n != 0 {
			t.Errorf("%s: the method was reached %d times", form.name, n)
		}
	}
	for path, want := range map[string]string{
		unaryMethod:                     denied,
		"/test.v1.Echo/Nothing":         `200 Unimplemented "unknown method Nothing for service test.v1.Echo"`,
		"/test.v1.Nothing/Unary":        `200 Unimplemented "unknown service test.v1.Nothing"`,
		unaryMethod + "?a=b":            `200 Unimplemented "unknown method Unary?a=b for service test.v1.Echo"`,
		"/test.v1.Nothing/Unary" + "?a": `200 Unimplemented "unknown service test.v1.Nothing"`,
		unaryMethod[1:]:                 `200 Unimplemented "malformed method name: \"test.v1.Echo/Unary\""`,
	} {
		if got := o.writer.ask(t, headersOf(path)); got.text != want {
			t.Errorf("%s: got %s\nwant %s", path, got.text, want)
		}
	}
	if got := o.writer.ask(t, headersOf(downMethod)); got.text != `200 OK ""` || o.reached.Load() != 1 {
		t.Errorf("a method that is not on the list: %s", got.text)
	}
}

// denyList is the echo service behind an interceptor that looks the method up among those that are denied, on a server that is gRPC's own.
type denyList struct {
	writer *writer
	// reached counts the calls of the service, passed those that a handler for unknown methods got.
	reached, passed atomic.Int32
}

// newDenyList returns a client of such a server. It serves what is not registered if proxy is true.
func newDenyList(t *testing.T, proxy bool) *denyList {
	t.Helper()
	o, service := &denyList{}, newEcho()
	service.accepted = func(context.Context) { o.reached.Add(1) }
	denies := map[string]bool{unaryMethod: true}
	check := func(method string) error {
		if denies[method] {
			return status.Error(codes.PermissionDenied, "permission denied")
		}
		return nil
	}
	options := []grpc.ServerOption{
		grpc.UnaryInterceptor(func(ctx context.Context, req any, info *grpc.UnaryServerInfo, handler grpc.UnaryHandler) (any, error) {
			if err := check(info.FullMethod); err != nil {
				return nil, err
			}
			return handler(ctx, req)
		}),
		grpc.StreamInterceptor(func(srv any, ss grpc.ServerStream, info *grpc.StreamServerInfo, handler grpc.StreamHandler) error {
			if err := check(info.FullMethod); err != nil {
				return err
			}
			return handler(srv, ss)
		}),
	}
	if proxy {
		options = append(options, grpc.UnknownServiceHandler(func(_ any, ss grpc.ServerStream) error {
			o.passed.Add(1)
			return ss.SendMsg(&emptypb.Empty{})
		}))
	}
	server := grpc.NewServer(options...)
	server.RegisterService(service.service(), service)
	listener, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	var serving sync.WaitGroup
	serving.Go(func() { _ = server.Serve(listener) })
	t.Cleanup(func() {
		server.Stop()
		serving.Wait()
	})
	o.writer = &writer{connect: func() net.Conn {
		conn, err := (&net.Dialer{}).DialContext(t.Context(), "tcp", listener.Addr().String())
		if err != nil {
			t.Fatal(err)
		}
		t.Cleanup(func() { _ = conn.Close() })
		return conn
	}}
	return o
}
