package mesh_test

import (
	"context"
	"fmt"
	"log/slog"
	"net"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/spiffe/go-spiffe/v2/bundle/x509bundle"
	"github.com/spiffe/go-spiffe/v2/spiffeid"
	"github.com/spiffe/go-spiffe/v2/svid/x509svid"
	"google.golang.org/grpc"

	"github.com/countersign-mesh/countersign/pkg/authz"
	"github.com/countersign-mesh/countersign/pkg/identity"
	"github.com/countersign-mesh/countersign/pkg/mesh"
	"github.com/countersign-mesh/countersign/pkg/meshtest"
	"github.com/countersign-mesh/countersign/pkg/transport"
)

// owner is a transport.Identity under a test's control. Unlike meshtest's it needs no Workload API, so a test can have hundreds.
type owner struct {
	mu      sync.Mutex
	svid    *x509svid.SVID
	err     error
	bundles *x509bundle.Set
	changed chan struct{}
}

func newOwner(svid *x509svid.SVID, bundle *x509bundle.Bundle) *owner {
	return &owner{svid: svid, bundles: x509bundle.NewSet(bundle), changed: make(chan struct{})}
}

func (o *owner) GetX509SVID() (*x509svid.SVID, error) {
	o.mu.Lock()
	defer o.mu.Unlock()
	return o.svid, o.err
}

