package mesh_test

import (
	"fmt"
	"testing"
	"time"

	"google.golang.org/grpc/codes"

	"github.com/countersign-mesh/countersign/pkg/identity"
	"github.com/countersign-mesh/countersign/pkg/transport"
)

// The same from the other end: the calls that a client has with a server that is no longer good end with UNAUTHENTICATED, and at once,
// whatever that server does. gRPC alone would say UNAVAILABLE, which clients retry. The registry of another client goes on with the server.
func TestCallsEndWithTheIdentityOfTheirServer(t *testing.T) {
	t.Parallel()
	gone := []codes.Code{codes.Unauthenticated}
	revoke := func(entry func(w *world) string) func(*testing.T, *world, *caller, *rules) {
		return func(t *testing.T, w *world, _ *caller, heeded *rules) {
			t.Helper()
			heeded.replace(t, echoPolicy(doomedAndGood, entry(w)))
		}
	}
	for _, test := range []struct {
		name  string
		spoil func(t *testing.T, w *world, c *caller, heeded *rules)
		want  []codes.Code
	}{
		{"ATTACKS 37: its authority leaves the client's bundle", func(_ *testing.T, w *world, c *caller, _ *rules) { c.id.trust(w.first) }, gone},
		{"ATTACKS 37: its ID is revoked", revoke(func(*world) string { return "id: /ledger" }), gone},
		{"ATTACKS 37: its serial number is revoked", revoke(func(w *world) string {
			return fmt.Sprintf("serial: %x", w.server.svid.Certificates[0].SerialNumber)
		}), gone},
		{"ATTACKS 37: its authority is revoked", revoke(func(w *world) string {
			return "authority: " + identity.AuthorityOf(w.second.X509Authorities()[0])
		}), gone},
		{"the client's own identity is withdrawn", func(_ *testing.T, _ *world, c *caller, _ *rules) { c.id.withdraw() }, []codes.Code{codes.Unavailable}},
	} {
		t.Run(test.name, func(t *testing.T) {
			t.Parallel()
			w := newWorld(t, doomedAndGood)
			good := w.caller(t, w.others.SVID(t, "/good"))
			heeded := newRules(t, echoPolicy(doomedAndGood))
			c, ends := w.startAll(t, 0)
			c.conns.Heed(heeded.file)
			undisturbed := useAll(t, good)
			from := time.Now()
			test.spoil(t, w, c, heeded)
			checkEnds(t, ends, from, test.want)
			undisturbed()
		})
	}
}

// ATTACKS 36: a server's SVID expires under its clients' calls, which their registry ends.
func TestCallsEndWhenTheSVIDOfTheirServerExpires(t *testing.T) {
	t.Parallel()
	w := newWorldWithoutRenewal(t, doomedAndGood) // or the server would ask them to come again before that
	idle := calls()["an idle stream both ways"]
	for range 10 {
		svid := w.shortLived(t, "/ledger", 2*time.Second)
		w.server.take(svid, w.both)
		c := w.caller(t, w.ca.SVID(t, "/doomed"))
		ended, err := w.echo.start(t.Context(), c.conn, "idle", idle)
		if err != nil {
			continue // too late
		}
		checkEnds(t, map[string]<-chan end{"an idle stream both ways": ended}, svid.Certificates[0].NotAfter, []codes.Code{codes.Unauthenticated})
		cuts := c.conns.Cuts()
		if len(cuts) != 1 || cuts[0].Reason != transport.Expired {
			t.Errorf("the client's cuts are %+v", cuts)
		}
		return
	}
	t.Error("no stream could be opened in time")
}
