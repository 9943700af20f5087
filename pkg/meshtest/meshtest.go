// Package meshtest is a mesh for tests: authorities and a Workload API under the test's control, servers and clients with
// real SVIDs over real mutual TLS.
//
// A Mesh is for tests of a service. It serves and dials as any workload, under a policy, and does to them what happens in the field:
//
//	m := meshtest.New(t, "bank.test", policy)
//	addr := m.Serve(t, "/risk", register)
//	client := riskv1.NewRiskServiceClient(m.Dial(t, "/payments", "/risk", addr))
//
//	m.Rotate(t, "/risk")                                // a new SVID
//	m.Rotate(t, "/risk", meshtest.Lifetime(time.Minute)) // one that expires in a minute
//	m.RotateAuthority(t)                                // a new authority, and new SVIDs for all
//	m.SetPolicy(t, policy+"revoked: [{id: /payments}]") // another policy, in force when it returns
//	m.Federate(t, "partner.test")                       // another trust domain
//	m.API(t, "/risk").Stop()                            // the Workload API is away
//	m.API(t, "/risk").Fail(err)                         // it answers any code; PERMISSION_DENIED withdraws the identity
//
// CA and WorkloadAPI are what it is made of, for tests of identity itself: they issue what no authority should, and fail as none
// should. All that a test starts ends with it.
package meshtest

import (
	"context"
	"log/slog"
	"net"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/spiffe/go-spiffe/v2/spiffeid"
	"github.com/spiffe/go-spiffe/v2/svid/x509svid"
	"google.golang.org/grpc"

	"github.com/countersign-mesh/countersign/pkg/authz"
	"github.com/countersign-mesh/countersign/pkg/identity"
	"github.com/countersign-mesh/countersign/pkg/mesh"
	"github.com/countersign-mesh/countersign/pkg/transport"
)

// patience is how long a change may take to arrive on a machine that has much else to do. Nothing waits that long unless it fails.
const patience = 15 * time.Second

// Mesh is a small mesh inside a test: of one trust domain, and of more when the test names them. All that it starts ends with the test
// that New was called by. It is safe for concurrent use.
//
// Its methods name a workload by the path of its SPIFFE ID ("/ledger"), as a policy does, or by the whole ID when it is of another trust
// domain ("spiffe://partner.test/shop"). A workload comes into being when it is first named. Each has an identity, a Workload API and
// connections of its own, as a process has.
type Mesh struct {
	// t is the test that New was called by: what a workload needs outlives the subtest that first asks for it.
	t   testing.TB
	log *slog.Logger
	ca  *CA
	policyFile

	mu        sync.Mutex
	cas       map[spiffeid.TrustDomain]*CA
	federated map[spiffeid.TrustDomain]bool
	processes map[spiffeid.ID]*process
}

// process is one workload of the mesh, with everything that a process has once.
type process struct {
	id     spiffeid.ID
	api    *WorkloadAPI
	source *identity.Source
	conns  *transport.Registry

	mu   sync.Mutex // of whoever changes what the Workload API grants
	svid *x509svid.SVID
}

// New returns a mesh of the given trust domain. policy is the text of a policy file.
//
// Every server of a mesh has health, reflection and mesh.admin.v1.AdminService, and does not start without rules for them. Those that the
// text does not name, nobody may call: a test states the rules of the service it is about, and no others. A policy that is to be
// deployed must name them all; use Open for it.
func New(t testing.TB, trustDomain, policy string) *Mesh {
	t.Helper()
	return newMesh(t, trustDomain, policy, denyStandard)
}

// Open returns a mesh under the policy file at path as it stands, as the servers that are deployed with it will see it: nothing is added to it.
// The file itself is not changed by SetPolicy.
func Open(t testing.TB, trustDomain, path string) *Mesh {
	t.Helper()
	text, err := os.ReadFile(path)
	if err != nil {
		t.Fatalf("policy: %v", err)
	}
	return newMesh(t, trustDomain, string(text), func(text string) string { return text })
}

