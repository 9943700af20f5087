package transport_test

import (
	"crypto/x509"
	"fmt"
	"math/rand/v2"
	"net"
	"runtime"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"github.com/spiffe/go-spiffe/v2/bundle/x509bundle"
	"github.com/spiffe/go-spiffe/v2/spiffegrpc/grpccredentials"
	"github.com/spiffe/go-spiffe/v2/spiffeid"
	"github.com/spiffe/go-spiffe/v2/spiffetls/tlsconfig"
	"github.com/spiffe/go-spiffe/v2/svid/x509svid"
	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/connectivity"
	"google.golang.org/grpc/credentials"
	"google.golang.org/grpc/peer"
	"google.golang.org/grpc/status"

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
	b.list.Store(identity.NewRevocations(entries...))
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

// spoiling is a way in which a peer stops being good.
type spoiling struct {
	name   string
	svid   func(t *testing.T, s *scene) *x509svid.SVID // the subject's
	spoil  func(s *scene)
	reason transport.Reason
	detail string // what the Cut says
	rule   string // what a new handshake fails for
	code   codes.Code
	all    bool // the good peer too
}

// plain is an SVID of the present authority.
func plain(t *testing.T, s *scene) *x509svid.SVID { return s.ca.SVID(t, subjectID) }

// below is an SVID of an intermediate authority.
func below(t *testing.T, s *scene) *x509svid.SVID { return s.ca.Intermediate(t).SVID(t, subjectID) }

// byOld is an SVID of the authority before.
func byOld(t *testing.T, s *scene) *x509svid.SVID { return s.old.SVID(t, subjectID) }

func spoilings() []spoiling {
	const gone, own = codes.Unauthenticated, codes.Unavailable
	lose := func(err error) func(s *scene) {
		return func(s *scene) { s.judge.set(func(o *owner) { o.svid, o.err = nil, err }) }
	}
	return []spoiling{
		{
			"ATTACKS 36: its SVID expires", func(t *testing.T, s *scene) *x509svid.SVID {
				return s.ca.SVID(t, subjectID, meshtest.Lifetime(10*time.Second))
			},
			(*scene).sleepUntilExpiry, transport.Expired, "expired", "validity", gone, false,
		},
		{"ATTACKS 36: its intermediate authority expires", func(t *testing.T, s *scene) *x509svid.SVID {
			svid := s.ca.Intermediate(t, meshtest.Lifetime(10*time.Second)).SVID(t, subjectID)
			return svid
		}, func(s *scene) { pass(time.Until(s.subject.svid.Certificates[1].NotAfter)) }, transport.Expired, "expired", "validity", gone, false},
		{
			"ATTACKS 37: its authority leaves the bundle", byOld, func(s *scene) { s.judge.trust(s.ca.Bundle(), s.partner.Bundle()) },
			transport.Untrusted, "verifies no more", "path", gone, false,
		},
		{
			"its trust domain is no longer federated", func(t *testing.T, s *scene) *x509svid.SVID { return s.partner.SVID(t, subjectID) },
			func(s *scene) { s.judge.trust(s.ca.Bundle()) }, transport.Untrusted, "not trusted", "bundle", gone, false,
		},
		{
			"ATTACKS 10: the bundle of its trust domain is empty", func(t *testing.T, s *scene) *x509svid.SVID { return s.partner.SVID(t, subjectID) },
			func(s *scene) { s.judge.trust(s.ca.Bundle(), x509bundle.New(s.partner.TrustDomain())) }, transport.Untrusted, "is empty", "bundle", gone, false,
		},
		{
			"ATTACKS 37: its ID is revoked", plain, func(s *scene) { s.list.revoke(identity.Revocation{ID: s.subject.svid.ID, Entry: "policy:7"}) },
			transport.Revoked, "policy:7", "not-revoked", gone, false,
		},
		{"ATTACKS 37: its serial number is revoked", plain, func(s *scene) {
			s.list.revoke(identity.Revocation{Serial: fmt.Sprintf("%x", s.subject.svid.Certificates[0].SerialNumber), Entry: "policy:8"})
		}, transport.Revoked, "policy:8", "not-revoked", gone, false},
		{"ATTACKS 37: its root authority is revoked", byOld, func(s *scene) {
			s.list.revoke(identity.Revocation{Authority: identity.AuthorityOf(s.old.Bundle().X509Authorities()[0]), Entry: "policy:9"})
		}, transport.Revoked, "policy:9", "not-revoked", gone, false},
		{"ATTACKS 37: its intermediate authority is revoked", below, func(s *scene) {
			s.list.revoke(identity.Revocation{Authority: identity.AuthorityOf(s.subject.svid.Certificates[1]), Entry: "policy:10"})
		}, transport.Revoked, "policy:10", "not-revoked", gone, false},
		{"ATTACKS 22: the own identity is withdrawn", plain, lose(identity.ErrWithdrawn), transport.OwnIdentity, "own identity", "own-identity", own, true},
		{"ATTACKS 27: the own SVID has expired", plain, lose(identity.ErrExpired), transport.OwnIdentity, "own identity", "own-identity", own, true},
	}
}

// connection is what a test has open with one peer.
type connection struct {
	desk *desk
	conn *grpc.ClientConn
	// ended are a call and two streams, one of them idle.
	ended []<-chan error
}

func (s *scene) open(t *testing.T, peer *owner, ordinary bool) *connection {
	t.Helper()
	d, conn := s.link(t, peer, ordinary)
	c := &connection{desk: d, conn: conn}
	c.ended = append(c.ended, feed(t.Context(), t, conn, 0), begin(t, conn, time.Hour))
	synctest.Wait()
	return c
}

// goesOn fails unless all that was open still is, and another call is taken.
func (c *connection) goesOn(t *testing.T, who string) {
	t.Helper()
	for _, ended := range c.ended {
		select {
		case err := <-ended:
			t.Errorf("%s: a call ended: %v", who, err)
		default:
		}
	}
	if err := wait(t.Context(), c.conn, 0); err != nil {
		t.Errorf("%s: another call: %v", who, err)
	}
}

// isCut fails unless all that was open has ended with the code, and the contexts of the calls have.
func (c *connection) isCut(t *testing.T, direction transport.Direction, code codes.Code) {
	t.Helper()
	for _, ended := range c.ended {
		select {
		case err := <-ended:
			if status.Code(err) != code || strings.Contains(err.Error(), "policy") {
				t.Errorf("a call in flight ended with %v, want %v and no details", err, code)
			}
		default:
			t.Error("a call in flight goes on")
		}
	}
	for range c.ended {
		select {
		case ctx := <-c.desk.broken:
			if err := transport.CheckLive(ctx); direction == transport.Inbound && status.Code(err) != code {
				t.Errorf("CheckLive = %v, want %v", err, code)
			}
		default:
			t.Error("a handler goes on")
		}
	}
}

// A peer that stops being good, in each way that there is, at a server of ours and at a client of ours: at once its calls end and no more are
// let in, and within a second its socket is closed. A good peer does not notice, and neither does a bad one of the ordinary configuration.
func TestCut(t *testing.T) {
	t.Parallel()
	for _, c := range spoilings() {
		for _, direction := range []transport.Direction{transport.Inbound, transport.Outbound} {
			t.Run(fmt.Sprintf("%s, %v", c.name, direction), func(t *testing.T) {
				t.Parallel()
				synctest.Test(t, func(t *testing.T) { cut(t, c, direction) })
			})
		}
	}
}

func cut(t *testing.T, c spoiling, direction transport.Direction) {
	s := newScene(t, direction, c.svid)
	bad, good, ordinary := s.open(t, s.subject, false), s.open(t, s.good, false), s.open(t, s.subject, true)
	open := s.conns.Conns()
	if len(open) != 2 || open[0].Peer.ID != s.subject.svid.ID {
		t.Fatalf("%d connections: %+v", len(open), open)
	}
	c.spoil(s)
	s.expelled.Store(true)
	from := time.Now()
	synctest.Wait()

	bad.isCut(t, direction, c.code)
	if !c.all {
		good.goesOn(t, "good")
	}
	ordinary.goesOn(t, "the subject under the ordinary configuration")
	want := map[bool]int{false: 1, true: 0}[c.all]
	if left := s.conns.Conns(); len(left) != want || want == 1 && left[0].Seq != open[1].Seq {
		t.Errorf("connections left: %+v", left)
	}
	checkCounts(t, s, c, open)

	bad.conn.WaitForStateChange(t.Context(), connectivity.Ready)
	took := time.Since(from)
	if most := map[transport.Direction]time.Duration{transport.Inbound: time.Second, transport.Outbound: 0}[direction]; took > most {
		t.Errorf("the socket was closed after %v", took)
	}
	if got := s.conns.Held(); got != want {
		t.Errorf("the registry holds %d connections", got)
	}
	pass(time.Second) // at the very moment of its expiry a certificate is still valid
	s.refused(t, c, bad)
	ordinary.goesOn(t, "the subject under the ordinary configuration, later")
}

// checkCounts looks at what operators see of a cut.
func checkCounts(t *testing.T, s *scene, c spoiling, open []transport.Conn) {
	t.Helper()
	cuts := s.conns.Cuts()
	want := map[bool]int{false: 1, true: 2}[c.all]
	if len(cuts) != want {
		t.Fatalf("%d cuts: %+v", len(cuts), cuts)
	}
	for _, got := range cuts {
		if got.Reason != c.reason || !strings.Contains(got.Detail, c.detail) || got.Direction != s.direction || got.Time.IsZero() ||
			!c.all && (got.Peer.ID != s.subject.svid.ID || got.Seq != open[0].Seq) {
			t.Errorf("cut: %+v", got)
		}
	}
	for kind, n := range s.conns.Stats().Cuts {
		if expected := map[bool]uint64{true: uint64(want)}[kind == transport.CutKind{Direction: s.direction, Reason: c.reason}]; n != expected {
			t.Errorf("%+v: %d cuts, want %d", kind, n, expected)
		}
	}
}

// refused fails unless a new handshake with the subject does, and is counted.
func (s *scene) refused(t *testing.T, c spoiling, bad *connection) {
	t.Helper()
	kind := transport.Failure{Direction: s.direction, Reason: c.rule}
	before := s.conns.Stats().Failures[kind]
	if err := wait(t.Context(), bad.conn, 0); status.Code(err) != codes.Unavailable {
		t.Errorf("a call on a new connection: %v", err)
	}
	if got := s.conns.Stats().Failures[kind]; got == before {
		t.Errorf("%+v is not counted: %v", kind, s.conns.Stats().Failures)
	}
}

// A peer whose chain also leads to another authority is not cut when one of the two is revoked, and is when both are.
func TestAPeerWithAnotherPathIsNotCut(t *testing.T) {
	t.Parallel()
	ca := meshtest.NewCA(t, "bank.test")
	subject := spiffeid.RequireFromPath(ca.TrustDomain(), subjectID)
	old, renewed, leaf := renewedAuthority(t, subject.URL())
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
