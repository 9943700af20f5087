package transport_test

import (
	"crypto/x509"
	"net"
	"sync/atomic"
	"testing"
	"time"

	"github.com/spiffe/go-spiffe/v2/bundle/x509bundle"
	"github.com/spiffe/go-spiffe/v2/spiffeid"

	"github.com/countersign-mesh/countersign/pkg/identity"
	"github.com/countersign-mesh/countersign/pkg/meshtest"
	"github.com/countersign-mesh/countersign/pkg/transport"
)

// adopt takes in a connection of a peer with this chain, as if a handshake had verified it. It ends with the test.
func adopt(t testing.TB, r *transport.Registry, v *identity.Verifier, chain ...*x509.Certificate) *identity.Peer {
	t.Helper()
	peer, err := v.Verify(chain)
	if err != nil {
		t.Fatal(err)
	}
	near, far := net.Pipe()
	t.Cleanup(func() { _ = far.Close() })
	if err := r.Adopt(peer, near); err != nil {
		t.Fatal(err)
	}
	return peer
}

// A verdict that is slow to come about is not written over the one that overtook it: the first sweep has asked the list and stands still, the
// path that it found good is revoked, and the second sweep finds the other path.
func TestOfTwoVerdictsTheLaterStays(t *testing.T) {
	t.Parallel()
	ca := meshtest.NewCA(t, "bank.test")
	subject := spiffeid.RequireFromPath(ca.TrustDomain(), subjectID)
	old, renewed, leaf := renewedAuthority(t, subject.URL(), time.Hour)
	id := newOwner(ca.SVID(t, "/judge"), x509bundle.FromX509Authorities(ca.TrustDomain(), []*x509.Certificate{old, renewed}))
	r := newRegistry(t, id)
	list := newBlacklist()
	r.Heed(list)
	eventually(t, "the list and the identity are followed", func() bool { return r.Sweeps() >= 2 })
	taken := adopt(t, r, identity.NewVerifier(id), leaf).Chain[1]
	other := map[bool]*x509.Certificate{true: renewed, false: old}[taken.Equal(old)]

	var held atomic.Bool
	released := make(chan struct{})
	id.set(func(o *owner) {
		o.looked = func() {
			if !held.CompareAndSwap(false, true) {
				return
			}
			defer close(released)
			swept := r.Sweeps()
			list.revoke(identity.Revocation{Authority: identity.AuthorityOf(taken), Entry: "policy:1"})
			// The second sweep has to wait for this one. Where it does not, this lets it come to its end first.
			for deadline := time.Now().Add(250 * time.Millisecond); time.Now().Before(deadline); pass(time.Millisecond) {
				if r.Sweeps() > swept && newest(r).Peer.Chain[1].Equal(other) {
					return
				}
			}
		}
	})
	select {
	case <-released:
	case <-time.After(15 * time.Second):
		t.Fatal("the first sweep looked no bundle up")
	}
	eventually(t, "the path through the revoked authority is left", func() bool { return newest(r).Peer.Chain[1].Equal(other) })
	if cuts := r.Cuts(); len(cuts) > 0 {
		t.Errorf("cuts: %+v", cuts)
	}
}

// A peer whose path ends with its authority's life is not cut while another path holds, and is when that ends too.
func TestAPeerWhoseOtherPathHoldsDoesNotExpire(t *testing.T) {
	t.Parallel()
	ca := meshtest.NewCA(t, "bank.test")
	subject := spiffeid.RequireFromPath(ca.TrustDomain(), subjectID)
	short, long, leaf := renewedAuthority(t, subject.URL(), 20*time.Minute)
	bundle := func(roots ...*x509.Certificate) *x509bundle.Bundle {
		return x509bundle.FromX509Authorities(ca.TrustDomain(), roots)
	}
	id := newOwner(ca.SVID(t, "/judge"), bundle(short))
	var ahead atomic.Int64
	clock := func() time.Time { return time.Now().Round(0).Add(time.Duration(ahead.Load())) }
	v := identity.NewVerifier(id, identity.WithClock(clock))
	r := newRegistry(t, id, transport.WithClock(clock), transport.WithVerifier(v))
	adopt(t, r, v, leaf)
	swept := r.Sweeps()
	id.trust(bundle(short, long))
	eventually(t, "a sweep with both authorities", func() bool { return r.Sweeps() > swept })

	ahead.Store(int64(30 * time.Minute))
	eventually(t, "the path has ended", func() bool { return len(r.Cuts()) > 0 || !newest(r).Peer.Chain[1].Equal(short) })
	if left := r.Conns(); len(left) != 1 || !left[0].Peer.Chain[1].Equal(long) || !left[0].Peer.NotAfter.Equal(leaf.NotAfter) {
		t.Errorf("connections: %+v, cuts: %+v; want one by way of the authority that lives longer", left, r.Cuts())
	}
	ahead.Store(int64(2 * time.Hour))
	eventually(t, "it is cut at the end of the other path", func() bool { return len(r.Conns()) == 0 })
	if cuts := r.Cuts(); len(cuts) != 1 || cuts[0].Reason != transport.Expired {
		t.Errorf("cuts: %+v", cuts)
	}
}

// A connection that is closed while a sweep comes to its verdict on it was not cut, and is not counted so.
func TestAConnectionThatWasClosedIsNotCut(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	l := newLink(t, w.inbound.Server(), w.outbound.Client(w.id("/ledger")))
	var closed atomic.Bool
	swept := w.inbound.Sweeps()
	w.server.set(func(o *owner) {
		o.bundles = x509bundle.NewSet(meshtest.NewCA(t, "bank.test").Bundle())
		o.looked = func() {
			if closed.CompareAndSwap(false, true) {
				_ = l.server.Close()
			}
		}
	})
	eventually(t, "the connection is closed during a sweep", closed.Load)
	w.server.set(func(*owner) {})
	eventually(t, "the sweep has ended and the next begun", func() bool { return w.inbound.Sweeps() >= swept+2 })
	if cuts := w.inbound.Cuts(); len(cuts) > 0 {
		t.Errorf("cuts: %+v", cuts)
	}
	for kind, n := range w.inbound.Stats().Cuts {
		if n > 0 {
			t.Errorf("%+v: %d cuts are counted", kind, n)
		}
	}
	if got := w.inbound.Held(); got != 0 {
		t.Errorf("the registry holds %d connections", got)
	}
}
