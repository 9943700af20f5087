package e2e

import (
	"context"
	"crypto/tls"
	"errors"
	"io"
	"net"
	"strings"
	"testing"
	"time"

	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/credentials"
	"google.golang.org/grpc/credentials/insecure"
	healthpb "google.golang.org/grpc/health/grpc_health_v1"
	"google.golang.org/grpc/metadata"
	"google.golang.org/grpc/status"

	"github.com/countersign-mesh/countersign/e2e/internal/bank"
)

// testHandshakes offers every server connections that it has to refuse before any gRPC is spoken, and shows after each that it
// serves on. The operator's own certificate with nothing wrong about it is among the cases, so that the test can fail. ATTACKS 16, 17.
func testHandshakes(t *testing.T, mesh *bank.Mesh) {
	operator := mesh.Identity(t, "operator")
	stranger := mesh.Identity(t, "stranger")
	other := func(certificates ...tls.Certificate) func(*tls.Config) {
		return func(c *tls.Config) { c.Certificates = certificates }
	}
	const id = "spiffe://bank.test/operator"
	cases := []struct {
		name    string
		change  func(*tls.Config)
		refused bool
	}{
		{"a good SVID is accepted", func(*tls.Config) {}, false},
		{"no client certificate", other(), true},
		{"self-signed", other(bank.SelfSigned(t, id)), true},
		{"another authority that claims the trust domain", other(bank.NewForger(t, "bank.test").Forge(t, id)), true},
		{"another trust domain", other(bank.NewForger(t, "evil.test").Forge(t, "spiffe://evil.test/operator")), true},
		{"TLS 1.2", func(c *tls.Config) { c.MaxVersion = tls.VersionTLS12 }, true},
		{"no ALPN", func(c *tls.Config) { c.NextProtos = nil }, true},
		{"another protocol by ALPN", func(c *tls.Config) { c.NextProtos = []string{"http/1.1"} }, true},
		{"the certificate without its key", other(tls.Certificate{
			Certificate: operator.Certificate.Certificate, PrivateKey: bank.NewKey(t),
		}), true},
		{"another workload's certificate with one's own key", other(tls.Certificate{
			Certificate: operator.Certificate.Certificate, PrivateKey: stranger.Certificate.PrivateKey,
		}), true},
	}
	for _, server := range bank.Services() {
		conn := mesh.Dial(t, operator, server)
		address := mesh.Program(t, server).Address
		for _, test := range cases {
			config := operator.TLS(server)
			config.NextProtos = []string{"h2"}
			test.change(config)
			err := speak(t.Context(), address, config)
			if test.refused != (err != nil) {
				t.Errorf("%s, %s: want refused %t, got %v", server, test.name, test.refused, err)
			}
			if err := bank.Healthy(t.Context(), conn); err != nil {
				t.Errorf("%s does not serve any more after: %s: %v", server, test.name, err)
			}
		}
		plaintext := bank.Dial(t, address, insecure.NewCredentials())
		if err := bank.Healthy(t.Context(), plaintext); status.Code(err) != codes.Unavailable {
			t.Errorf("%s, plaintext: want UNAVAILABLE, got %v", server, err)
		}
		if err := bank.Healthy(t.Context(), conn); err != nil {
			t.Errorf("%s does not serve any more after plaintext: %v", server, err)
		}
	}
}

// speak connects and waits for the server's first bytes of HTTP/2. Under TLS 1.3 a client learns only by reading that the server has
// refused its certificate (RFC 8446 §4.6.2): the handshake has ended for it before.
func speak(ctx context.Context, address string, config *tls.Config) error {
	ctx, cancel := context.WithTimeout(ctx, 5*time.Second)
	defer cancel()
	conn, err := (&tls.Dialer{Config: config}).DialContext(ctx, "tcp", address)
	if err != nil {
		return err
	}
	defer conn.Close()
	if err := conn.SetDeadline(time.Now().Add(5 * time.Second)); err != nil {
		return err
	}
	// The client's preface and an empty SETTINGS frame (RFC 9113 §3.4).
	if _, err := io.WriteString(conn, "PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n\x00\x00\x00\x04\x00\x00\x00\x00\x00"); err != nil {
		return err
	}
	_, err = io.ReadFull(conn, make([]byte, 9))
	if timeout := net.Error(nil); errors.As(err, &timeout) && timeout.Timeout() {
		return errors.New("the server neither speaks nor hangs up")
	}
	return err
}

// testClaims sends headers in which proxies and frameworks carry identities. ATTACKS 49.
func testClaims(t *testing.T, mesh *bank.Mesh) {
	stranger := mesh.Identity(t, "stranger")
	claims := metadata.Pairs(
		"x-forwarded-client-cert", "By=spiffe://bank.test/ledger;URI=spiffe://bank.test/operator",
		"spiffe-id", "spiffe://bank.test/operator",
		"x-spiffe-id", "spiffe://bank.test/operator",
		"grpc-metadata-spiffe-id", "spiffe://bank.test/operator",
		"authorization", "Bearer operator",
		"workload.spiffe.io", "true",
	)
	ctx := metadata.NewOutgoingContext(t.Context(), claims)
	for _, server := range bank.Services() {
		_, err := healthpb.NewHealthClient(mesh.Dial(t, stranger, server)).Check(ctx, &healthpb.HealthCheckRequest{})
		if _, wrong := bank.DecisionID(err); wrong != "" {
			t.Errorf("%s: %s", server, wrong)
		}
	}
}

// testServerNames shows that an ordinary TLS client that checks names is told apart from one that was led astray: no server of the
// mesh passes for another one. ATTACKS 18.
func testServerNames(t *testing.T, mesh *bank.Mesh) {
	operator := mesh.Identity(t, "operator")
	for i, server := range bank.Services() {
		next := bank.Services()[(i+1)%len(bank.Services())]
		conn := bank.Dial(t, mesh.Program(t, server).Address, credentials.NewTLS(operator.TLS(next)))
		err := bank.Healthy(t.Context(), conn)
		if status.Code(err) != codes.Unavailable || !strings.Contains(err.Error(), "certificate is valid for "+server) {
			t.Errorf("%s at the place of %s: want refused for its name, got %v", server, next, err)
		}
	}
}
