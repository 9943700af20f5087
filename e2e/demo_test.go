package e2e

import (
	"os"
	"strings"
	"testing"

	"github.com/countersign-mesh/countersign/e2e/internal/bank"
	"github.com/countersign-mesh/countersign/pkg/policy"
)

// TestDemo plays the story on a fresh mesh whose SVIDs rotate every few seconds, plays it again, and then on meshes whose policy lets the gateway
// pay what no customer asked for, and risk write in the books: a demo that says what it always says proves nothing.
func TestDemo(t *testing.T) {
	mesh := dist.NewHome(t).Up(t, "--svid-ttl=6s")
	for _, time := range []string{"first", "second"} {
		out, code := mesh.CLI(t, "demo")
		if code != 0 {
			t.Fatalf("the %s time: exit code %d:\n%s", time, code, out)
		}
		bank.StoryTold(t, out)
	}
	whole, err := os.ReadFile(mesh.Policy())
	if err != nil {
		t.Fatal(err)
	}
	for _, hole := range []struct{ service, what, before, after string }{
		{"payments", "the gateway may pay another than the customer has asked for", " && request.payee_account_id == user.context.payee &&\n", " &&\n"},
		{"ledger", "risk may write in the books", "      PostTransfer:\n        allow:\n", `      PostTransfer:
        allow:
          - peer: /risk
            why: shows that the demo sees it
`},
	} {
		mesh.Edit(t, mesh.Policy(), func(string) string { return bank.Replace(t, hole.before, hole.after)(string(whole)) })
		waitForPolicy(t, mesh, hole.service)
		if out, code := mesh.CLI(t, "demo"); code != 1 {
			t.Errorf("%s: exit code %d, want 1:\n%s", hole.what, code, out)
		}
	}
	if !mesh.Up.Running() {
		t.Errorf("countersign up has ended:\n%s", mesh.Up.Output())
	}
}

// waitForPolicy waits until a service has the policy in force that is in the file. Its log tells of others too: each demo revokes an identity
// and takes it back.
func waitForPolicy(t *testing.T, mesh *bank.Mesh, service string) {
	t.Helper()
	text, err := os.ReadFile(mesh.Policy())
	if err != nil {
		t.Fatal(err)
	}
	policy, err := policy.Parse(mesh.Policy(), text)
	if err != nil {
		t.Fatal(err)
	}
	bank.Eventually(t, 2*promise, func() string {
		log := mesh.Log(t, service)
		for line := range strings.Lines(log) {
			if strings.Contains(line, "a new policy is in force") && strings.Contains(line, policy.Version()) {
				return ""
			}
		}
		return service + " has not taken policy " + policy.Version() + ":\n" + log
	})
}
