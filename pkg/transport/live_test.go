package transport_test

import (
	"net"
	"runtime"
	"sync"
	"testing"
	"time"

	"github.com/spiffe/go-spiffe/v2/bundle/x509bundle"
	"github.com/spiffe/go-spiffe/v2/spiffegrpc/grpccredentials"
	"github.com/spiffe/go-spiffe/v2/spiffetls/tlsconfig"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/credentials"
	"google.golang.org/grpc/status"

	"github.com/countersign-mesh/countersign/pkg/identity"
	"github.com/countersign-mesh/countersign/pkg/meshtest"
	"github.com/countersign-mesh/countersign/pkg/transport"
)

// ordinary returns go-spiffe's credentials for the two ends.
func ordinary(w *world) (server, client credentials.TransportCredentials) {
	return grpccredentials.MTLSServerCredentials(w.server, w.server, tlsconfig.AuthorizeAny()),
		grpccredentials.MTLSClientCredentials(w.client, w.client, tlsconfig.AuthorizeAny())
}

// ATTACKS 36 and 37: what happens to an open connection, with a stream idle on it, when one end is no longer good. Each case is run
// three times: with our server, with our client, and with the ordinary configuration at both ends, where it goes on.
func TestOpenConnection(t *testing.T) {
	t.Parallel()
	for _, c := range []struct {
		name string
		// spoil makes the client's identity one that the server may no longer believe, and the server's one that the client may not;
		// it returns the moment from which this holds.
		spoil func(t *testing.T, w *world) time.Time
		// life is how long the SVIDs live.
		life time.Duration
	}{
		{name: "ATTACKS 36: its SVID expires", life: 2 * time.Second, spoil: func(_ *testing.T, w *world) time.Time {
			return w.client.svid.Certificates[0].NotAfter
		}},
		{name: "ATTACKS 37: its authority leaves the bundle", life: time.Hour, spoil: func(t *testing.T, w *world) time.Time {
			other := meshtest.NewCA(t, "bank.test").Bundle()
			w.server.trust(other)
			w.client.trust(other)
			return time.Now()
		}},
		{name: "its trust domain is no longer federated", life: time.Hour, spoil: func(_ *testing.T, w *world) time.Time {
			w.server.trust()
			w.client.trust()
			return time.Now()
		}},
		{name: "ATTACKS 22: the own identity is withdrawn", life: time.Hour, spoil: func(_ *testing.T, w *world) time.Time {
			withdraw := func(o *owner) { o.svid, o.err = nil, identity.ErrWithdrawn }
			w.server.set(withdraw)
			w.client.set(withdraw)
			return time.Now()
		}},
	} {
		for _, ours := range []string{"our server", "our client", "neither"} {
			t.Run(c.name+", "+ours, func(t *testing.T) {
				t.Parallel()
				w := newWorld(t)
				w.server.svid = w.ca.SVID(t, "/ledger", meshtest.Lifetime(c.life))
				w.client.svid = w.ca.SVID(t, "/payments", meshtest.Lifetime(c.life))
				server, client := ordinary(w)
				switch ours {
				case "our server":
					server = w.inbound.Server()
				case "our client":
					client = w.outbound.Client(w.id("/ledger"))
				}
				stub := dial(t, serve(t, server), client)
				stream := watch(t, stub)
				ended := make(chan error, 1)
				go func() {
					_, err := stream.Recv()
					ended <- err
				}()
				from := c.spoil(t, w)
				// It takes milliseconds and may take a second; a machine that is busy with other tests gets more.
				wait := 5 * time.Second
				if ours == "neither" {
					wait = time.Second
				}
				limit := time.NewTimer(time.Until(from) + wait)
				select {
				case err := <-ended:
					limit.Stop()
					if early := time.Until(from); ours == "neither" || early > 0 {
						t.Errorf("the stream ended %v before the time: %v", early, err)
					}
					if err := check(t.Context(), stub); err == nil {
						t.Error("a call got through afterwards")
					}
				case <-limit.C:
					if ours != "neither" {
						t.Errorf("the stream goes on %v later", wait)
					} else if err := check(t.Context(), stub); err != nil {
						t.Errorf("ordinary: calls are expected to go on: %v", err)
					}
				}
			})
		}
	}
}