func newMesh(t testing.TB, trustDomain, policy string, complete func(string) string) *Mesh {
	t.Helper()
	m := &Mesh{
		t:          t,
		log:        slog.New(slog.NewTextHandler(t.Output(), nil)),
		ca:         NewCA(t, trustDomain),
		policyFile: policyFile{path: filepath.Join(t.TempDir(), "policy.yaml"), complete: complete},
		cas:        make(map[spiffeid.TrustDomain]*CA),
		federated:  make(map[spiffeid.TrustDomain]bool),
		processes:  make(map[spiffeid.ID]*process),
	}
	m.cas[m.ca.TrustDomain()] = m.ca
	m.write(t, policy)
	var err error
	if m.file, err = authz.Open(m.path, authz.WithFileLogger(m.log)); err != nil {
		t.Fatalf("policy: %v", err)
	}
	return m
}

// CA returns the authority of the mesh's own trust domain.
func (m *Mesh) CA() *CA { return m.ca }

// Identity returns the Source of a workload, fed by its Workload API.
func (m *Mesh) Identity(t testing.TB, workload string) *identity.Source {
	t.Helper()
	return m.process(t, workload).source
}

// Conns returns the connections of a workload.
func (m *Mesh) Conns(t testing.TB, workload string) *transport.Registry {
	t.Helper()
	return m.process(t, workload).conns
}

// API returns the Workload API that a workload is fed by.
func (m *Mesh) API(t testing.TB, workload string) *WorkloadAPI {
	t.Helper()
	return m.process(t, workload).api
}

// Serve starts a server with the identity of a workload under the mesh's policy, with the whole chain of interceptors, on a loopback
// port, and returns its address. register registers the services under test. The policy must fit them (see mesh.Server.Fit).
func (m *Mesh) Serve(t testing.TB, workload string, register func(grpc.ServiceRegistrar), opts ...mesh.ServerOption) string {
	t.Helper()
	standard := []mesh.ServerOption{mesh.WithDrainTimeout(5 * time.Second), mesh.WithLogger(m.log)}
	server, err := mesh.NewServer(m.process(t, workload).conns, m.file, append(standard, opts...)...)
	if err != nil {
		t.Fatalf("server %s: %v", workload, err)
	}
	register(server)
	if err := server.Fit(); err != nil {
		t.Fatalf("server %s: %v", workload, err)
	}
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
			t.Errorf("server %s: %v", workload, err)
		}
	})
	return listener.Addr().String()
}

// Dial connects one workload to the server at addr, pinned to the identity of another. It asks no policy whether it may, as mesh.Dial does: a test
// plays whoever it likes, and sees what the server makes of that.
func (m *Mesh) Dial(t testing.TB, from, to, addr string, opts ...mesh.DialOption) *grpc.ClientConn {
	t.Helper()
	conn, err := mesh.DialUnlisted(m.process(t, from).conns, addr, m.id(t, to), opts...)
	if err != nil {
		t.Fatalf("dial %s: %v", to, err)
	}
	t.Cleanup(func() { _ = conn.Close() }) // a test may have closed it before
	return conn
}

// id returns the SPIFFE ID of a workload.
func (m *Mesh) id(t testing.TB, workload string) spiffeid.ID {
	t.Helper()
	text := workload
	if strings.HasPrefix(workload, "/") {
		text = m.ca.TrustDomain().IDString() + workload
	}
	id, err := spiffeid.FromString(text)
	if err != nil {
		t.Fatalf("workload %q: %v", workload, err)
	}
	return id
}

// process returns a workload, made at its first use.
func (m *Mesh) process(t testing.TB, workload string) *process {
	t.Helper()
	id := m.id(t, workload)
	m.mu.Lock()
	defer m.mu.Unlock()
	if w, ok := m.processes[id]; ok {
		return w
	}
	own, others := m.bundles(t, id.TrustDomain())
	w := &process{id: id, api: NewWorkloadAPI(m.t), svid: m.caOf(t, id.TrustDomain()).SVID(t, id.Path())}
	w.api.Grant(t, w.svid, own, others...)
	var err error
	if w.source, err = identity.New(t.Context(), identity.WithSocket(w.api.Addr()), identity.WithLogger(m.log)); err != nil {
		t.Fatalf("identity %s: %v", workload, err)
	}
	w.conns = transport.NewRegistry(w.source, transport.WithLogger(m.log))
	w.conns.Heed(m.file) // as mesh.Run does for a process that only dials
	m.t.Cleanup(func() {
		if err := w.conns.Close(); err != nil {
			m.t.Errorf("close connections of %s: %v", workload, err)
		}
		if err := w.source.Close(); err != nil {
			m.t.Errorf("close identity of %s: %v", workload, err)
		}
	})
	m.processes[id] = w
	return w
}
