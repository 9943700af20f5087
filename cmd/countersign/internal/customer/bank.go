// Package customer is a customer of the bank with a device: what the bank's app would be. It comes in over the edge, as everybody does who is no
// workload of the mesh, and knows nothing of the mesh.
package customer

import (
	"crypto/x509"
	"fmt"
	"net"
	"net/http"

	"google.golang.org/grpc"
	"google.golang.org/grpc/credentials"

	"github.com/countersign-mesh/countersign/cmd/countersign/internal/edge"
	"github.com/countersign-mesh/countersign/cmd/countersign/internal/rundir"
	"github.com/countersign-mesh/countersign/pkg/userauth/device"
)

// Scopes returns all that the app asks for: whatever the bank lets its customers do.
func Scopes() []string {
	return []string{"accounts.read", "accounts.open", "accounts.close", "transfer"}
}

// Bank is where customers find the bank. It is immutable and safe for concurrent use. The zero value is not usable; see At.
type Bank struct {
	edge  rundir.Edge
	roots *x509.CertPool
}

// At returns the bank at an edge.
func At(e rundir.Edge) (Bank, error) {
	roots, err := edge.ReadRoots(e.Root)
	return Bank{edge: e, roots: roots}, err
}

// Login is where customers log in.
func (b Bank) Login() device.Server {
	return device.Server{Issuer: b.edge.Issuer, Roots: b.roots, Address: b.edge.Login}
}

// Dial returns a connection to the bank over gRPC, by a device; session, unless it is nil, says for whom calls are. The caller closes it.
func (b Bank) Dial(d *device.Device, session *device.Session) (*grpc.ClientConn, error) {
	name, err := serverName(b.edge.GRPC)
	if err != nil {
		return nil, err
	}
	opts := []grpc.DialOption{grpc.WithTransportCredentials(credentials.NewTLS(d.TLS(b.roots, name)))}
	if session != nil {
		opts = append(opts, grpc.WithPerRPCCredentials(session.PerRPC()))
	}
	conn, err := grpc.NewClient("dns:///"+b.edge.GRPC, opts...)
	if err != nil {
		return nil, fmt.Errorf("connect to the bank at %s: %w", b.edge.GRPC, err)
	}
	return conn, nil
}

// HTTP returns a client for the bank's REST interface, by a device, which shows no token by itself, and the URL to put before a path. The caller closes
// its idle connections.
func (b Bank) HTTP(d *device.Device) (*http.Client, string, error) {
	name, err := serverName(b.edge.REST)
	if err != nil {
		return nil, "", err
	}
	return &http.Client{Transport: &http.Transport{TLSClientConfig: d.TLS(b.roots, name), ForceAttemptHTTP2: true}}, "https://" + b.edge.REST, nil
}

// serverName is the name in the certificate of a door.
func serverName(address string) (string, error) {
	host, _, err := net.SplitHostPort(address)
	if err != nil {
		return "", fmt.Errorf("the bank's address %q is not HOST:PORT: %w", address, err)
	}
	return host, nil
}
