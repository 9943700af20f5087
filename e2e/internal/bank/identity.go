package bank

import (
	"crypto/tls"
	"crypto/x509"
	"encoding/pem"
	"testing"
	"time"

	"google.golang.org/grpc"
	"google.golang.org/grpc/backoff"
	"google.golang.org/grpc/credentials"
)

// Identity is an SVID with its key and the authorities to trust. It is used with crypto/tls and grpc-go as they come, without the
// library under test.
type Identity struct {
	Name        string
	Certificate tls.Certificate
	Roots       *x509.CertPool
	// Dir has svid.pem, key.pem and bundle.pem.
	Dir string
}

// Identity gets the SVID of an actor of the Home, or of "operator": the actor's own process asks the Workload API at the
// endpoint for it and is attested.
func (h *Home) Identity(t testing.TB, endpoint, actor string) *Identity {
	t.Helper()
	dir := t.TempDir()
	out, code := h.Run(t, []string{"SPIFFE_ENDPOINT_SOCKET=" + endpoint}, program(actor), "svid", "write", "--dir="+dir)
	if code != 0 {
		t.Fatalf("%s svid write: exit code %d:\n%s", actor, code, out)
	}
	i, err := ReadIdentity(actor, dir)
	if err != nil {
		t.Fatal(err)
	}
	return i
}

// Identity gets the SVID of an actor from the mesh.
func (m *Mesh) Identity(t testing.TB, actor string) *Identity {
	t.Helper()
	return m.Home.Identity(t, m.WorkloadAPI, actor)
}

// Ask has an actor of the mesh ask for its SVID, and returns what it says of that, and its exit code.
func (a *Apart) Ask(t testing.TB, actor string) (string, int) {
	t.Helper()
	return a.Run(t, []string{"SPIFFE_ENDPOINT_SOCKET=" + a.Endpoint}, program(actor), "svid", "show")
}

// TLS returns an ordinary TLS configuration for calling a server by its DNS name.
func (i *Identity) TLS(server string) *tls.Config {
	return &tls.Config{
		Certificates: []tls.Certificate{i.Certificate},
		RootCAs:      i.Roots,
		ServerName:   server,
		MinVersion:   tls.VersionTLS12,
	}
}

// ID returns the SPIFFE ID in the SVID.
func (i *Identity) ID() string { return i.Certificate.Leaf.URIs[0].String() }

// Dial connects the identity to a server at an address.
func (i *Identity) Dial(t testing.TB, server, address string) *grpc.ClientConn {
	t.Helper()
	return Dial(t, address, credentials.NewTLS(i.TLS(server)))
}

// Dial connects to a server of the mesh with any credentials. The connection is closed with the test. It does not wait for long
// before it connects again, so that a test measures the mesh and not its client.
func Dial(t testing.TB, address string, creds credentials.TransportCredentials, more ...grpc.DialOption) *grpc.ClientConn {
	t.Helper()
	again := grpc.ConnectParams{
		Backoff:           backoff.Config{BaseDelay: 50 * time.Millisecond, Multiplier: 1.6, Jitter: 0.2, MaxDelay: 250 * time.Millisecond},
		MinConnectTimeout: 5 * time.Second,
	}
	opts := append([]grpc.DialOption{grpc.WithTransportCredentials(creds), grpc.WithConnectParams(again)}, more...)
	conn, err := grpc.NewClient("passthrough:///"+address, opts...)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := conn.Close(); err != nil {
			t.Error(err)
		}
	})
	return conn
}

// Dial connects an identity to a service of the mesh.
func (m *Mesh) Dial(t testing.TB, i *Identity, server string) *grpc.ClientConn {
	t.Helper()
	return i.Dial(t, server, m.Program(t, server).Address)
}

// PEM writes a certificate as PEM.
func PEM(certificate *x509.Certificate) []byte {
	return pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: certificate.Raw})
}

// Serial returns the SVID's serial number in lower-case hexadecimal.
func (i *Identity) Serial() string { return i.Certificate.Leaf.SerialNumber.Text(16) }
