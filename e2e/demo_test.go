package e2e

import (
	"os"
	"strings"
	"testing"

	"github.com/countersign-mesh/countersign/e2e/internal/bank"
	"github.com/countersign-mesh/countersign/pkg/policy"
)

// TestDemo plays the story on a fresh mesh whose SVIDs rotate every few seconds, plays it again, and then on a mesh whose policy lets
// risk write in the books: a demo that says what it always says proves nothing.
func TestDemo(t *testing.T) {
	mesh := dist.NewHome(t).Up(t, "--svid-ttl=6s")
	for _, time := range []string{"first", "second"} {
		out, code := mesh.CLI(t, "demo")
		if code != 0 {
			t.Fatalf("the %s time: exit code %d:\n%s", time, code, out)
		}
		for _, want := range []string{"PostTransfer", "PERMISSION_DENIED", "spiffe://bank.test/risk"} {
			if !strings.Contains(out, want) {
				t.Errorf("the %s time: nothing is said of %s:\n%s", time, want, out)
			}
		}
	}
	mesh.Edit(t, mesh.Policy(), bank.Replace(t, `      PostTransfer:
        allow:
`, `      PostTransfer:
        allow:
          - peer: /risk
            why: shows that the demo sees it
`))
	waitForPolicy(t, mesh, "ledger")
	out, code := mesh.CLI(t, "demo")
	if code != 1 {
		t.Errorf("risk may write in the books: exit code %d, want 1:\n%s", code, out)
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
