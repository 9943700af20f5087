package transport_test

import (
	"context"
	"crypto/x509"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"

	"github.com/countersign-mesh/countersign/pkg/meshtest"
	"github.com/countersign-mesh/countersign/pkg/transport"
)

// resign gives an end an SVID of the authority that signs now.
func (w *world) resign(t *testing.T, end *owner, path string) {
	t.Helper()
	svid := w.ca.SVID(t, path)
	end.set(func(o *owner) { o.svid = svid })
}

// An authority is replaced ahead of its time: prepared, activated, and gone from the bundle as soon as every connection had the time to move, which is long before
// one of its SVIDs expires. No call fails, no connection is cut, and a stream that stays is told to come again. It does not matter which end gets its new
// SVID first: each moves what it has shown an SVID of the old authority on.
func TestAnAuthorityIsReplacedAheadOfItsTime(t *testing.T) {
	t.Parallel()
	const within, grace = time.Second, 2 * time.Second
	for name, order := range map[string]func(w *world) []func(t *testing.T){
		"the server is first": func(w *world) []func(t *testing.T) {
			return []func(t *testing.T){
				func(t *testing.T) { w.resign(t, w.server, "/ledger") }, func(t *testing.T) { w.resign(t, w.client, "/payments") },
			}
		},
		"the client is first": func(w *world) []func(t *testing.T) {
			return []func(t *testing.T){
				func(t *testing.T) { w.resign(t, w.client, "/payments") }, func(t *testing.T) { w.resign(t, w.server, "/ledger") },
			}
		},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			w := newWorld(t)
			w.inbound, w.outbound = newRegistry(t, w.server, transport.WithMove(within, grace)), newRegistry(t, w.client, transport.WithMove(within, grace))
			conn := openDesk(t, w.inbound.Server(), true).client(t, w.outbound.Client(w.id("/ledger")))
			stream := feed(t.Context(), t, conn, 0)
			ctx, stop := context.WithCancel(t.Context())
			var calling sync.WaitGroup
			var calls int64
			var failed error
			calling.Go(func() { calls, failed = callers(ctx, conn, time.Millisecond) })
			defer calling.Wait()
			defer stop()

			w.ca.NewRoot(t)
			w.trust(w.ca.Bundle())
			pass(100 * time.Millisecond)
			if renewed := w.inbound.Stats().Renewed + w.outbound.Stats().Renewed; renewed > 0 {
				t.Errorf("%d connections are renewed though nothing is signed by the new authority", renewed)
			}
			for _, resign := range order(w) {
				resign(t)
				pass(within + 100*time.Millisecond)
			}
			pass(grace)
			select {
			case err := <-stream:
				if status.Code(err) != codes.Unavailable {
					t.Errorf("the stream: %v; it is to come again", err)
				}
			default:
				t.Error("the stream goes on")
			}
			w.ca.Retire()
			w.trust(w.ca.Bundle())
			pass(time.Second)
			stop()
			calling.Wait()

			if failed != nil || calls == 0 {
				t.Errorf("of %d calls one failed: %v", calls, failed)
			}
			if cut := append(w.inbound.Cuts(), w.outbound.Cuts()...); len(cut) > 0 {
				t.Errorf("cut: %+v", cut)
			}
			in, out := w.inbound.Stats(), w.outbound.Stats()
			if in.Renewed == 0 || out.Renewed == 0 {
				t.Errorf("renewed by the server: %d, by the client: %d", in.Renewed, out.Renewed)
			}
			t.Logf("%d calls over %d connections", calls, in.Handshakes[transport.Inbound])
		})
	}
}

// What only one end knows of, that end sees to; and once: the next connection is made with the new SVID and stays.
func TestEachEndMovesForItself(t *testing.T) {
	t.Parallel()
	for name, c := range map[string]struct {
		resign func(t *testing.T, w *world)
		mover  func(w *world) *transport.Registry
	}{
		"the server has a new authority": {
			func(t *testing.T, w *world) { w.resign(t, w.server, "/ledger") }, func(w *world) *transport.Registry { return w.inbound },
		},
		"the client has a new authority": {
			func(t *testing.T, w *world) { w.resign(t, w.client, "/payments") }, func(w *world) *transport.Registry { return w.outbound },
		},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			bubble(t, func(t *testing.T) {
				w := newWorld(t)
				d := openDesk(t, w.inbound.Server(), false)
				const conns = 40
				var all []*grpc.ClientConn
				for range conns {
					all = append(all, d.client(t, w.outbound.Client(w.id("/ledger"))))
				}
				use := func() {
					for _, conn := range all {
						if err := wait(t.Context(), conn, 0); err != nil {
							t.Fatal(err)
						}
					}
				}
				use()
				w.ca.NewRoot(t)
				w.trust(w.ca.Bundle())
				synctest.Wait()
				c.resign(t, w)
				renewed := func() uint64 { return c.mover(w).Stats().Renewed }
				pass(5 * time.Second)
				synctest.Wait()
				if n := renewed(); n < conns/5 || n > conns*4/5 {
					t.Errorf("%d of %d connections are renewed after half of the time: they come all at once, or late", n, conns)
				}
				use()
				pass(5 * time.Second)
				synctest.Wait()
				use()
				if n := renewed(); n != conns {
					t.Errorf("%d of %d connections are renewed in time", n, conns)
				}
				// From here on there is nothing to do for a while.
				pass(5 * time.Minute)
				synctest.Wait()
				use()
				if in, out := w.inbound.Stats().Renewed, w.outbound.Stats().Renewed; in+out != conns {
					t.Errorf("renewed by the server: %d, by the client: %d, with %d connections", in, out, conns)
				}
				if n := w.inbound.Stats().Handshakes[transport.Inbound]; n != 2*conns {
					t.Errorf("%d handshakes for %d connections", n, conns)
				}
			})
		})
	}
}

