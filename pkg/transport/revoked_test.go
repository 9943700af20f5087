package transport_test

import (
	"crypto/x509"
	"math/rand/v2"
	"net"
	"runtime"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/spiffe/go-spiffe/v2/bundle/x509bundle"
	"github.com/spiffe/go-spiffe/v2/spiffeid"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/peer"
	"google.golang.org/grpc/status"

	"github.com/countersign-mesh/countersign/pkg/identity"
	"github.com/countersign-mesh/countersign/pkg/meshtest"
	"github.com/countersign-mesh/countersign/pkg/transport"
)

// A peer whose chain also leads to another authority is not cut when one of the two is revoked, and is when both are.
func TestAPeerWithAnotherPathIsNotCut(t *testing.T) {
	t.Parallel()
	ca := meshtest.NewCA(t, "bank.test")
	subject := spiffeid.RequireFromPath(ca.TrustDomain(), subjectID)
	old, renewed, leaf := renewedAuthority(t, subject.URL(), time.Hour)
	id := newOwner(ca.SVID(t, "/judge"), x509bundle.FromX509Authorities(ca.TrustDomain(), []*x509.Certificate{old, renewed}))
	r := newRegistry(t, id)
	list := newBlacklist()
	r.Heed(list)
	peer, err := identity.NewVerifier(id).Verify([]*x509.Certificate{leaf})
	if err != nil {
		t.Fatal(err)
	}
	near, far := net.Pipe()
	defer far.Close()
	if err := r.Adopt(peer, near); err != nil {
		t.Fatal(err)
	}
	taken := peer.Chain[1]
	other := map[bool]*x509.Certificate{true: renewed, false: old}[taken.Equal(old)]
	revoked := identity.Revocation{Authority: identity.AuthorityOf(taken), Entry: "policy:1"}
	list.revoke(revoked)
	eventually(t, "it verifies by way of the other authority", func() bool { return newest(r).Peer != nil && newest(r).Peer.Chain[1].Equal(other) })
	if cuts := r.Cuts(); len(cuts) > 0 {
		t.Errorf("cut: %+v", cuts)
	}
	list.revoke(revoked, identity.Revocation{Authority: identity.AuthorityOf(other), Entry: "policy:2"})
	eventually(t, "it is cut", func() bool { return len(r.Conns()) == 0 && len(r.Cuts()) == 1 })
	if got := r.Cuts()[0]; got.Reason != transport.Revoked {
		t.Errorf("cut: %+v", got)
	}
}

// A handshake that a revocation overtakes, after its verification has asked the list and before the connection is entered, is verified again.
func TestHandshakeOvertakenByRevocation(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	list := newBlacklist()
	w.inbound.Heed(list)
	eventually(t, "the list is followed", func() bool { return w.inbound.Sweeps() >= 2 })
	var once sync.Once
	asked := func() {
		once.Do(func() {
			swept := w.inbound.Sweeps()
			list.revoke(identity.Revocation{ID: w.client.svid.ID, Entry: "policy:1"})
			for w.inbound.Sweeps() == swept {
				runtime.Gosched()
			}
		})
	}
	list.asked.Store(&asked)
	if _, err := tryLink(t, w.inbound.Server(), w.outbound.Client(w.id("/ledger"))); err == nil || !strings.Contains(err.Error(), "policy:1") {
		t.Errorf("the handshake: %v", err)
	}
	if got := w.inbound.Held(); got != 0 {
		t.Errorf("the registry holds %d connections", got)
	}
}

// However a revocation and a handshake meet, no connection of the revoked peer is left and none takes calls.
func TestHandshakesRaceRevocations(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	list := newBlacklist()
	w.inbound.Heed(list)
	client := w.outbound.Client(w.id("/ledger"))
	entry := identity.Revocation{ID: w.client.svid.ID, Entry: "policy:1"}
	random := rand.New(rand.NewPCG(1, 0))
	made, usual := 0, 4*time.Millisecond
	for range 100 {
		list.revoke()
		delay, start := time.Duration(random.Int64N(int64(2*usual))), time.Now()
		revoked := make(chan struct{})
		go func() {
			defer close(revoked)
			<-time.After(delay)
			list.revoke(entry)
		}()
		l, err := tryLink(t, w.inbound.Server(), client)
		took := time.Since(start)
		<-revoked
		if err != nil {
			continue
		}
		made, usual = made+1, took
		ctx := peer.NewContext(t.Context(), &peer.Peer{AuthInfo: l.info})
		eventually(t, "the connection takes no calls", func() bool { return status.Code(transport.CheckLive(ctx)) == codes.Unauthenticated })
		eventually(t, "the connection is not listed", func() bool { return len(w.inbound.Conns()) == 0 })
		l.close()
	}
	t.Logf("%d of 100 handshakes were made before the revocation, and cut", made)
}
