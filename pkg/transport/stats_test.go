package transport_test

import (
	"context"
	"crypto/tls"
	"errors"
	"io"
	"net"
	"testing"
	"time"

	"github.com/countersign-mesh/countersign/pkg/identity"
	"github.com/countersign-mesh/countersign/pkg/meshtest"
	"github.com/countersign-mesh/countersign/pkg/transport"
)

// A handshake that fails is counted once, under the reason that says where the fault is.
func TestFailuresAreCountedByReason(t *testing.T) {
	t.Parallel()
	for _, c := range []struct {
		name   string
		client func(raw *net.TCPConn, config *tls.Config) error
		spoil  func(t *testing.T, w *world)
		reason string
	}{
		{name: "closed before a word", reason: "closed-by-peer", client: func(raw *net.TCPConn, _ *tls.Config) error { return raw.Close() }},
		{name: "reset", reason: "closed-by-peer", client: func(raw *net.TCPConn, _ *tls.Config) error {
			_, _ = raw.Write([]byte{22, 3, 1})
			_ = raw.SetLinger(0)
			return raw.Close()
		}},
		{name: "closed in the middle of a record", reason: "closed-by-peer", client: func(raw *net.TCPConn, _ *tls.Config) error {
			_, _ = raw.Write([]byte{22, 3, 1, 1, 0, 1})
			return raw.Close()
		}},
		{name: "plaintext", reason: "not-tls", client: func(raw *net.TCPConn, _ *tls.Config) error {
			_, err := io.WriteString(raw, "GET / HTTP/1.1\r\n\r\n")
			return err
		}},
		{name: "the client refuses the server", reason: "refused-by-peer", client: func(raw *net.TCPConn, config *tls.Config) error {
			config.VerifyConnection = func(tls.ConnectionState) error { return errors.New("no") }
			_ = tls.Client(raw, config).HandshakeContext(context.Background())
			return nil
		}},
		{name: "TLS 1.2", reason: "tls", client: func(raw *net.TCPConn, config *tls.Config) error {
			config.MaxVersion = tls.VersionTLS12
			_ = tls.Client(raw, config).HandshakeContext(context.Background())
			return nil
		}},
		{name: "the server has no identity", reason: "own-identity", client: func(raw *net.TCPConn, config *tls.Config) error {
			_ = tls.Client(raw, config).HandshakeContext(context.Background())
			return nil
		}, spoil: func(_ *testing.T, w *world) {
			w.server.set(func(o *owner) { o.svid, o.err = nil, identity.ErrWithdrawn })
		}},
	} {
		t.Run(c.name, func(t *testing.T) {
			t.Parallel()
			w := newWorld(t)
			if c.spoil != nil {
				c.spoil(t, w)
			}
			config := &tls.Config{InsecureSkipVerify: true, NextProtos: []string{"h2"}, Certificates: []tls.Certificate{certificate(w.client.svid)}}
			listener := listen(t)
			failed := make(chan error, 1)
			go func() {
				raw, err := net.Dial("tcp", listener.Addr().String())
				if err == nil {
					err = c.client(raw.(*net.TCPConn), config) //nolint:errcheck,forcetypeassert // it is TCP
					_, _ = io.Copy(io.Discard, raw)
					_ = raw.Close()
				}
				failed <- err
			}()
			raw, err := listener.Accept()
			if err != nil {
				t.Fatal(err)
			}
			_ = raw.SetDeadline(time.Now().Add(15 * time.Second))
			_, _, refusal := w.inbound.Server().ServerHandshake(raw)
			if err := <-failed; err != nil {
				t.Fatal(err)
			}
			for kind, n := range w.inbound.Stats().Failures {
				want := map[bool]uint64{true: 1}[kind == transport.Failure{Direction: transport.Inbound, Reason: c.reason}]
				if n != want {
					t.Errorf("%+v: %d, want %d (%v)", kind, n, want, refusal)
				}
			}
		})
	}
}

// A connection lasts as long as the certificate, of all that both ends showed, that expires first.
func TestAConnectionExpiresWithTheFirstCertificate(t *testing.T) {
	t.Parallel()
	for _, c := range []struct {
		name           string
		server, client time.Duration // of the intermediate authority
		want           func(w *world) time.Time
	}{
		{"the own intermediate authority", time.Minute, time.Hour, func(w *world) time.Time { return w.server.svid.Certificates[1].NotAfter }},
		{"the peer's intermediate authority", time.Hour, time.Minute, func(w *world) time.Time { return w.client.svid.Certificates[1].NotAfter }},
	} {
		t.Run(c.name, func(t *testing.T) {
			t.Parallel()
			w := newWorld(t)
			w.server.set(func(o *owner) { o.svid = w.ca.Intermediate(t, meshtest.Lifetime(c.server)).SVID(t, "/ledger") })
			w.client.set(func(o *owner) { o.svid = w.ca.Intermediate(t, meshtest.Lifetime(c.client)).SVID(t, "/payments") })
			newLink(t, w.inbound.Server(), w.outbound.Client(w.id("/ledger")))
			for _, r := range []*transport.Registry{w.inbound, w.outbound} {
				if got := newest(r).Expires; !got.Equal(c.want(w)) {
					t.Errorf("it expires at %v, want %v", got, c.want(w))
				}
			}
		})
	}
}
