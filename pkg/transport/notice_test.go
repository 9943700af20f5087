package transport_test

import (
	"testing"
	"testing/synctest"
	"time"

	"github.com/spiffe/go-spiffe/v2/svid/x509svid"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"

	"github.com/countersign-mesh/countersign/pkg/identity"
	"github.com/countersign-mesh/countersign/pkg/meshtest"
	"github.com/countersign-mesh/countersign/pkg/transport"
)

// A peer that is revoked is not sent elsewhere, where it would only learn that a handshake failed: its next call, on the same connection, is
// told that it is not authenticated.
func TestARevokedPeerGetsItsStatus(t *testing.T) {
	t.Parallel()
	bubble(t, func(t *testing.T) {
		s := newScene(t, transport.Inbound, plain)
		_, conn := s.link(t, s.subject, false)
		if err := wait(t.Context(), conn, 0); err != nil {
			t.Fatal(err)
		}
		s.list.revoke(identity.Revocation{ID: s.subject.svid.ID, Entry: "policy:1"})
		synctest.Wait()
		for range 4 {
			if err := wait(t.Context(), conn, 0); status.Code(err) != codes.Unauthenticated {
				t.Errorf("a call after the cut: %v", err)
			}
			pass(100 * time.Millisecond)
			synctest.Wait()
		}
	})
}

// A peer that has a newer SVID when the one of its connection expires is told to come again: from that notice on no call of it fails.
func TestAPeerWithANewerSVIDComesAgain(t *testing.T) {
	t.Parallel()
	bubble(t, func(t *testing.T) {
		s := newScene(t, transport.Inbound, func(t *testing.T, s *scene) *x509svid.SVID {
			return s.ca.SVID(t, subjectID, meshtest.Lifetime(10*time.Second))
		})
		_, conn := s.link(t, s.subject, false)
		if err := wait(t.Context(), conn, 0); err != nil {
			t.Fatal(err)
		}
		first, expiry := newest(s.conns).Seq, s.subject.svid.Certificates[0].NotAfter
		s.subject.set(func(o *owner) { o.svid = s.ca.SVID(t, subjectID) })
		pass(time.Until(expiry))
		synctest.Wait()
		if cuts := s.conns.Cuts(); len(cuts) != 1 || cuts[0].Reason != transport.Expired {
			t.Fatalf("cuts: %+v", cuts)
		}
		for range 10 {
			if err := wait(t.Context(), conn, 0); err != nil {
				t.Errorf("a call after the notice: %v", err)
			}
			pass(100 * time.Millisecond)
		}
		if got := newest(s.conns).Seq; got != first+1 {
			t.Errorf("the calls are on connection %d, want %d", got, first+1)
		}
	})
}
