package e2e

import (
	"context"
	"strings"
	"testing"
	"time"

	"google.golang.org/grpc"

	"github.com/countersign-mesh/countersign/e2e/internal/bank"
	ledgerv1 "github.com/countersign-mesh/countersign/proto/gen/bank/ledger/v1"
)

// TestRotation replaces SVIDs of 10 seconds and signing keys of 60 seconds under eight phones that pay without a pause, and under workloads that ask
// without one, half of which have the library and half grpc-go as it comes: none of their calls fails, and each payment is in the books, once. None of
// them tries anything again. ATTACKS 33, 34.
func TestRotation(t *testing.T) {
	t.Parallel()
	const svidTTL, authorityTTL = 10 * time.Second, time.Minute
	mesh := shortLived(t, svidTTL, authorityTTL)
	mesh.StartInOrder(t)
	calling := bank.NewCallers(t)
	askLedger(t, mesh, calling)
	customers := openFor(t, mesh, mesh.Identity(t, "operator"), 8, 1_000_000)

	begin := time.Now()
	calling.Add(t.Context(), payFrom(customers...), customerNames(customers)...)
	untilItFails(t, calling, soak(t, authorityTTL))
	lasted := time.Since(begin).Round(time.Second)
	outcomes := calling.Stop()

	if failed := bank.Failures(outcomes); len(failed) > 0 {
		t.Errorf("%d of %d calls failed:\n%s", len(failed), len(outcomes), bank.Describe(failed))
	}
	var rotations, renewed int
	for _, service := range bank.Services() {
		n := mesh.SVIDRotations(t, service)
		rotations += n
		renewed += int(mesh.Metric(t, service, "countersign_connections_renewed_total"))
		// One at half of each SVID's life; a third fewer would mean that some came late.
		if want := int(lasted/(svidTTL/2)) * 2 / 3; n < want {
			t.Errorf("%s has had %d SVIDs in %v, want %d or more", service, n, lasted, want)
		}
		if cut := mesh.Metric(t, service, "countersign_connections_cut_total"); cut > 0 {
			t.Errorf("%s has cut %.0f connections of peers that were good", service, cut)
		}
	}
	if renewed == 0 && lasted > svidTTL {
		t.Error("no connection was renewed ahead of its expiry, so this test shows nothing about that")
	}
	authorities := activations(mesh)
	if want := int(lasted / authorityTTL); authorities < want {
		t.Errorf("%d signing keys were replaced in %v, want %d or more", authorities, lasted, want)
	}
	t.Logf("%d calls in %v, %d failed; %d rotations of SVIDs, %d of signing keys, %d connections renewed; %s",
		len(outcomes), lasted, len(bank.Failures(outcomes)), rotations, authorities, renewed, bank.Durations(outcomes))
	checkBooks(t, mesh, mesh.Identity(t, "operator"), customers)
}

// askLedger starts workloads that ask the ledger for a balance without a pause, as a process that has the library does, and as one that has nothing of
// it and an SVID in files that somebody renews.
func askLedger(t *testing.T, mesh *bank.Apart, calling *bank.Callers) {
	t.Helper()
	for name, conn := range map[string]*grpc.ClientConn{
		"with the library": mesh.DialByProxy(t, "operator", "ledger"), "without": mesh.DialByFiles(t, "operator", "ledger"),
	} {
		books := ledgerv1.NewLedgerServiceClient(conn)
		ask := func(ctx context.Context, _ string, _ int) error {
			_, err := books.GetBalance(ctx, &ledgerv1.GetBalanceRequest{AccountId: "bank-cash"})
			return err
		}
		calling.Add(t.Context(), ask, name+" 1", name+" 2")
	}
}

// shortLived lays a mesh out whose SVIDs and signing keys live for so long, and whose customers may pay as often as they like.
func shortLived(t *testing.T, svidTTL, authorityTTL time.Duration) *bank.Apart {
	t.Helper()
	home := dist.NewHome(t)
	untiring(t, home)
	mesh := home.Apart(t)
	mesh.Flags["authority"] = []string{"--svid-ttl=" + svidTTL.String(), "--authority-ttl=" + authorityTTL.String()}
	return mesh
}

// untilItFails waits for so long, or until so many calls have failed that no more are needed to see why.
func untilItFails(t *testing.T, calling *bank.Callers, lasts time.Duration) {
	t.Helper()
	const enough = 100
	tick := time.NewTicker(time.Second)
	defer tick.Stop()
	for end := time.Now().Add(lasts); time.Now().Before(end) && calling.Failed() < enough; {
		select {
		case <-tick.C:
		case <-t.Context().Done():
		}
	}
}

// activations returns how often the authority has put another signing key for X.509-SVIDs in an old one's place.
func activations(mesh *bank.Apart) int {
	log := mesh.Process("authority").Output()
	n := 0
	for line := range strings.Lines(log) {
		if strings.Contains(line, "a signing key changed its phase") && strings.Contains(line, "kind=x509") && strings.Contains(line, "change=activated") {
			n++
		}
	}
	return max(0, n-1) // the first was in nobody's place
}
