package mesh_test

import (
	"context"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/spiffe/go-spiffe/v2/bundle/x509bundle"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"

	"github.com/countersign-mesh/countersign/pkg/identity"
	"github.com/countersign-mesh/countersign/pkg/meshtest"
	"github.com/countersign-mesh/countersign/pkg/transport"
)

const (
	rotations     = 100
	rotationPause = 120 * time.Millisecond
	// svidLife is long enough for a connection to be renewed, and short enough for that to happen several times.
	svidLife = 6 * time.Second
	// The authority goes through its phases at these rotations. Between active and retired every SVID of the old one expires.
	prepared, active, retired = 10, 20, 80
)

// ATTACKS 33 and 34: the SVIDs of both ends rotate a hundred times and their authority once, while calls are made that are not retried.
// No call fails. A stream may be asked to come again. Then chains of the old authority are refused.
func TestRotationsCostNoCall(t *testing.T) {
	t.Parallel()
	paths := []string{"/one", "/two", "/laggard"}
	w := newWorld(t, paths)
	w.server.take(w.ca.SVID(t, "/ledger", meshtest.Lifetime(svidLife)), w.first)
	one := w.caller(t, w.ca.SVID(t, "/one", meshtest.Lifetime(svidLife)))
	two := w.caller(t, w.ca.SVID(t, "/two", meshtest.Lifetime(svidLife)))
	laggard := w.caller(t, w.ca.SVID(t, "/laggard")) // it keeps its SVID, which is valid for an hour
	if err := say(t.Context(), laggard.conn); err != nil {
		t.Fatal(err)
	}
	ctx, stop := context.WithCancel(context.WithoutCancel(t.Context()))
	defer stop()
	var using sync.WaitGroup
	defer using.Wait()
	defer stop()
	var called, reopened atomic.Int64
	using.Go(func() { callUntil(ctx, t, one, &called) })
	using.Go(func() { streamUntil(ctx, t, two, &called, &reopened) })

	ends := map[string]*owner{"/ledger": w.server, "/one": one.id, "/two": two.id}
	pause := time.NewTicker(rotationPause)
	defer pause.Stop()
	for n := range rotations {
		<-pause.C
		signer, bundle := w.phase(n)
		for path, id := range ends {
			id.take(signer.SVID(t, path, meshtest.Lifetime(svidLife)), bundle)
		}
		if n == retired {
			w.rules.replace(t, echoPolicy(paths, "authority: "+identity.AuthorityOf(w.first.X509Authorities()[0])))
		}
	}
	stop()
	using.Wait()
	stats := w.conns.Stats()
	t.Logf("%d rotations: %d calls and messages, %d connections, %d of them renewed, %d streams opened again",
		rotations, called.Load(), stats.Handshakes[transport.Inbound], stats.Renewed, reopened.Load())
	if called.Load() < rotations || stats.Renewed < 2 || reopened.Load() == 0 {
		t.Error("that is too little for the rotations to have been felt")
	}
	for _, cut := range w.conns.Cuts() {
		if cut.Peer.ID.Path() != "/laggard" {
			t.Errorf("the connection of %s was cut: %s", cut.Peer.ID, cut.Detail)
		}
	}
	if err := say(t.Context(), laggard.conn); err == nil {
		t.Error("a chain of the authority that was retired and revoked is accepted")
	}
}

// phase is who signs at a rotation and what the bundle has then.
func (w *world) phase(n int) (signer *meshtest.CA, bundle *x509bundle.Bundle) {
	switch {
	case n < prepared:
		return w.ca, w.first
	case n < active:
		return w.ca, w.both
	case n < retired:
		return w.others, w.both
	default:
		return w.others, w.second
	}
}

// callUntil makes unary calls until ctx ends. None may fail.
func callUntil(ctx context.Context, t *testing.T, c *caller, called *atomic.Int64) {
	for ctx.Err() == nil {
		if err := say(context.WithoutCancel(ctx), c.conn); err != nil {
			t.Errorf("a call failed: %v", err)
			return
		}
		called.Add(1)
		<-time.After(time.Millisecond)
	}
}

// streamUntil exchanges messages on a stream until ctx ends, and opens another one when it is told that the server is not available on this
// connection any more.
func streamUntil(ctx context.Context, t *testing.T, c *caller, called, reopened *atomic.Int64) {
	streaming, cancel := context.WithCancel(context.WithoutCancel(ctx))
	defer cancel()
	for ctx.Err() == nil {
		stream, err := talk(streaming, c.conn)
		for err == nil && ctx.Err() == nil {
			if err = exchange(stream); err == nil {
				called.Add(1)
				<-time.After(time.Millisecond)
			}
		}
		switch {
		case err == nil:
		case status.Code(err) == codes.Unavailable:
			reopened.Add(1)
		default:
			t.Errorf("a stream ended: %v", err)
			return
		}
	}
}

// ATTACKS 37: an entry that is taken off the list again lets the peer back in, without hands.
func TestAPeerThatIsNoLongerRevokedComesBack(t *testing.T) {
	t.Parallel()
	w := newWorld(t, doomedAndGood)
	doomed := w.caller(t, w.ca.SVID(t, "/doomed"))
	if err := say(t.Context(), doomed.conn); err != nil {
		t.Fatal(err)
	}
	w.rules.replace(t, echoPolicy(doomedAndGood, "id: /doomed"))
	eventually(t, "the peer is refused, and at new handshakes too", func() bool {
		return say(t.Context(), doomed.conn) != nil && len(w.conns.Conns()) == 0
	})
	from := w.rules.replace(t, echoPolicy(doomedAndGood))
	var last error
	eventually(t, "the peer is back", func() bool {
		last = say(t.Context(), doomed.conn)
		return last == nil
	})
	// The policy is in force within a second; then the client's next attempt is at most 2 s away, a fifth more or less.
	t.Logf("back %v after the file was in place", time.Since(from).Round(time.Millisecond))
}
