package transport

import (
	"context"
	"crypto/tls"
	"errors"
	"fmt"
	"net"
	"time"

	"github.com/spiffe/go-spiffe/v2/spiffeid"
	"google.golang.org/grpc/credentials"

	"github.com/countersign-mesh/countersign/pkg/identity"
)

// creds implements credentials.TransportCredentials. It is immutable, so it is its own clone.
type creds struct {
	registry *Registry
	server   spiffeid.ID // whom a client expects; zero for a server's credentials
}

// Info implements credentials.TransportCredentials.
func (c *creds) Info() credentials.ProtocolInfo {
	return credentials.ProtocolInfo{SecurityProtocol: "tls"}
}

// Clone implements credentials.TransportCredentials.
func (c *creds) Clone() credentials.TransportCredentials { return c }

// OverrideServerName implements credentials.TransportCredentials. A server is known by its SPIFFE ID, not by a name.
func (c *creds) OverrideServerName(string) error {
	return errors.New("a server is verified by its SPIFFE ID; its name cannot be overridden")
}

// ServerHandshake implements credentials.TransportCredentials. gRPC has set a deadline on raw. It ends with AbortHandshakes.
func (c *creds) ServerHandshake(raw net.Conn) (net.Conn, credentials.AuthInfo, error) {
	if !c.server.IsZero() {
		return nil, nil, errors.New("a client's credentials cannot serve")
	}
	ctx, end := context.WithCancelCause(c.registry.accepting)
	defer end(nil)
	h := &handshake{registry: c.registry, end: end}
	defer h.leave()
	waiting := time.AfterFunc(inboundTimeout, func() { end(errSlow) })
	defer waiting.Stop()
	conn, info, err := h.run(ctx, Inbound, raw, tls.Server(raw, h.serverConfig()))
	if err != nil {
		return nil, nil, err
	}
	return conn, info, nil
}

// ClientHandshake implements credentials.TransportCredentials. It ends with ctx.
func (c *creds) ClientHandshake(ctx context.Context, authority string, raw net.Conn) (net.Conn, credentials.AuthInfo, error) {
	if c.server.IsZero() {
		return nil, nil, errors.New("no server is expected: a client's credentials need the server's SPIFFE ID")
	}
	h := &handshake{registry: c.registry, expected: c.server}
	conn, info, err := h.run(ctx, Outbound, raw, tls.Client(patient{raw}, h.clientConfig(authority)))
	if _, ok := errors.AsType[*identity.RevokedError](err); ok {
		return nil, nil, &discreetError{err}
	}
	if err != nil {
		return nil, nil, err
	}
	return conn, info, nil
}

// handshake is one handshake. Its TLS configuration is made for it alone, so that what verification finds is carried over to
// the connection and nothing is shared that could be resumed.
type handshake struct {
	registry *Registry
	expected spiffeid.ID
	peer     *identity.Peer
	// own is the own SVID that this end shows.
	own shown

	// These are an inbound handshake's: end ends it, began is its time limit once it has a slot.
	end   context.CancelCauseFunc
	began *time.Timer
}

func (h *handshake) serverConfig() *tls.Config {
	return &tls.Config{
		MinVersion: tls.VersionTLS13,
		NextProtos: []string{"h2"},
		// Any certificate is let as far as verify, which is stricter than what crypto/tls would do with it.
		ClientAuth: tls.RequireAnyClientCert,
		// A resumed session is one whose peer was verified some time ago.
		SessionTicketsDisabled: true,
		GetConfigForClient:     func(hello *tls.ClientHelloInfo) (*tls.Config, error) { return nil, h.enter(hello.Context()) },
		GetCertificate:         func(*tls.ClientHelloInfo) (*tls.Certificate, error) { return h.certificate() },
		VerifyConnection:       h.verify,
	}
}

func (h *handshake) clientConfig(authority string) *tls.Config {
	host, _, err := net.SplitHostPort(authority)
	if err != nil {
		host = authority
	}
	return &tls.Config{
		MinVersion: tls.VersionTLS13,
		NextProtos: []string{"h2"},
		ServerName: host, // SNI, for a server behind a router; it is not what is verified
		// crypto/tls would verify a DNS name against the web's authorities. verify does all of it, for a SPIFFE ID.
		InsecureSkipVerify:     true, //nolint:gosec // see above
		SessionTicketsDisabled: true,
		GetClientCertificate:   func(*tls.CertificateRequestInfo) (*tls.Certificate, error) { return h.certificate() },
		VerifyConnection:       h.verify,
	}
}

