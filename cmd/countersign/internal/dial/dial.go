// Package dial is how the CLI talks to the mesh: with the identity that this process gets from the Workload API, to servers whose
// SPIFFE IDs it knows beforehand.
package dial

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"time"

	"github.com/spiffe/go-spiffe/v2/spiffeid"
	"google.golang.org/grpc"

	"github.com/countersign-mesh/countersign/pkg/identity"
	"github.com/countersign-mesh/countersign/pkg/mesh"
	"github.com/countersign-mesh/countersign/pkg/transport"
)

// startTimeout is how long a command waits for its first SVID: a person waits with it.
const startTimeout = 3 * time.Second

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
	if to.Unresolved != nil {
		return nil, to.Unresolved
	}
	return mesh.DialUnlisted(w.Conns, "dns:///"+to.Address, to.ID)
}

// Handshake makes a connection to a server and returns it secured, with who answered.
func (w *Workload) Handshake(ctx context.Context, to Target) (net.Conn, *identity.Peer, error) {
	if to.Unresolved != nil {
		return nil, nil, to.Unresolved
	}
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
	// Unresolved is why it is not known where the server is. Whoever dials it gets this error.
	Unresolved error
}

// String returns who is expected where.
func (t Target) String() string { return fmt.Sprintf("%s at %s", t.ID, t.Address) }
