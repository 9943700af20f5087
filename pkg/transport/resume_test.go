package transport_test

import (
	"crypto/tls"
	"fmt"
	"io"
	"net"
	"sync/atomic"
	"testing"
	"time"

	"github.com/spiffe/go-spiffe/v2/spiffegrpc/grpccredentials"
	"github.com/spiffe/go-spiffe/v2/spiffeid"
	"github.com/spiffe/go-spiffe/v2/spiffetls/tlsconfig"
	"google.golang.org/grpc/credentials"

	"github.com/countersign-mesh/countersign/pkg/identity"
	"github.com/countersign-mesh/countersign/pkg/meshtest"
)

// ATTACKS 14 and 15: a client that keeps TLS sessions comes back after its authority has left the bundle, and after it was revoked. With the
// ordinary configuration it is let in: no certificate is exchanged on resumption, and no callback that go-spiffe sets runs.
func TestResumption(t *testing.T) {
	t.Parallel()
	for _, why := range []struct {
		name  string
		spoil func(t *testing.T, w *world, list *blacklist, expelled *atomic.Bool)
	}{
		{"its authority left the bundle", func(t *testing.T, w *world, _ *blacklist, _ *atomic.Bool) {
			w.server.trust(meshtest.NewCA(t, "bank.test").Bundle())
		}},
		{"it was revoked", func(_ *testing.T, w *world, list *blacklist, expelled *atomic.Bool) {
			list.revoke(identity.Revocation{ID: w.client.svid.ID, Entry: "policy:1"})
			expelled.Store(true)
		}},
	} {
		for _, c := range resumptions() {
			t.Run(why.name+", "+c.name, func(t *testing.T) {
				t.Parallel()
				w := newWorld(t)
				list, expelled := newBlacklist(), new(atomic.Bool)
				w.inbound.Heed(list)
				server := c.server(w, expelled)
				client := &tls.Config{
					ServerName:         "ledger",
					InsecureSkipVerify: true,
					NextProtos:         []string{"h2"},
					Certificates:       []tls.Certificate{certificate(w.client.svid)},
					ClientSessionCache: tls.NewLRUClientSessionCache(1),
				}
				if _, err := greet(t, server, client); err != nil {
					t.Fatalf("first connection: %v", err)
				}
				why.spoil(t, w, list, expelled)
				resumed, err := greet(t, server, client)
				if admitted := err == nil; admitted != c.admitted || resumed != c.admitted {
					t.Errorf("second connection: resumed %v, %v; want admitted %v", resumed, err, c.admitted)
				}
				client.ClientSessionCache = nil
				if _, err := greet(t, server, client); err == nil {
					t.Error("a connection without a session is let in")
				}
			})
		}
	}
}

// resumption is a server that a client with a session comes back to.
type resumption struct {
	name     string
	server   func(w *world, expelled *atomic.Bool) credentials.TransportCredentials
	admitted bool
}

func resumptions() []resumption {
	authorizer := func(expelled *atomic.Bool) tlsconfig.Authorizer {
		return tlsconfig.AdaptMatcher(func(id spiffeid.ID) error {
			if expelled.Load() {
				return fmt.Errorf("%s is expelled", id)
			}
			return nil
		})
	}
	return []resumption{
		{"ours refuses", func(w *world, _ *atomic.Bool) credentials.TransportCredentials { return w.inbound.Server() }, false},
		{"ATTACKS 14: the ordinary configuration lets it in", func(w *world, expelled *atomic.Bool) credentials.TransportCredentials {
			return grpccredentials.MTLSServerCredentials(w.server, w.server, authorizer(expelled))
		}, true},
		{"ATTACKS 15: the ordinary one with tickets off lets it in by the inner configuration", func(w *world, expelled *atomic.Bool) credentials.TransportCredentials {
			inner := tlsconfig.MTLSServerConfig(w.server, w.server, authorizer(expelled))
			inner.SetSessionTicketKeys([][32]byte{{1}}) // as replicas do that share their sessions
			outer := inner.Clone()
			outer.SessionTicketsDisabled = true
			outer.GetConfigForClient = func(*tls.ClientHelloInfo) (*tls.Config, error) { return inner, nil }
			return credentials.NewTLS(outer)
		}, true},
	}
}

// The server hands out no ticket, so that there is nothing to resume; and a session that was resumed all the same is refused.
func TestServerOffersNoSession(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	cache := &countingCache{}
	config := &tls.Config{
		ServerName:         "ledger",
		InsecureSkipVerify: true,
		NextProtos:         []string{"h2"},
		Certificates:       []tls.Certificate{certificate(w.client.svid)},
		ClientSessionCache: cache,
	}
	if _, err := greet(t, w.inbound.Server(), config); err != nil {
		t.Fatal(err)
	}
	if cache.puts != 0 {
		t.Errorf("the client got %d tickets", cache.puts)
	}
	state := tls.ConnectionState{Version: tls.VersionTLS13, NegotiatedProtocol: "h2", PeerCertificates: w.client.svid.Certificates}
	if err := w.inbound.VerifyState(state); err != nil {
		t.Errorf("a new session: %v", err)
	}
	state.DidResume = true
	if err := w.inbound.VerifyState(state); err == nil {
		t.Error("a resumed session is let in")
	}
}

// countingCache is a client's cache of sessions that counts what it is given.
type countingCache struct{ puts int }

func (c *countingCache) Get(string) (*tls.ClientSessionState, bool) { return nil, false }

func (c *countingCache) Put(_ string, s *tls.ClientSessionState) {
	if s != nil {
		c.puts++
	}
}

// greet connects, waits for a byte from the server, which comes after its session ticket, and returns the server's verdict.
func greet(t *testing.T, server credentials.TransportCredentials, config *tls.Config) (resumed bool, err error) {
	t.Helper()
	listener := listen(t)
	verdict := make(chan error, 1)
	go func() {
		raw, err := listener.Accept()
		if err != nil {
			verdict <- err
			return
		}
		defer raw.Close()
		_ = raw.SetDeadline(time.Now().Add(10 * time.Second))
		conn, _, err := server.ServerHandshake(raw)
		if err == nil {
			_, err = io.WriteString(conn, "!")
			_ = conn.Close()
		}
		verdict <- err
	}()
	raw, err := net.Dial("tcp", listener.Addr().String())
	if err != nil {
		t.Fatal(err)
	}
	defer raw.Close()
	_ = raw.SetDeadline(time.Now().Add(10 * time.Second))
	conn := tls.Client(raw, config)
	_, _ = io.ReadAll(conn)
	return conn.ConnectionState().DidResume, <-verdict
}

// A client of ours offers no session, even to a server that hands out tickets.
func TestClientResumesNothing(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	config := tlsconfig.MTLSServerConfig(w.server, w.server, tlsconfig.AuthorizeAny())
	config.NextProtos = []string{"h2"}
	var resumed []bool
	config.VerifyConnection = func(s tls.ConnectionState) error {
		resumed = append(resumed, s.DidResume)
		return nil
	}
	addr := serve(t, credentials.NewTLS(config))
	for range 2 {
		client := dial(t, addr, w.outbound.Client(w.id("/ledger")))
		if err := check(t.Context(), client); err != nil {
			t.Fatal(err)
		}
	}
	if len(resumed) != 2 || resumed[0] || resumed[1] {
		t.Errorf("resumed: %v", resumed)
	}
}
