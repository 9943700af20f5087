package transport_test

import (
	"context"
	"crypto/x509"
	"log/slog"
	"runtime"
	"sync"
	"sync/atomic"
	"testing"
	"time"
	"weak"

	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/peer"
	"google.golang.org/grpc/status"

	"github.com/countersign-mesh/countersign/pkg/identity"
	"github.com/countersign-mesh/countersign/pkg/meshtest"
	"github.com/countersign-mesh/countersign/pkg/transport"
)

// stuckLog is a log handler that stands still at its first line, until it is let go.
type stuckLog struct {
	stands, goOn chan struct{}
	once         sync.Once
}

func (*stuckLog) Enabled(context.Context, slog.Level) bool { return true }
func (h *stuckLog) WithAttrs([]slog.Attr) slog.Handler     { return h }
func (h *stuckLog) WithGroup(string) slog.Handler          { return h }

func (h *stuckLog) Handle(context.Context, slog.Record) error {
	h.once.Do(func() { close(h.stands) })
	<-h.goOn
	return nil
}

// newStuckRegistry returns a registry whose log stands still until the test ends.
func newStuckRegistry(t *testing.T, id transport.Identity, opts ...transport.Option) (*transport.Registry, *stuckLog) {
	t.Helper()
	log := &stuckLog{stands: make(chan struct{}), goOn: make(chan struct{})}
	r := newRegistry(t, id, append(opts, transport.WithLogger(slog.New(log)))...)
	t.Cleanup(func() { close(log.goOn) }) // before the registry's Close, which waits for what it logs
	return r, log
}

// takesNoCalls fails unless a call on each of these connections is refused.
func takesNoCalls(t *testing.T, links ...*link) {
	t.Helper()
	for i, l := range links {
		ctx := peer.NewContext(t.Context(), &peer.Peer{AuthInfo: l.info})
		if err := transport.CheckLive(ctx); status.Code(err) != codes.Unauthenticated {
			t.Errorf("connection %d: CheckLive = %v", i, err)
		}
	}
}

// However slow the log is, all connections whose authority is no longer trusted are dead before the first of them is logged, and their sockets are
// closed.
func TestALogThatStandsStillKeepsNoUntrustedPeerAlive(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	inbound, log := newStuckRegistry(t, w.server)
	w.inbound = inbound
	var links []*link
	for range 5 {
		links = append(links, newLink(t, w.inbound.Server(), w.outbound.Client(w.id("/ledger"))))
	}
	w.server.trust(meshtest.NewCA(t, "bank.test").Bundle())
	<-log.stands
	takesNoCalls(t, links...)
	if left := w.inbound.Conns(); len(left) > 0 {
		t.Errorf("%d connections are left", len(left))
	}
	eventually(t, "the sockets are closed", func() bool { return w.inbound.Held() == 0 })
}

// However slow the log is, connections expire one after another, and their sockets are closed.
func TestALogThatStandsStillKeepsNoExpiredPeerAlive(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	var ahead atomic.Int64
	clock := func() time.Time { return time.Now().Round(0).Add(time.Duration(ahead.Load())) }
	inbound, log := newStuckRegistry(t, w.server, transport.WithClock(clock), transport.WithoutRenewal(),
		transport.WithVerifier(identity.NewVerifier(w.server, identity.WithClock(clock))))
	w.inbound = inbound
	var links []*link
	for i := range 3 {
		w.client.set(func(o *owner) {
			o.svid = w.ca.SVID(t, "/payments", meshtest.Lifetime(time.Duration(i+1)*10*time.Minute))
		})
		links = append(links, newLink(t, w.inbound.Server(), w.outbound.Client(w.id("/ledger"))))
	}
	for i := range links {
		ahead.Add(int64(10*time.Minute + time.Second))
		eventually(t, "the next connection expires", func() bool { return len(w.inbound.Conns()) == len(links)-i-1 })
		<-log.stands
		takesNoCalls(t, links[:i+1]...)
	}
	eventually(t, "the sockets are closed", func() bool { return w.inbound.Held() == 0 })
}

// cutLines is a log handler that counts the lines of cuts, and what they say was not logged before them.
type cutLines struct{ lines, left atomic.Int64 }

func (c *cutLines) Enabled(context.Context, slog.Level) bool { return true }
func (c *cutLines) WithAttrs([]slog.Attr) slog.Handler       { return c }
func (c *cutLines) WithGroup(string) slog.Handler            { return c }

