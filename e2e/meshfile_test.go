package e2e

import (
	"fmt"
	"os"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/countersign-mesh/countersign/e2e/internal/bank"
	auditv1 "github.com/countersign-mesh/countersign/proto/gen/mesh/audit/v1"
)

// TestDemoThroughAMeshFile plays the story as it is played in containers: the CLI is told where the mesh is, and reaches the actors over
// sockets. It does without the run directory, and starts nothing.
func TestDemoThroughAMeshFile(t *testing.T) {
	mesh := dist.NewHome(t).Up(t, "--svid-ttl=6s")
	file := meshFile(t, mesh, "6s")

	out, code := mesh.Run(t, nil, "countersign", "demo", "--mesh="+file)
	if code != 1 || !strings.Contains(out, "the actor burglar is not there") || !strings.Contains(out, "docker compose --profile demo up") {
		t.Errorf("without actors: exit code %d:\n%s", code, out)
	}
	act(t, mesh, "accounts-burglar", "burglar", "ledger")
	if out, code = mesh.Run(t, nil, "countersign", "demo", "--mesh="+file); code != 1 || !strings.Contains(out, "was attested as spiffe://bank.test/accounts") {
		t.Errorf("with another in the burglar's place: exit code %d:\n%s", code, out)
	}
	act(t, mesh, "burglar", "burglar", "ledger")
	act(t, mesh, "accounts-burglar", "accounts-burglar", "ledger", "payments")
	act(t, mesh, "gateway-burglar", "gateway-burglar", "login", "payments")
	for _, time := range []string{"first", "second"} {
		if out, code = mesh.Run(t, nil, "countersign", "demo", "--mesh="+file); code != 0 {
			t.Fatalf("the %s time: exit code %d:\n%s", time, code, out)
		}
	}
	// The demo has connected to the burglar twice, who got an identity for each time.
	if serials := serialsOf(t, mesh, "risk", "ledger"); len(serials) < 2 {
		t.Errorf("two who connect to an actor are to have an SVID each, and showed the ledger %v", serials)
	}
	if out, code = mesh.Run(t, []string{"COUNTERSIGN_MESH=" + file}, "countersign", "status"); code != 0 || strings.Count(out, " ready ") != len(bank.Services()) {
		t.Errorf("status: exit code %d:\n%s", code, out)
	}
	if out, code = mesh.Run(t, []string{"COUNTERSIGN_MESH=" + file}, "countersign", "down"); code != 2 || !mesh.Up.Running() {
		t.Errorf("down: exit code %d, want 2, and the mesh left alone:\n%s", code, out)
	}
}

// meshFile describes a mesh to who knows nothing of its run directory.
func meshFile(t *testing.T, mesh *bank.Mesh, svidTTL string) string {
	t.Helper()
	text := fmt.Sprintf("trust_domain: %s\nworkload_api: %s\npolicy: %s\nsvid_ttl: %s\nactors: actors\nservices:\n",
		mesh.TrustDomain, mesh.WorkloadAPI, mesh.Policy(), svidTTL)
	for _, service := range bank.Services() {
		text += fmt.Sprintf("  %s: %s\n", service, mesh.Program(t, service).Address)
	}
	edge := mesh.Customers
	text += fmt.Sprintf("edge: {grpc: %q, rest: %q, login: %q, issuer: %q, root: %q}\n", edge.GRPC, edge.REST, edge.Login, edge.Issuer, edge.Root)
	path := mesh.Path("mesh.yaml")
	if err := os.WriteFile(path, []byte(text), 0o600); err != nil {
		t.Fatal(err)
	}
	return path
}

// act has a program serve an actor, until the test ends or another one is to take its place.
func act(t *testing.T, mesh *bank.Mesh, program, actor string, servers ...string) {
	t.Helper()
	socket := mesh.Path("actors", actor, "act.sock")
	if err := os.Remove(socket); err != nil && !os.IsNotExist(err) { // as if its container had been made anew
		t.Fatal(err)
	}
	args := []string{"act", "--listen=" + socket}
	for _, server := range servers {
		args = append(args, mesh.Program(t, server).Address+"=/"+server)
	}
	p := mesh.Start(t, []string{"SPIFFE_ENDPOINT_SOCKET=" + mesh.WorkloadAPI}, "actors/"+program, args...)
	bank.Eventually(t, 20*time.Second, func() string {
		if !strings.Contains(p.Output(), socket) {
			return "the actor does not listen:\n" + p.Output()
		}
		return ""
	})
	t.Cleanup(func() {
		if !p.Running() {
			t.Errorf("the actor %s has ended:\n%s", actor, p.Output())
			return
		}
		p.Interrupt(t)
		if code := p.Wait(t, 10*time.Second); code != 0 {
			t.Errorf("the actor %s ended with %d:\n%s", actor, code, p.Output())
		}
	})
}

// serialsOf returns the serial numbers of the SVIDs that a workload has shown a server with calls that were denied.
func serialsOf(t *testing.T, mesh *bank.Mesh, workload, server string) []string {
	t.Helper()
	trail := auditv1.NewAuditServiceClient(mesh.Dial(t, mesh.Identity(t, "operator"), "audit"))
	page, err := trail.ListDecisions(t.Context(), &auditv1.ListDecisionsRequest{PageSize: 1000, Filter: &auditv1.DecisionFilter{
		PeerId: "spiffe://bank.test/" + workload, ServerId: "spiffe://bank.test/" + server, Verdict: auditv1.Verdict_VERDICT_DENIED,
	}})
	if err != nil {
		t.Fatal(err)
	}
	serials := names(page.GetRecords(), func(r *auditv1.StoredRecord) string { return r.GetDecision().GetPeerSerial() })
	slices.Sort(serials)
	return slices.Compact(serials)
}