func (o *owner) GetX509BundleForTrustDomain(td spiffeid.TrustDomain) (*x509bundle.Bundle, error) {
	o.mu.Lock()
	defer o.mu.Unlock()
	return o.bundles.GetX509BundleForTrustDomain(td)
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

// take takes an SVID and a bundle into use, as a rotation does.
func (o *owner) take(svid *x509svid.SVID, bundle *x509bundle.Bundle) {
	o.set(func(o *owner) { o.svid, o.err, o.bundles = svid, nil, x509bundle.NewSet(bundle) })
}

// trust replaces the bundle.
func (o *owner) trust(bundle *x509bundle.Bundle) {
	o.set(func(o *owner) { o.bundles = x509bundle.NewSet(bundle) })
}

// withdraw takes the identity away.
func (o *owner) withdraw() {
	o.set(func(o *owner) { o.svid, o.err = nil, identity.ErrWithdrawn })
}

// rules is a policy file on disk that is watched, as a service has it.
type rules struct {
	path string
	file *authz.File
}

func newRules(t testing.TB, text string) *rules {
	t.Helper()
	r := &rules{path: filepath.Join(t.TempDir(), "bank.yaml")}
	r.replace(t, text)
	var err error
	if r.file, err = authz.Open(r.path, authz.WithFileLogger(slog.New(slog.DiscardHandler))); err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(context.Background())
	watched := make(chan error, 1)
	go func() { watched <- r.file.Watch(ctx) }()
	t.Cleanup(func() {
		cancel()
		if err := <-watched; err != nil {
			t.Errorf("watch the policy: %v", err)
		}
	})
	return r
}

// replace puts text in the file's place, by a rename, and returns the moment at which that had been done.
func (r *rules) replace(t testing.TB, text string) time.Time {
	t.Helper()
	if err := os.WriteFile(r.path+".new", []byte(text), 0o600); err != nil {
		t.Fatal(err)
	}
	if err := os.Rename(r.path+".new", r.path); err != nil {
		t.Fatal(err)
	}
	return time.Now()
}

// echoPolicy lets peers ("/payments") call every method of the echo service. Each revoked entry is a line such as "id: /payments".
func echoPolicy(peers []string, revoked ...string) string {
	var text strings.Builder
	text.WriteString("trust_domain: bank.test\n")
	if len(revoked) > 0 {
		text.WriteString("revoked:\n")
	}
	for _, entry := range revoked {
		fmt.Fprintf(&text, "  - %s\n", entry)
	}
	text.WriteString("services:\n  test.v1.Echo:\n    methods:\n")
	for _, method := range []string{"Unary", "Down", "Up", "Both"} {
		fmt.Fprintf(&text, "      %s:\n        allow:\n", method)
		for _, peer := range peers {
			fmt.Fprintf(&text, "          - peer: %s\n", peer)
		}
	}
	text.WriteString(everyServer)
	return text.String()
}

// everyServer has the rules for what every server of the mesh serves. Nobody may call it.
const everyServer = `
  grpc.health.v1.Health: {methods: {Check: {allow: []}, List: {allow: []}, Watch: {allow: []}}}
  grpc.reflection.v1.ServerReflection: {methods: {ServerReflectionInfo: {allow: []}}}
  mesh.admin.v1.AdminService: {methods: {ListConnections: {allow: []}, ListCuts: {allow: []}, GetPolicy: {allow: []}, ExplainDecision: {allow: []}}}
`

// world is a server of the echo service at /ledger with a policy file, and callers. The trust domain has two authorities: the first
// signs for those whom something befalls, the second for all others.
type world struct {
	ca            *meshtest.CA
	first, second *x509bundle.Bundle
	both          *x509bundle.Bundle
	// doomed and others are SVIDs' signers.
	others   *meshtest.CA
	server   *owner
	conns    *transport.Registry
	rules    *rules
	echo     *echo
	recorded *records
	addr     string
}

func newWorld(t testing.TB, peers []string, opts ...mesh.ServerOption) *world {
	t.Helper()
	return makeWorld(t, peers, nil, opts)
}

// newWorldWithoutRenewal is newWorld with a server that keeps its connections until they must be cut, so that a test sees that happen.
func newWorldWithoutRenewal(t testing.TB, peers []string) *world {
	t.Helper()
	return makeWorld(t, peers, []transport.Option{transport.WithoutRenewal()}, nil)
}

func makeWorld(t testing.TB, peers []string, registry []transport.Option, server []mesh.ServerOption) *world {
	t.Helper()
	w := &world{ca: meshtest.NewCA(t, "bank.test"), others: meshtest.NewCA(t, "bank.test"), echo: newEcho(), recorded: &records{}}
	w.first, w.second = w.ca.Bundle(), w.others.Bundle()
	w.both = w.first.Clone()
	for _, root := range w.second.X509Authorities() {
		w.both.AddX509Authority(root)
	}
	w.server = newOwner(w.others.SVID(t, "/ledger"), w.both)
	w.conns = newRegistry(t, w.server, registry...)
	w.rules = newRules(t, echoPolicy(peers))
	t.Cleanup(func() { w.echo.close() }) // after the server has stopped, or handlers that ignore their context would never be asked
	w.addr = w.serve(t, w.conns, w.rules, append([]mesh.ServerOption{mesh.WithRecorder(w.recorded)}, server...)...)
	return w
}

// serve starts a server of the echo service and returns its address.
func (w *world) serve(t testing.TB, conns *transport.Registry, r *rules, opts ...mesh.ServerOption) string {
	t.Helper()
	standard := []mesh.ServerOption{
		mesh.WithLogger(slog.New(slog.DiscardHandler)), mesh.WithRateLimit(1e9, 1e9),
		mesh.WithMaxCalls(100_000), mesh.WithMaxStreams(100_000), mesh.WithDrainTimeout(100 * time.Millisecond),
	}
	server, err := mesh.NewServer(conns, r.file, append(standard, opts...)...)
	if err != nil {
		t.Fatal(err)
	}
	server.RegisterService(w.echo.service(), w.echo)
	listener, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	ctx, stop := context.WithCancel(context.Background())
	served := make(chan error, 1)
	go func() { served <- server.Serve(ctx, listener) }()
	t.Cleanup(func() {
		stop()
		w.echo.close() // what is still in a handler ends now
		if err := <-served; err != nil {
			t.Errorf("Serve = %v", err)
		}
	})
	return listener.Addr().String()
}

// caller is a process that calls the server.
type caller struct {
	id    *owner
	conns *transport.Registry
	conn  *grpc.ClientConn
}

// caller returns a caller that has this SVID and trusts both authorities.
func (w *world) caller(t testing.TB, svid *x509svid.SVID, opts ...mesh.DialOption) *caller {
	t.Helper()
	c := &caller{id: newOwner(svid, w.both)}
	c.conns = newRegistry(t, c.id)
	c.conn = w.dial(t, c, w.addr, opts...)
	return c
}

func (w *world) dial(t testing.TB, c *caller, addr string, opts ...mesh.DialOption) *grpc.ClientConn {
	t.Helper()
	conn, err := mesh.DialUnlisted(c.conns, addr, spiffeid.RequireFromString("spiffe://bank.test/ledger"), opts...)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = conn.Close() }) // a test may have closed it before
	return conn
}

func newRegistry(t testing.TB, id transport.Identity, opts ...transport.Option) *transport.Registry {
	t.Helper()
	r := transport.NewRegistry(id, append(opts, transport.WithLogger(slog.New(slog.DiscardHandler)))...)
	t.Cleanup(func() {
		if err := r.Close(); err != nil {
			t.Error(err)
		}
	})
	return r
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
