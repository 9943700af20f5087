package mesh

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"slices"

	"github.com/prometheus/client_golang/prometheus"
	"github.com/spiffe/go-spiffe/v2/spiffeid"
	"google.golang.org/grpc"

	"github.com/countersign-mesh/countersign/pkg/audit"
	"github.com/countersign-mesh/countersign/pkg/authz"
	"github.com/countersign-mesh/countersign/pkg/identity"
	"github.com/countersign-mesh/countersign/pkg/ops"
	"github.com/countersign-mesh/countersign/pkg/settings"
	"github.com/countersign-mesh/countersign/pkg/transport"
	auditv1 "github.com/countersign-mesh/countersign/proto/gen/mesh/audit/v1"
)

// Process is one process in the mesh while Run puts it together. Its methods are for the build function of Run, which calls
// them from one goroutine; its fields are safe for concurrent use.
type Process struct {
	// Identity is the process's own SVID and the bundles it trusts.
	Identity *identity.Source
	// Policy is the policy file.
	Policy *authz.File
	// Log is the process's log.
	Log *slog.Logger
	// Metrics is what /metrics serves.
	Metrics *prometheus.Registry

	flags    Flags
	conns    *transport.Registry
	ops      *ops.Handler
	listener net.Listener
	server   *Server
	servers  []worker
	workers  []worker
	// refusals is where calls are recorded that the own policy does not let the process make.
	refusals lateRecorder
	clients  []*grpc.ClientConn
	closers  []func() error
}

// worker is a goroutine of the process.
type worker struct {
	name string
	run  func(ctx context.Context) error
}

// errSecondServer is a mistake in a build function.
var errSecondServer = errors.New("a process has one server; NewServer was called twice")

// NewServer returns the process's one server, to register services with. Run serves it after build has returned.
func (p *Process) NewServer(opts ...ServerOption) (*Server, error) {
	if p.server != nil {
		return nil, errSecondServer
	}
	own := []ServerOption{
		WithLogger(p.Log), WithMetrics(p.Metrics), WithDrainTimeout(p.flags.DrainTimeout.Value()),
		WithMaxCalls(p.flags.MaxCalls.Value()), WithMaxStreams(p.flags.MaxStreams.Value()),
	}
	server, err := NewServer(p.conns, p.Policy, slices.Concat(own, opts)...)
	if err != nil {
		return nil, err
	}
	p.server = server
	return server, nil
}

// Dial connects to the service of the process's own trust domain that has the given path, such as "/ledger", at a gRPC
// target. Run closes the connection after the server and everything that Go started have ended.
func (p *Process) Dial(target settings.Target, path string, opts ...DialOption) (*grpc.ClientConn, error) {
	server, err := spiffeid.FromPath(p.Identity.ID().TrustDomain(), path)
	if err != nil {
		return nil, fmt.Errorf("dial %s: %w", target, err)
	}
	return p.DialID(target, server, opts...)
}

// DialID is Dial for a server that is named by its whole SPIFFE ID, which may be of another trust domain.
func (p *Process) DialID(target settings.Target, server spiffeid.ID, opts ...DialOption) (*grpc.ClientConn, error) {
	conn, err := Dial(p.conns, p.Policy, string(target), server, append([]DialOption{WithDialRecorder(&p.refusals)}, opts...)...)
	if err != nil {
		return nil, err
	}
	p.clients = append(p.clients, conn)
	return conn, nil
}

// AuditTo returns a recorder that sends decisions to the audit service ("/audit" of the own trust domain) at target, without
// holding up the calls that they are about.
func (p *Process) AuditTo(target settings.Target) (audit.Recorder, error) {
	conn, err := p.Dial(target, "/audit")
	if err != nil {
		return nil, err
	}
	queue := audit.NewQueue(auditv1.NewAuditServiceClient(conn), audit.WithLogger(p.Log))
	if err := p.Metrics.Register(newQueueMetrics(queue)); err != nil {
		return nil, fmt.Errorf("register the audit queue's metrics: %w", err)
	}
	p.Go("audit", queue.Run)
	p.refusals.next.Store(queue)
	return queue, nil
}

// Go runs f from when the process serves until it stops: ctx ends once the server has drained, and Run waits for f. An error of
// f stops the process.
func (p *Process) Go(name string, f func(ctx context.Context) error) {
	p.workers = append(p.workers, worker{name: name, run: f})
}

// Serve runs f, which serves somebody in a way of its own, beside the process's server: it begins when that does, and its ctx ends when the process is to stop. What Go
// started and the connections stay until f has returned, so that calls in flight can end; f has the drain timeout for that, which it keeps itself. An error
// of f stops the process.
func (p *Process) Serve(name string, f func(ctx context.Context) error) {
	p.servers = append(p.servers, worker{name: name, run: f})
}

// Ready adds a check to /readyz.
func (p *Process) Ready(name string, check func(ctx context.Context) error) {
	p.ops.Add(name, check)
}

// Defer runs f after the server, everything that Go started and the connections have ended; last added, first run.
func (p *Process) Defer(f func() error) { p.closers = append(p.closers, f) }

// close undoes everything that was put together.
func (p *Process) close() error {
	var errs []error
	for _, conn := range p.clients {
		errs = append(errs, conn.Close())
	}
	for _, f := range slices.Backward(p.closers) {
		errs = append(errs, f())
	}
	return errors.Join(errs...)
}