func (c *cutLines) Handle(_ context.Context, line slog.Record) error {
	if line.Message != "connection cut" {
		return nil
	}
	line.Attrs(func(a slog.Attr) bool {
		if a.Key == "not_logged_before" {
			c.left.Add(a.Value.Int64())
		}
		return true
	})
	c.lines.Add(1)
	return nil
}

// A peer that many connections are cut of does not fill the log: lines come at a bounded rate, and the next one says how many were left out.
func TestCutsAreLoggedAtABoundedRate(t *testing.T) {
	t.Parallel()
	ca := meshtest.NewCA(t, "bank.test")
	id := newOwner(ca.SVID(t, "/judge"), ca.Bundle())
	log := new(cutLines)
	r := newRegistry(t, id, transport.WithLogger(slog.New(log)))
	list := newBlacklist()
	r.Heed(list)
	eventually(t, "the list and the identity are followed", func() bool { return r.Sweeps() >= 2 })
	v, subject := identity.NewVerifier(id), ca.SVID(t, subjectID)
	entry := identity.Revocation{ID: subject.ID, Entry: "policy:1"}
	total := 0
	cut := func(n int) {
		for range n {
			adopt(t, r, v, subject.Certificates...)
		}
		total += n
		for range 2 { // when the second sweep begins, the first has logged all
			swept := r.Sweeps()
			list.revoke(entry)
			eventually(t, "a sweep", func() bool { return r.Sweeps() > swept })
		}
	}
	from := time.Now()
	cut(200)
	if got := len(r.Cuts()); got != total {
		t.Errorf("%d cuts, want %d", got, total)
	}
	if got, most := log.lines.Load(), 21+int64(time.Since(from)/(100*time.Millisecond)); got == 0 || got > most {
		t.Errorf("%d lines of %d cuts, want at most %d", got, total, most)
	}
	eventually(t, "a line says how many cuts were not logged", func() bool {
		cut(1)
		return log.left.Load() > 0 && log.lines.Load()+log.left.Load() == int64(total)
	})
}

// What is remembered of a peer that was cut says who it was, and its authority; what the peer itself sent is let go.
func TestACutKeepsNothingThatThePeerSent(t *testing.T) {
	t.Parallel()
	ca := meshtest.NewCA(t, "bank.test")
	id := newOwner(ca.SVID(t, "/judge"), ca.Bundle())
	r := newRegistry(t, id)
	root := ca.Bundle().X509Authorities()[0]
	before, sent := adoptAnew(t, r, identity.NewVerifier(id), ca.Intermediate(t).SVID(t, subjectID).Certificates)
	id.trust(meshtest.NewCA(t, "bank.test").Bundle())
	eventually(t, "it is cut", func() bool { return len(r.Cuts()) == 1 })
	got := r.Cuts()[0].Peer
	if got.ID != before.ID || got.Serial != before.Serial || !got.NotAfter.Equal(before.NotAfter) {
		t.Errorf("peer = %+v, want that of %+v", got, before)
	}
	if len(got.Chain) != 1 || !got.Chain[0].Equal(root) {
		t.Errorf("a chain of %d certificates is kept, want the authority alone", len(got.Chain))
	}
	eventually(t, "what the peer sent is let go", func() bool {
		runtime.GC()
		for _, cert := range sent {
			if cert.Value() != nil {
				return false
			}
		}
		return true
	})
	runtime.KeepAlive(r)
}

// adoptAnew is adopt of a chain that is parsed anew, so that the registry alone has it. It returns the peer without its chain, and the certificates
// as long as somebody else has them.
func adoptAnew(t *testing.T, r *transport.Registry, v *identity.Verifier, chain []*x509.Certificate) (identity.Peer, []weak.Pointer[x509.Certificate]) {
	t.Helper()
	var anew []*x509.Certificate
	var sent []weak.Pointer[x509.Certificate]
	for _, cert := range chain {
		parsed, err := x509.ParseCertificate(cert.Raw)
		if err != nil {
			t.Fatal(err)
		}
		anew, sent = append(anew, parsed), append(sent, weak.Make(parsed))
	}
	peer := adopt(t, r, v, anew...)
	return identity.Peer{ID: peer.ID, Serial: peer.Serial, NotAfter: peer.NotAfter}, sent
}