// A rotation of SVIDs and a new authority beside the old one cut nothing (ATTACKS 33, 34).
func TestRotationCutsNothing(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	stub := dial(t, serve(t, w.inbound.Server()), w.outbound.Client(w.id("/ledger")))
	stream := watch(t, stub)
	swept := w.inbound.Sweeps()
	for range 20 {
		w.ca.NewRoot(t)
		bundle := x509bundle.NewSet(w.ca.Bundle())
		for end, path := range map[*owner]string{w.server: "/ledger", w.client: "/payments"} {
			svid := w.ca.SVID(t, path)
			end.set(func(o *owner) { o.svid, o.bundles = svid, bundle })
		}
		if err := check(t.Context(), stub); err != nil {
			t.Fatal(err)
		}
	}
	eventually(t, "the connections are verified anew", func() bool { return w.inbound.Sweeps() > swept })
	if got := len(w.inbound.Conns()) + len(w.outbound.Conns()); got != 2 {
		t.Errorf("%d connections, want the first one at each end", got)
	}
	_ = stream.CloseSend()
}

// A handshake that a change of the bundles overtakes is verified again.
func TestHandshakeOvertakenByBundleChange(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	other := meshtest.NewCA(t, "bank.test").Bundle()
	var once sync.Once
	w.server.mu.Lock()
	w.server.looked = func() {
		once.Do(func() {
			swept := w.inbound.Sweeps()
			w.server.trust(other)
			for w.inbound.Sweeps() == swept {
				runtime.Gosched()
			}
		})
	}
	w.server.mu.Unlock()
	err := check(t.Context(), dial(t, serve(t, w.inbound.Server()), w.outbound.Client(w.id("/ledger"))))
	if err == nil {
		t.Error("a call got through on a connection whose peer's authority was gone when it opened")
	}
}

func TestConns(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	stub := dial(t, serve(t, w.inbound.Server()), w.outbound.Client(w.id("/ledger")))
	if err := check(t.Context(), stub); err != nil {
		t.Fatal(err)
	}
	for _, c := range []struct {
		conns     []transport.Conn
		direction transport.Direction
		peer      string
	}{
		{w.inbound.Conns(), transport.Inbound, "/payments"},
		{w.outbound.Conns(), transport.Outbound, "/ledger"},
	} {
		if len(c.conns) != 1 {
			t.Fatalf("%v: %d connections", c.direction, len(c.conns))
		}
		if got := c.conns[0]; got.Direction != c.direction || got.Peer.ID != w.id(c.peer) || got.RemoteAddr == "" || got.Opened.IsZero() {
			t.Errorf("%v: %+v", c.direction, got)
		}
	}
	if err := w.outbound.Close(); err != nil {
		t.Fatal(err)
	}
	eventually(t, "the other end forgets the connection", func() bool { return len(w.inbound.Conns()) == 0 })
	if err := check(t.Context(), stub); status.Code(err) != codes.Unavailable {
		t.Errorf("after Close: %v", err)
	}
}

// Ten thousand connections need no goroutine each, and are all cut in one sweep. It is logged how long that took; five seconds is what a busy
// machine may need for it under the race detector.
func TestManyConnections(t *testing.T) {
	const many = 10_000
	ca := meshtest.NewCA(t, "bank.test")
	id := newOwner(ca.SVID(t, "/ledger"), ca.Bundle())
	r := newRegistry(t, id)
	peer, err := identity.NewVerifier(id).Verify(ca.SVID(t, "/payments").Certificates)
	if err != nil {
		t.Fatal(err)
	}
	before := runtime.NumGoroutine()
	for range many {
		near, far := net.Pipe()
		if err := r.Adopt(peer, near); err != nil {
			t.Fatal(err)
		}
		_ = far.Close()
	}
	if extra := runtime.NumGoroutine() - before; extra > 10 {
		t.Errorf("%d goroutines more", extra)
	}
	swept := r.Sweeps()
	id.set(func(o *owner) { o.svid = ca.SVID(t, "/ledger") })
	eventually(t, "all are verified anew", func() bool { return r.Sweeps() > swept })
	if got := len(r.Conns()); got != many {
		t.Errorf("%d connections left after a rotation", got)
	}
	start := time.Now()
	id.trust(meshtest.NewCA(t, "bank.test").Bundle())
	eventually(t, "all are cut", func() bool { return r.Live() == 0 })
	if took := time.Since(start); took > 5*time.Second {
		t.Errorf("cutting %d connections took %v", many, took)
	} else {
		t.Logf("cut %d connections in %v", many, took)
	}
}
