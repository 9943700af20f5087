package transport_test

import (
	"bytes"
	"context"
	"crypto/tls"
	"errors"
	"log/slog"
	"net"
	"sync"
	"testing"
	"time"

	"github.com/spiffe/go-spiffe/v2/bundle/x509bundle"
	"github.com/spiffe/go-spiffe/v2/spiffeid"
	"github.com/spiffe/go-spiffe/v2/svid/x509svid"
	"go.uber.org/goleak"
	"google.golang.org/grpc"
	"google.golang.org/grpc/credentials"
	"google.golang.org/grpc/health"
	"google.golang.org/grpc/health/grpc_health_v1"

	"github.com/countersign-mesh/countersign/pkg/meshtest"
	"github.com/countersign-mesh/countersign/pkg/transport"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

// owner is a transport.Identity under a test's control.
type owner struct {
	mu      sync.Mutex
	svid    *x509svid.SVID
	err     error
	bundles *x509bundle.Set
	changed chan struct{}
	// looked is called after a bundle was looked up.
	looked func()
}

func newOwner(svid *x509svid.SVID, bundles ...*x509bundle.Bundle) *owner {
	return &owner{svid: svid, bundles: x509bundle.NewSet(bundles...), changed: make(chan struct{})}
}

func (o *owner) GetX509SVID() (*x509svid.SVID, error) {
	o.mu.Lock()
	defer o.mu.Unlock()
	return o.svid, o.err
}

func (o *owner) GetX509BundleForTrustDomain(td spiffeid.TrustDomain) (*x509bundle.Bundle, error) {
	o.mu.Lock()
	bundles, looked := o.bundles, o.looked
	o.mu.Unlock()
	bundle, err := bundles.GetX509BundleForTrustDomain(td)
	if looked != nil {
		looked()
	}
	return bundle, err
}

func (o *owner) Changed() <-chan struct{} {
	o.mu.Lock()
	defer o.mu.Unlock()
	return o.changed
}

// set changes what the owner has and tells everybody.
func (o *owner) set(change func(o *owner)) {
	o.mu.Lock()
	defer o.mu.Unlock()
	change(o)
	close(o.changed)
	o.changed = make(chan struct{})
}

// trust replaces the bundles.
func (o *owner) trust(bundles ...*x509bundle.Bundle) {
	o.set(func(o *owner) { o.bundles = x509bundle.NewSet(bundles...) })
}

// newRegistry returns a registry that ends with the test.
func newRegistry(t testing.TB, id transport.Identity, opts ...transport.Option) *transport.Registry {
	t.Helper()
	opts = append([]transport.Option{transport.WithLogger(slog.New(slog.DiscardHandler))}, opts...)
	r := transport.NewRegistry(id, opts...)
	t.Cleanup(func() {
		if err := r.Close(); err != nil {
			t.Error(err)
		}
	})
	return r
}

// world is a trust domain with a server /ledger and a client /payments.
type world struct {
	ca             *meshtest.CA
	server, client *owner
	// inbound and outbound are the registries of the two.
	inbound, outbound *transport.Registry
}

func newWorld(t testing.TB) *world {
	t.Helper()
	ca := meshtest.NewCA(t, "bank.test")
	w := &world{
		ca:     ca,
		server: newOwner(ca.SVID(t, "/ledger"), ca.Bundle()),
		client: newOwner(ca.SVID(t, "/payments"), ca.Bundle()),
	}
	w.inbound, w.outbound = newRegistry(t, w.server), newRegistry(t, w.client)
	return w
}

func (w *world) id(path string) spiffeid.ID {
	return spiffeid.RequireFromPath(w.ca.TrustDomain(), path)
}

// trust replaces the bundles of both ends.
func (w *world) trust(bundles ...*x509bundle.Bundle) {
	w.server.trust(bundles...)
	w.client.trust(bundles...)
}

// serve starts a gRPC server that has the health service, and returns its address.
func serve(t testing.TB, creds credentials.TransportCredentials) string {
	t.Helper()
	server := grpc.NewServer(grpc.Creds(creds))
	grpc_health_v1.RegisterHealthServer(server, health.NewServer())
	listener := listen(t)
	var serving sync.WaitGroup
	serving.Go(func() { _ = server.Serve(listener) })
	t.Cleanup(func() {
		server.Stop()
		serving.Wait()
	})
	return listener.Addr().String()
}

func listen(t testing.TB) net.Listener {
	t.Helper()
	listener, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = listener.Close() })
	return listener
}