// verify is VerifyConnection and not VerifyPeerCertificate, which crypto/tls leaves out when a session is resumed.
//
// When it runs, the peer has not proved yet that it has the key; its result may be used only after the handshake.
func (h *handshake) verify(state tls.ConnectionState) (err error) {
	defer func() {
		// What a stranger sends must not be able to end the process, whatever fault there is in reading it.
		if p := recover(); p != nil {
			h.peer, err = nil, fmt.Errorf("verification panicked: %v", p)
		}
	}()
	switch {
	case state.Version != tls.VersionTLS13:
		return fmt.Errorf("%s was negotiated, must be TLS 1.3", tls.VersionName(state.Version))
	case state.DidResume:
		return errors.New("the session was resumed; each connection is verified")
	case state.NegotiatedProtocol != "h2":
		return fmt.Errorf("ALPN negotiated %q, must be %q (RFC 9113 §3.2)", state.NegotiatedProtocol, "h2")
	}
	peer, err := h.registry.verifier.Load().Verify(state.PeerCertificates)
	if err != nil {
		return fmt.Errorf("the peer's X.509-SVID is refused: %w", err)
	}
	if !h.expected.IsZero() && peer.ID != h.expected {
		return &wrongServerError{expected: h.expected, got: peer.ID}
	}
	h.peer = peer
	return nil
}

// run makes the handshake and takes the connection into the registry.
func (h *handshake) run(ctx context.Context, direction Direction, raw net.Conn, tlsConn *tls.Conn) (*conn, *authInfo, error) {
	sweep := h.registry.sweeps.Load()
	err := tlsConn.HandshakeContext(ctx)
	if err != nil && direction == Inbound && ctx.Err() != nil {
		err = context.Cause(ctx) // crypto/tls has the context's own error, which does not say why
	}
	if err == nil && h.peer == nil {
		err = errors.New("the peer was not verified")
	}
	if err != nil {
		_ = raw.Close()
		return nil, nil, h.registry.refused(direction, raw, err)
	}
	c := newConn(h.registry, direction, raw, tlsConn, h.peer, h.own)
	if err := h.registry.add(c, sweep); err != nil {
		_ = c.raw.Close()
		h.registry.remove(c)
		c.info.end(net.ErrClosed)
		return nil, nil, h.registry.refused(direction, raw, err)
	}
	h.registry.succeeded(direction)
	return c, c.info, nil
}

// certificate returns the process's own SVID, as long as it has one that may be used.
func (h *handshake) certificate() (*tls.Certificate, error) {
	svid, err := h.registry.id.GetX509SVID()
	if err != nil {
		return nil, fmt.Errorf("own identity: %w", err)
	}
	cert := &tls.Certificate{PrivateKey: svid.PrivateKey, Leaf: svid.Certificates[0]}
	h.own = shown{chain: svid.Certificates, until: cert.Leaf.NotAfter}
	for _, c := range svid.Certificates {
		cert.Certificate = append(cert.Certificate, c.Raw)
		if c.NotAfter.Before(h.own.until) {
			h.own.until = c.NotAfter // an intermediate's
		}
	}
	return cert, nil
}

// wrongServerError says that another server answered than the one that was meant.
type wrongServerError struct{ expected, got spiffeid.ID }

// Error implements error.
func (e *wrongServerError) Error() string {
	return fmt.Sprintf("expected the server %s, got %s", e.expected, e.got)
}

// discreetError is the error of dialling a server that was revoked. gRPC makes it the error of calls, which a handler may hand on to its own
// caller: where and why somebody is revoked is for the log.
type discreetError struct{ error }

// Error implements error.
func (*discreetError) Error() string { return "the server's X.509-SVID is refused (rule not-revoked)" }

// Unwrap returns the whole error.
func (e *discreetError) Unwrap() error { return e.error }
