package transport_test

import (
	"fmt"
	"sync/atomic"
	"testing"
	"time"

	"github.com/spiffe/go-spiffe/v2/bundle/x509bundle"
	"github.com/spiffe/go-spiffe/v2/spiffegrpc/grpccredentials"
	"github.com/spiffe/go-spiffe/v2/spiffeid"
	"github.com/spiffe/go-spiffe/v2/spiffetls/tlsconfig"
	"github.com/spiffe/go-spiffe/v2/svid/x509svid"
	"google.golang.org/grpc"
	"google.golang.org/grpc/credentials"

	"github.com/countersign-mesh/countersign/pkg/identity"
	"github.com/countersign-mesh/countersign/pkg/meshtest"
	"github.com/countersign-mesh/countersign/pkg/transport"
)

// blacklist is a revocation list that a test changes.
type blacklist struct {
	list    atomic.Pointer[identity.Revocations]
	changed atomic.Pointer[chan struct{}]
	// asked is called when the list has been asked for, before it is handed out.
	asked atomic.Pointer[func()]
}

func newBlacklist() *blacklist {
	b := new(blacklist)
	next := make(chan struct{})
	b.changed.Store(&next)
	return b
}

func (b *blacklist) Revocations() *identity.Revocations {
	list := b.list.Load()
	if asked := b.asked.Load(); asked != nil {
		(*asked)()
	}
	return list
}

func (b *blacklist) Changed() <-chan struct{} { return *b.changed.Load() }

func (b *blacklist) revoke(entries ...identity.Revocation) {
	list, err := identity.NewRevocations(entries...)
	if err != nil {
		panic(err)
	}
	b.list.Store(list)
	next := make(chan struct{})
	close(*b.changed.Swap(&next))
}

// scene is three workloads: judge, whose connections are looked at; subject, which stops being good; and good, which stays so. Either
// judge serves the two, or it dials them.
type scene struct {
	direction transport.Direction
	// ca is the authority that signs now, old the one that signed before, still in every bundle; partner is a federated one.
	ca, old, partner *meshtest.CA

	judge, subject, good *owner
	conns                *transport.Registry
	list                 *blacklist
	// expelled is what go-spiffe's authorizer goes by, at the end of the judge in the ordinary configuration.
	expelled atomic.Bool
}

const subjectID = "/subject"

// newScene makes a scene in which svid makes the subject's SVID.
func newScene(t *testing.T, direction transport.Direction, svid func(t *testing.T, s *scene) *x509svid.SVID) *scene {
	t.Helper()
	s := &scene{direction: direction, ca: meshtest.NewCA(t, "bank.test"), old: meshtest.NewCA(t, "bank.test"), partner: meshtest.NewCA(t, "partner.test")}
	own := s.old.Bundle()
	for _, root := range s.ca.Bundle().X509Authorities() {
		own.AddX509Authority(root)
	}
	all := []*x509bundle.Bundle{own, s.partner.Bundle()}
	s.judge = newOwner(s.ca.SVID(t, "/judge"), all...)
	s.good = newOwner(s.ca.SVID(t, "/good"), all...)
	s.subject = newOwner(svid(t, s), all...)
	s.list = newBlacklist()
	s.conns = newRegistry(t, s.judge, transport.WithoutRenewal())
	s.conns.Heed(s.list)
	return s
}

// sleepUntilExpiry makes the moment come at which the subject's SVID expires.
func (s *scene) sleepUntilExpiry() {
	pass(time.Until(s.subject.svid.Certificates[0].NotAfter))
}

// link connects the judge with a peer, with our credentials at the judge's end or with the ordinary ones.
func (s *scene) link(t *testing.T, peer *owner, ordinary bool) (*desk, *grpc.ClientConn) {
	t.Helper()
	server, client := s.peerEnd(peer, s.direction == transport.Outbound), s.judgeEnd(peer.svid.ID, s.direction == transport.Outbound, ordinary)
	if s.direction == transport.Inbound {
		server, client = s.judgeEnd(peer.svid.ID, false, ordinary), s.peerEnd(peer, false)
	}
	d := openDesk(t, server, false)
	conn := d.client(t, client)
	return d, conn
}

// peerEnd is the credentials of a peer of the judge: go-spiffe's, so that nothing at its end interferes.
func (s *scene) peerEnd(peer *owner, serves bool) credentials.TransportCredentials {
	if serves {
		return grpccredentials.MTLSServerCredentials(peer, peer, tlsconfig.AuthorizeAny())
	}
	return grpccredentials.MTLSClientCredentials(peer, peer, tlsconfig.AuthorizeAny())
}

func (s *scene) judgeEnd(peer spiffeid.ID, dials, ordinary bool) credentials.TransportCredentials {
	authorizer := tlsconfig.AdaptMatcher(func(id spiffeid.ID) error {
		if s.expelled.Load() {
			return fmt.Errorf("%s is expelled", id)
		}
		return nil
	})
	switch {
	case ordinary && dials:
		return grpccredentials.MTLSClientCredentials(s.judge, s.judge, authorizer)
	case ordinary:
		return grpccredentials.MTLSServerCredentials(s.judge, s.judge, authorizer)
	case dials:
		return s.conns.Client(peer)
	}
	return s.conns.Server()
}
