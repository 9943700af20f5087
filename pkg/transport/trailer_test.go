package transport_test

import (
	"context"
	"net"
	"strings"
	"sync"
	"testing"
	"time"

	"google.golang.org/grpc"
	"google.golang.org/grpc/metadata"
	"google.golang.org/protobuf/types/known/emptypb"

	"github.com/countersign-mesh/countersign/pkg/transport"
)

const (
	// trailerSize makes a block of headers of a dozen frames; part is how much a connection has carried when one is on its way for certain, and most
	// of it is still to come.
	trailerSize = 200 << 10
	part        = 24 << 10
)

// partListener accepts connections each of which tells when a part of a trailer was written.
type partListener struct {
	net.Listener
	then func()
}

func (l *partListener) Accept() (net.Conn, error) {
	raw, err := l.Listener.Accept()
	if err != nil {
		return nil, err
	}
	return &partWriter{Conn: raw, left: part, then: l.then}, nil
}

// partWriter tells when so much is written. crypto/tls writes in one goroutine at a time.
type partWriter struct {
	net.Conn
	left int
	then func()
}

func (c *partWriter) Write(p []byte) (int, error) {
	if c.left > 0 {
		if c.left -= len(p); c.left <= 0 {
			c.then()
		}
	}
	return c.Conn.Write(p)
}

// partReader tells when so much is read, and reads no more then before the reader was woken. crypto/tls reads in one goroutine at a time.
type partReader struct {
	net.Conn
	left  int
	then  func()
	woken chan struct{}
	once  sync.Once
}

func (c *partReader) Read(p []byte) (int, error) {
	n, err := c.Conn.Read(p)
	if c.left > 0 {
		if c.left -= n; c.left <= 0 {
			c.then()
			<-c.woken
		}
	}
	return n, err
}

func (c *partReader) SetReadDeadline(t time.Time) error {
	if !t.IsZero() && t.Before(time.Now()) {
		defer c.once.Do(func() { close(c.woken) })
	}
	return c.Conn.SetReadDeadline(t)
}

// trailing is a server that answers every call with an empty message and the largest trailer.
func trailing(_ any, stream grpc.ServerStream) error {
	stream.SetTrailer(metadata.Pairs("large", strings.Repeat("~", trailerSize))) // no shorter by Huffman's code
	return stream.SendMsg(new(emptypb.Empty))
}

// serveTrailers starts a server that tells when a part of a trailer was written, and returns its address.
func serveTrailers(t *testing.T, w *world, then func()) string {
	t.Helper()
	server := grpc.NewServer(grpc.Creds(w.inbound.Server()), grpc.UnknownServiceHandler(trailing))
	listener := listen(t)
	var serving sync.WaitGroup
	serving.Go(func() { _ = server.Serve(&partListener{listener, then}) })
	t.Cleanup(func() {
		server.Stop()
		serving.Wait()
	})
	return listener.Addr().String()
}

// A connection is asked to go away, or left, while the frames of a large trailer are on their way. None of them may be parted from the next (RFC 9113 §6.10): the
// other end would take the GOAWAY for an error of the connection, and the call would fail.
func TestAGoAwayPartsNoTrailer(t *testing.T) {
	t.Parallel()
	nothing := func() {}
	for name, c := range map[string]struct {
		written, read func(w *world) func()
	}{
		"the server asks for it":      {written: func(w *world) func() { return w.inbound.GoAway }},
		"the client leaves by itself": {read: func(w *world) func() { return w.outbound.GoAway }},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			w := newWorld(t)
			written := nothing
			if c.written != nil {
				written = c.written(w)
			}
			addr := serveTrailers(t, w, written)
			conn := dialPart(t, w, func(ctx context.Context) (net.Conn, error) {
				raw, err := new(net.Dialer).DialContext(ctx, "tcp", addr)
				if err != nil || c.read == nil {
					return raw, err
				}
				return &partReader{Conn: raw, left: part, then: c.read(w), woken: make(chan struct{})}, nil
			})
			for range 20 {
				var trailer metadata.MD
				err := conn.Invoke(t.Context(), "/test.Trailing/Call", new(emptypb.Empty), new(emptypb.Empty), grpc.Trailer(&trailer))
				if err != nil || len(strings.Join(trailer["large"], "")) != trailerSize {
					t.Fatalf("a call while the connection goes away: %v; %d bytes of trailer", err, len(strings.Join(trailer["large"], "")))
				}
				eventually(t, "the connection has gone", func() bool { return newest(w.inbound) == transport.Conn{} })
			}
		})
	}
}

// dialPart returns a client of what is reached so.
func dialPart(t *testing.T, w *world, reach func(ctx context.Context) (net.Conn, error)) *grpc.ClientConn {
	t.Helper()
	conn, err := grpc.NewClient("passthrough:///ledger:1", grpc.WithTransportCredentials(w.outbound.Client(w.id("/ledger"))), grpc.WithDisableRetry(),
		grpc.WithContextDialer(func(ctx context.Context, _ string) (net.Conn, error) { return reach(ctx) }))
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = conn.Close() })
	return conn
}
