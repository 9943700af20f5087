// Package dial is how the CLI talks to the mesh: with the identity that this process gets from the Workload API, to servers whose
// SPIFFE IDs it knows beforehand.
package dial

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"strings"
	"time"

	"github.com/spiffe/go-spiffe/v2/spiffeid"
	"google.golang.org/grpc"

	"github.com/countersign-mesh/countersign/cmd/countersign/internal/rundir"
	"github.com/countersign-mesh/countersign/pkg/identity"
	"github.com/countersign-mesh/countersign/pkg/mesh"
	"github.com/countersign-mesh/countersign/pkg/transport"
)

// startTimeout is how long a command waits for its first SVID: a person waits with it.
const startTimeout = 3 * time.Second

// Endpoint returns the Workload API's endpoint: the one given, else that of the mesh that runs in dir.
func Endpoint(given string, dir rundir.Dir) (string, error) {
	if given != "" {
		return given, nil
	}
	r, err := dir.Running()
	if errors.Is(err, rundir.ErrNoMesh) {
		return "", fmt.Errorf("which Workload API? Neither --socket nor SPIFFE_ENDPOINT_SOCKET is set, and %w", err)
	}
	return r.WorkloadAPI, err
}

// Workload is this process as a workload of the mesh. It is safe for concurrent use. The zero value is not usable; see Open.
type Workload struct {
	*identity.Source
	Conns *transport.Registry
}

// Open gets this process an identity from the Workload API at endpoint.
func Open(ctx context.Context, endpoint string, log *slog.Logger) (*Workload, error) {
	source, err := identity.New(ctx, identity.WithSocket(endpoint), identity.WithLogger(log), identity.WithStartTimeout(startTimeout))
	if err != nil {
		return nil, err
	}
	return &Workload{Source: source, Conns: transport.NewRegistry(source, transport.WithLogger(log))}, nil
}

// Close gives the identity up.
func (w *Workload) Close() error { return errors.Join(w.Conns.Close(), w.Source.Close()) }

// Dial returns a connection to a server. The caller closes it before the Workload.
func (w *Workload) Dial(to Target) (*grpc.ClientConn, error) {
	return mesh.DialUnlisted(w.Conns, "dns:///"+to.Address, to.ID)
}

// Handshake makes a connection to a server and returns it secured, with who answered.
func (w *Workload) Handshake(ctx context.Context, to Target) (net.Conn, *identity.Peer, error) {
	raw, err := (&net.Dialer{}).DialContext(ctx, "tcp", to.Address)
	if err != nil {
		return nil, nil, fmt.Errorf("connect to %s: %w", to.Address, err)
	}
	conn, info, err := w.Conns.Client(to.ID).ClientHandshake(ctx, to.Address, raw)
	if err != nil {
		return nil, nil, errors.Join(fmt.Errorf("handshake with %s: %w", to, err), closeQuietly(raw))
	}
	verified, ok := info.(interface{ Peer() *identity.Peer })
	if !ok {
		return nil, nil, errors.Join(fmt.Errorf("handshake with %s: the peer is unknown", to), conn.Close())
	}
	return conn, verified.Peer(), nil
}

// closeQuietly closes a connection that a failed handshake may have closed already.
func closeQuietly(conn net.Conn) error {
	if err := conn.Close(); err != nil && !errors.Is(err, net.ErrClosed) {
		return err
	}
	return nil
}

// Target is a server and who it must be.
type Target struct {
	Address string
	ID      spiffeid.ID
}

// String returns who is expected where.
func (t Target) String() string { return fmt.Sprintf("%s at %s", t.ID, t.Address) }

// Find makes a Target of what a person wrote. addr is HOST:PORT, or the name of a service of the mesh that runs in dir. expect is
// the server's SPIFFE ID, whole, or short for one of own's trust domain; for a name it may be left out.
func Find(dir rundir.Dir, own spiffeid.TrustDomain, addr, expect string) (Target, error) {
	target := Target{Address: addr}
	if !strings.Contains(addr, ":") {
		program, err := service(dir, addr)
		if err != nil {
			return Target{}, err
		}
		target.Address = program.Address
		if expect == "" {
			expect = program.SPIFFEID
		}
	}
	if expect == "" {
		return Target{}, fmt.Errorf("who must answer at %s? Say it with --expect, such as --expect /ledger", addr)
	}
	var err error
	if strings.HasPrefix(expect, "/") {
		target.ID, err = spiffeid.FromPath(own, expect)
	} else {
		target.ID, err = spiffeid.FromString(expect)
	}
	if err == nil && target.ID.Path() == "" {
		err = errors.New("it names a trust domain and no workload")
	}
	if err != nil {
		return Target{}, fmt.Errorf("--expect: %q is no SPIFFE ID: %w; right would be /ledger or spiffe://bank.test/ledger", expect, err)
	}
	if _, _, err := net.SplitHostPort(target.Address); err != nil {
		return Target{}, fmt.Errorf("%q is neither HOST:PORT nor the name of a service: %w", addr, err)
	}
	return target, nil
}

// service looks a name up in the mesh that runs in dir.
func service(dir rundir.Dir, name string) (rundir.Program, error) {
	r, err := dir.Running()
	if err != nil {
		return rundir.Program{}, fmt.Errorf("%q has no port, so it must be a service of a mesh that runs here, but %w", name, err)
	}
	if p, ok := r.Find(name); ok && p.Address != "" {
		return p, nil
	}
	var names []string
	for _, p := range r.Programs {
		if p.Address != "" {
			names = append(names, p.Name)
		}
	}
	return rundir.Program{}, fmt.Errorf("%q is neither HOST:PORT nor a service of this mesh; it has %s", name, strings.Join(names, ", "))
}
