package transport_test

import (
	"context"
	"net"
	"os"
	"runtime"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"go.uber.org/goleak"

	"github.com/countersign-mesh/countersign/pkg/identity"
	"github.com/countersign-mesh/countersign/pkg/meshtest"
	"github.com/countersign-mesh/countersign/pkg/transport"
)

// soaked returns how many there are to be: few, or many when COUNTERSIGN_SOAK is set, as `make soak` does.
func soaked(few, many int) int {
	if os.Getenv("COUNTERSIGN_SOAK") != "" {
		return many
	}
	return few
}

// descriptors counts this process's open files; zero where that is not to be found out.
func descriptors() int {
	open, err := os.ReadDir("/proc/self/fd")
	if err != nil {
		return 0
	}
	return len(open)
}

// acceptor accepts connections and holds each until its peer closes it or it is cut.
type acceptor struct {
	listener net.Listener
	tasks    sync.WaitGroup
	ended    atomic.Int64
}

func newAcceptor(t *testing.T, r *transport.Registry) *acceptor {
	t.Helper()
	a := &acceptor{listener: listen(t)}
	creds := r.Server()
	a.tasks.Go(func() {
		for {
			raw, err := a.listener.Accept()
			if err != nil {
				return
			}
			a.tasks.Go(func() {
				if conn, _, err := creds.ServerHandshake(raw); err == nil {
					_, _ = conn.Read(make([]byte, 1))
					a.ended.Add(1)
					_ = conn.Close()
				}
			})
		}
	})
	return a
}

// connect makes n connections, as many at once as there are processors.
func (a *acceptor) connect(t *testing.T, w *world, n int, use func(conn net.Conn)) {
	t.Helper()
	client := w.outbound.Client(w.id("/ledger"))
	var left atomic.Int64
	left.Store(int64(n))
	var all sync.WaitGroup
	for range 2 * runtime.GOMAXPROCS(0) {
		all.Go(func() {
			for left.Add(-1) >= 0 {
				raw, err := net.Dial("tcp", a.listener.Addr().String())
				if err != nil {
					t.Error(err)
					return
				}
				conn, _, err := client.ClientHandshake(context.Background(), "ledger:1", raw)
				if err != nil {
					t.Error(err)
					_ = raw.Close()
					return
				}
				use(conn)
			}
		})
	}
	all.Wait()
}

// Thousands of connections are opened and closed, some hundreds are kept, rotated and revoked: nothing is left of them. It runs alone, as it
// counts what the process has.
//
//nolint:paralleltest // see above
func TestNothingIsLeftOfManyConnections(t *testing.T) {
	many, kept := soaked(1000, 10_000), 300
	others, files := goleak.IgnoreCurrent(), descriptors()
	w := newWorld(t)
	list := newBlacklist()
	w.inbound.Heed(list)
	a := newAcceptor(t, w.inbound)

	start := time.Now()
	var closed atomic.Int64
	a.connect(t, w, many, func(conn net.Conn) {
		if closed.Add(1)%4 == 0 {
			raw := conn.(interface{ NetConn() net.Conn }).NetConn() //nolint:errcheck,forcetypeassert // it is TLS
			_ = raw.Close()                                         // without a word, as by a process that dies
		}
		_ = conn.Close()
	})
	eventually(t, "no connection is left", func() bool { return w.inbound.Held()+w.outbound.Held() == 0 })
	t.Logf("%d connections opened and closed in %v", many, time.Since(start).Round(time.Millisecond))

	w.keep(t, a, list, kept)

	if err := w.inbound.Close(); err != nil {
		t.Error(err)
	}
	if err := w.outbound.Close(); err != nil {
		t.Error(err)
	}
	_ = a.listener.Close()
	a.tasks.Wait()
	goleak.VerifyNone(t, others)
	eventually(t, "no descriptor is left", func() bool { return descriptors() <= files })
	if made := w.inbound.Stats().Handshakes[transport.Inbound]; made != uint64(many+kept) || a.ended.Load() != int64(many+kept) {
		t.Errorf("%d handshakes, %d ended; want %d", made, a.ended.Load(), many+kept)
	}
}

// keep opens n connections, rotates what both ends have, and revokes the client.
func (w *world) keep(t *testing.T, a *acceptor, list *blacklist, n int) {
	t.Helper()
	var mu sync.Mutex
	var open []net.Conn
	a.connect(t, w, n, func(conn net.Conn) {
		mu.Lock()
		defer mu.Unlock()
		open = append(open, conn)
	})
	for range 10 {
		w.ca.NewRoot(t)
		for end, path := range map[*owner]string{w.server: "/ledger", w.client: "/payments"} {
			svid, bundle := w.ca.SVID(t, path, meshtest.Lifetime(time.Hour)), w.ca.Bundle()
			end.set(func(o *owner) { o.svid = svid })
			end.trust(bundle)
		}
	}
	eventually(t, "both ends have them all", func() bool { return len(w.inbound.Conns()) == n && len(w.outbound.Conns()) == n })

	start := time.Now()
	list.revoke(identity.Revocation{ID: w.id("/payments"), Entry: "policy:1"})
	eventually(t, "all are cut", func() bool { return w.inbound.Live() == 0 })
	cut := time.Since(start)
	for _, conn := range open {
		_ = conn.SetReadDeadline(time.Now().Add(15 * time.Second))
		_, _ = conn.Read(make([]byte, 1))
	}
	gone := time.Since(start)
	for _, conn := range open {
		_ = conn.Close()
	}
	eventually(t, "the registries have none", func() bool { return w.inbound.Held()+w.outbound.Held() == 0 })
	if got := w.inbound.Stats().Cuts[transport.CutKind{Direction: transport.Inbound, Reason: transport.Revoked}]; got != uint64(n) {
		t.Errorf("%d cuts, want %d", got, n)
	}
	t.Logf("%d connections rotated, revoked and dead after %v, sockets closed after %v", n, cut.Round(time.Millisecond), gone.Round(time.Millisecond))
}