// dial returns a client of the health service at addr.
func dial(t testing.TB, addr string, creds credentials.TransportCredentials) grpc_health_v1.HealthClient {
	t.Helper()
	conn, err := grpc.NewClient(addr, grpc.WithTransportCredentials(creds))
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = conn.Close() })
	return grpc_health_v1.NewHealthClient(conn)
}

func check(ctx context.Context, client grpc_health_v1.HealthClient) error {
	_, err := client.Check(ctx, &grpc_health_v1.HealthCheckRequest{})
	return err
}

// watch opens a stream that stays open, and waits for its first message.
func watch(t testing.TB, client grpc_health_v1.HealthClient) grpc_health_v1.Health_WatchClient {
	t.Helper()
	stream, err := client.Watch(t.Context(), &grpc_health_v1.HealthCheckRequest{})
	if err != nil {
		t.Fatal(err)
	}
	if _, err := stream.Recv(); err != nil {
		t.Fatal(err)
	}
	return stream
}

// eventually waits until ok holds.
func eventually(t testing.TB, what string, ok func() bool) {
	t.Helper()
	deadline := time.Now().Add(15 * time.Second)
	for !ok() {
		if time.Now().After(deadline) {
			t.Fatalf("did not come about: %s", what)
		}
		<-time.After(2 * time.Millisecond)
	}
}

// pass lets time go by: for callers that rest between calls, and for tests in a bubble, whose clock it moves on.
func pass(d time.Duration) { <-time.After(d) }

// journal is a log that a test reads.
type journal struct {
	mu  sync.Mutex
	buf bytes.Buffer
}

func (j *journal) Write(p []byte) (int, error) {
	j.mu.Lock()
	defer j.mu.Unlock()
	return j.buf.Write(p)
}

func (j *journal) String() string {
	j.mu.Lock()
	defer j.mu.Unlock()
	return j.buf.String()
}

// certificate returns an SVID as crypto/tls takes it.
func certificate(svid *x509svid.SVID) tls.Certificate {
	cert := tls.Certificate{PrivateKey: svid.PrivateKey}
	for _, c := range svid.Certificates {
		cert.Certificate = append(cert.Certificate, c.Raw)
	}
	return cert
}

// link is the two ends of one connection, as gRPC gets them.
type link struct {
	server, client net.Conn
	info           credentials.AuthInfo // what the server knows of the client
}

// newLink makes a connection over loopback TCP that ends with the test.
func newLink(t testing.TB, server, client credentials.TransportCredentials) *link {
	t.Helper()
	l, err := tryLink(t, server, client)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { l.close() })
	return l
}

// tryLink makes a connection over loopback TCP, or says why the server or the client did not.
func tryLink(t testing.TB, server, client credentials.TransportCredentials) (*link, error) {
	t.Helper()
	listener := listen(t)
	defer listener.Close()
	l := new(link)
	accepted := make(chan error, 1)
	go func() {
		raw, err := listener.Accept()
		if err == nil {
			l.server, l.info, err = server.ServerHandshake(raw)
		}
		accepted <- err
	}()
	raw, err := net.Dial("tcp", listener.Addr().String())
	if err != nil {
		t.Fatal(err)
	}
	l.client, _, err = client.ClientHandshake(context.Background(), "ledger:1", raw)
	if err != nil {
		_ = raw.Close()
	}
	if err := errors.Join(err, <-accepted); err != nil {
		l.close()
		return nil, err
	}
	return l, nil
}

func (l *link) close() {
	for _, end := range []net.Conn{l.client, l.server} {
		if end != nil {
			_ = end.Close()
		}
	}
}
