// Package meshtest is a mesh for tests: authorities and a Workload API under the test's control, servers and clients with
// real SVIDs over real mutual TLS.
//
// Mesh is for tests of a service: it serves and dials as any workload, under a policy. CA and WorkloadAPI are for tests of
// identity itself: they issue what no authority should, and fail as none should.
package meshtest

import (
	"context"
	"log/slog"
	"net"
	"os"
	"path/filepath"
	"sync"
	"testing"
	"time"

	"github.com/spiffe/go-spiffe/v2/spiffeid"
	"google.golang.org/grpc"

	"github.com/countersign-mesh/countersign/pkg/authz"
	"github.com/countersign-mesh/countersign/pkg/identity"
	"github.com/countersign-mesh/countersign/pkg/mesh"
	"github.com/countersign-mesh/countersign/pkg/transport"
)

// Mesh is a small mesh of one trust domain inside a test. All that it starts ends with the test. It is safe for concurrent
// use.
type Mesh struct {
	// t is the test that New was called by: what a workload needs outlives the subtest that first asks for it.
	t      testing.TB
	log    *slog.Logger
	ca     *CA
	policy *authz.File

	mu        sync.Mutex
	processes map[string]*process
}

// process is one workload of the mesh, with everything that a process has once.
type process struct {
	api    *WorkloadAPI
	source *identity.Source
	conns  *transport.Registry
}

// New returns a mesh of the given trust domain. policy is the text of a policy file.
func New(t testing.TB, trustDomain, policy string) *Mesh {
	t.Helper()
	path := filepath.Join(t.TempDir(), "policy.yaml")
	if err := os.WriteFile(path, []byte(policy), 0o600); err != nil {
		t.Fatalf("write policy: %v", err)
	}
	log := slog.New(slog.NewTextHandler(t.Output(), nil))
	file, err := authz.Open(path, authz.WithFileLogger(log))
	if err != nil {
		t.Fatalf("policy: %v", err)
	}
	return &Mesh{
		t:         t,
		log:       log,
		ca:        NewCA(t, trustDomain),
		policy:    file,
		processes: make(map[string]*process),
	}
}

// CA returns the mesh's authority.
func (m *Mesh) CA() *CA { return m.ca }

// Identity returns a Source for the workload with this path ("/ledger"), fed by the mesh's Workload API.
func (m *Mesh) Identity(t testing.TB, path string) *identity.Source {
	t.Helper()
	return m.process(t, path).source
}

// Conns returns the connections of the workload with this path.
func (m *Mesh) Conns(t testing.TB, path string) *transport.Registry {
	t.Helper()
	return m.process(t, path).conns
}

// API returns the Workload API that the workload with this path is fed by.
func (m *Mesh) API(t testing.TB, path string) *WorkloadAPI {
	t.Helper()
	return m.process(t, path).api
}

// Rotate sends a new SVID and the authority's current bundle to the workload with this path, and waits until it uses them.
func (m *Mesh) Rotate(t testing.TB, path string, templates ...Template) {
	t.Helper()
	w := m.process(t, path)
	changed := w.source.Changed()
	w.api.Grant(t, m.ca.SVID(t, path, templates...), m.ca.Bundle())
	select {
	case <-changed:
	case <-time.After(10 * time.Second):
		t.Fatalf("%s did not take its new SVID into use", path)
	}
}

// Serve starts a server with the identity of path under the mesh's policy, with the whole chain of interceptors, on a loopback
// port, and returns its address. register registers the services under test.
func (m *Mesh) Serve(t testing.TB, path string, register func(grpc.ServiceRegistrar), opts ...mesh.ServerOption) string {
	t.Helper()
	standard := []mesh.ServerOption{mesh.WithDrainTimeout(5 * time.Second), mesh.WithLogger(m.log)}
	server, err := mesh.NewServer(m.process(t, path).conns, m.policy, append(standard, opts...)...)
	if err != nil {
		t.Fatalf("server %s: %v", path, err)
	}
	register(server)
	listener, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatalf("listen: %v", err)
	}
	ctx, stop := context.WithCancel(context.Background())
	served := make(chan error, 1)
	go func() { served <- server.Serve(ctx, listener) }()
	t.Cleanup(func() {
		stop()
		if err := <-served; err != nil {
			t.Errorf("server %s: %v", path, err)
		}
	})
	return listener.Addr().String()
}

// Dial connects the workload with path from to the server at addr, pinned to the identity of path to.
func (m *Mesh) Dial(t testing.TB, from, to, addr string, opts ...mesh.DialOption) *grpc.ClientConn {
	t.Helper()
	server, err := spiffeid.FromPath(m.ca.TrustDomain(), to)
	if err != nil {
		t.Fatalf("path %q: %v", to, err)
	}
	conn, err := mesh.Dial(m.process(t, from).conns, addr, server, opts...)
	if err != nil {
		t.Fatalf("dial %s: %v", to, err)
	}
	t.Cleanup(func() { _ = conn.Close() }) // a test may have closed it before
	return conn
}

// process returns the workload with this path, made at its first use.
func (m *Mesh) process(t testing.TB, path string) *process {
	t.Helper()
	m.mu.Lock()
	defer m.mu.Unlock()
	if w, ok := m.processes[path]; ok {
		return w
	}
	w := &process{api: NewWorkloadAPI(m.t)}
	w.api.Grant(t, m.ca.SVID(t, path), m.ca.Bundle())
	var err error
	if w.source, err = identity.New(t.Context(), identity.WithSocket(w.api.Addr()), identity.WithLogger(m.log)); err != nil {
		t.Fatalf("identity %s: %v", path, err)
	}
	w.conns = transport.NewRegistry(w.source, transport.WithLogger(m.log))
	m.t.Cleanup(func() {
		if err := w.conns.Close(); err != nil {
			m.t.Errorf("close connections of %s: %v", path, err)
		}
		if err := w.source.Close(); err != nil {
			m.t.Errorf("close identity of %s: %v", path, err)
		}
	})
	m.processes[path] = w
	return w
}
