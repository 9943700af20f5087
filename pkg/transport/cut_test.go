package transport_test

import (
	"fmt"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/spiffe/go-spiffe/v2/bundle/x509bundle"
	"github.com/spiffe/go-spiffe/v2/svid/x509svid"
	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"

	"github.com/countersign-mesh/countersign/pkg/identity"
	"github.com/countersign-mesh/countersign/pkg/meshtest"
	"github.com/countersign-mesh/countersign/pkg/transport"
)

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
				bubble(t, func(t *testing.T) { cut(t, c, direction) })
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

	for s.conns.Held() > want && time.Since(from) < 2*time.Second {
		pass(10 * time.Millisecond)
	}
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
	synctest.Wait() // the other end may know first
	if got := s.conns.Stats().Failures[kind]; got == before {
		t.Errorf("%+v is not counted: %v", kind, s.conns.Stats().Failures)
	}
}