// An SVID that is renewed by the same authority, as each is many times a day, moves nothing.
func TestANewSVIDOfTheSameAuthorityMovesNothing(t *testing.T) {
	t.Parallel()
	bubble(t, func(t *testing.T) {
		w := newWorld(t)
		conn := openDesk(t, w.inbound.Server(), false).client(t, w.outbound.Client(w.id("/ledger")))
		for range 10 {
			w.resign(t, w.server, "/ledger")
			w.resign(t, w.client, "/payments")
			if err := wait(t.Context(), conn, time.Minute); err != nil {
				t.Fatal(err)
			}
		}
		if n := w.inbound.Stats().Handshakes[transport.Inbound]; n != 1 {
			t.Errorf("%d connections", n)
		}
	})
}

// Calls that are in flight when a connection moves have half a minute. Those that take longer end with the status that tells their callers to come again,
// whichever end the connection is moved by.
func TestCallsInFlightHaveTimeWhenAConnectionMoves(t *testing.T) {
	t.Parallel()
	for name, resign := range map[string]func(t *testing.T, w *world){
		"the server moves": func(t *testing.T, w *world) { w.resign(t, w.server, "/ledger") },
		"the client moves": func(t *testing.T, w *world) { w.resign(t, w.client, "/payments") },
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			bubble(t, func(t *testing.T) {
				w := newWorld(t)
				conn := openDesk(t, w.inbound.Server(), false).client(t, w.outbound.Client(w.id("/ledger")))
				stream, short, long := feed(t.Context(), t, conn, 0), begin(t, conn, 30*time.Second), begin(t, conn, time.Minute)
				synctest.Wait()
				w.ca.NewRoot(t)
				w.trust(w.ca.Bundle())
				synctest.Wait()
				resign(t, w)
				began := time.Now()
				if err := <-short; err != nil {
					t.Errorf("a call of half a minute: %v", err)
				}
				for what, ended := range map[string]<-chan error{"a stream": stream, "a call of a minute": long} {
					if err := <-ended; status.Code(err) != codes.Unavailable || time.Since(began) > 41*time.Second {
						t.Errorf("%s: %v after %v", what, err, time.Since(began))
					}
				}
				if cut := append(w.inbound.Cuts(), w.outbound.Cuts()...); len(cut) > 0 {
					t.Errorf("cut: %+v", cut)
				}
			})
		})
	}
}

func TestWhichChainsAreOfTheSameAuthority(t *testing.T) {
	t.Parallel()
	ca, other := meshtest.NewCA(t, "bank.test"), meshtest.NewCA(t, "bank.test")
	below, beside := ca.Intermediate(t), ca.Intermediate(t)
	chain := func(ca *meshtest.CA) []*x509.Certificate { return ca.SVID(t, "/ledger").Certificates }
	first, second := chain(ca), chain(below)
	unnamed := meshtest.NewCA(t, "bank.test", func(c *x509.Certificate) { c.Subject.CommonName = "the one name of all" })
	rekeyed := meshtest.NewCA(t, "bank.test", func(c *x509.Certificate) { c.Subject.CommonName = "the one name of all" })
	for name, c := range map[string]struct {
		a, b []*x509.Certificate
		want bool
	}{
		"the same SVID":                                 {first, first, true},
		"two SVIDs of a root":                           {first, chain(ca), true},
		"two SVIDs of an intermediate":                  {second, chain(below), true},
		"of two roots":                                  {first, chain(other), false},
		"of two roots with one name":                    {chain(unnamed), chain(rekeyed), false},
		"of a root and of an intermediate":              {first, second, false},
		"of two intermediates below a root":             {second, chain(beside), false},
		"one leaf below an intermediate that has moved": {second, []*x509.Certificate{second[0], chain(other.Intermediate(t))[1]}, false},
	} {
		if got := transport.SameAuthority(c.a, c.b); got != c.want {
			t.Errorf("%s: %t", name, got)
		}
		if got := transport.SameAuthority(c.b, c.a); got != c.want {
			t.Errorf("%s, the other way round: %t", name, got)
		}
	}
}
