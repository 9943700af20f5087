package transport_test

import (
	"errors"
	"fmt"
	"log/slog"
	"net"
	"strings"
	"testing"

	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"

	"github.com/countersign-mesh/countersign/pkg/identity"
	"github.com/countersign-mesh/countersign/pkg/transport"
)

// Whoever dials a revoked server learns that it is revoked, and not by which entry, where that stands, and what it names: the error of a call goes
// on to callers. The process itself can tell, and its log says all.
func TestTheErrorOfDiallingARevokedServerIsDiscreet(t *testing.T) {
	t.Parallel()
	const entry = "deploy/policy/bank.yaml:17"
	for _, what := range []string{"ID", "serial number", "authority"} {
		t.Run(what, func(t *testing.T) {
			t.Parallel()
			w := newWorld(t)
			revoked, named := identity.Revocation{ID: w.id("/ledger"), Entry: entry}, w.id("/ledger").String()
			switch what {
			case "serial number":
				named = fmt.Sprintf("%x", w.server.svid.Certificates[0].SerialNumber)
				revoked = identity.Revocation{Serial: named, Entry: entry}
			case "authority":
				named = identity.AuthorityOf(w.ca.Bundle().X509Authorities()[0])
				revoked = identity.Revocation{Authority: named, Entry: entry}
			}
			log, list := new(journal), newBlacklist()
			list.revoke(revoked)
			outbound := newRegistry(t, w.client, transport.WithLogger(slog.New(slog.NewTextHandler(log, nil))))
			outbound.Heed(list)

			d := openDesk(t, w.inbound.Server(), true)
			err := wait(t.Context(), d.client(t, outbound.Client(w.id("/ledger"))), 0)
			if status.Code(err) != codes.Unavailable || !strings.Contains(err.Error(), "not-revoked") {
				t.Errorf("the call: %v", err)
			}
			raw, err2 := net.Dial("tcp", d.listener.Addr().String())
			if err2 != nil {
				t.Fatal(err2)
			}
			_, _, handshake := outbound.Client(w.id("/ledger")).ClientHandshake(t.Context(), "ledger:1", raw)
			for _, secret := range []string{entry, "bank.yaml", "spiffe://", named} {
				if strings.Contains(fmt.Sprint(err, handshake), secret) {
					t.Errorf("%q is in the error: %v; %v", secret, err, handshake)
				}
			}
			if found, ok := errors.AsType[*identity.RevokedError](handshake); !ok || found.Entry != entry {
				t.Errorf("the handshake: %v, want a RevokedError in it", handshake)
			}
			if said := log.String(); !strings.Contains(said, entry) || !strings.Contains(said, named) {
				t.Errorf("the log does not say all: %s", said)
			}
		})
	}
}
