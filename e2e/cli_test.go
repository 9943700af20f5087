package e2e

import (
	"os"
	"os/exec"
	"regexp"
	"strings"
	"testing"
	"time"

	"github.com/countersign-mesh/countersign/e2e/internal/bank"
)

// testCall calls the ledger with countersign itself: what it may, what it may not and why, and a server that is not the one it expects.
func testCall(t *testing.T, mesh *bank.Mesh) {
	if out, code := mesh.CLI(t, "call", "ledger", "CheckTrialBalance"); code != 0 || !strings.Contains(out, `"balanced": true`) {
		t.Errorf("call CheckTrialBalance: exit code %d:\n%s", code, out)
	}
	out, code := mesh.CLI(t, "call", "ledger", "PostTransfer")
	if code == 0 || !strings.Contains(out, "PERMISSION_DENIED") {
		t.Errorf("call PostTransfer: exit code %d, want denied:\n%s", code, out)
	}
	decision := regexp.MustCompile(`[0-9a-f]{32}`).FindString(out)
	if decision == "" {
		t.Fatalf("no decision ID in:\n%s", out)
	}
	out, code = mesh.CLI(t, "audit", "show", decision)
	for _, want := range []string{"spiffe://bank.test/operator", "spiffe://bank.test/ledger", "PostTransfer", "/payments", "bank.yaml:"} {
		if code != 0 || !strings.Contains(out, want) {
			t.Errorf("audit show: exit code %d, want %s in:\n%s", code, want, out)
		}
	}
	address := mesh.Program(t, "ledger").Address
	out, code = mesh.CLI(t, "call", "--expect=/payments", address, "bank.ledger.v1.LedgerService/CheckTrialBalance")
	if code == 0 || !strings.Contains(out, "spiffe://bank.test/ledger") {
		t.Errorf("the ledger in place of payments: exit code %d, want a refusal that says who answered:\n%s", code, out)
	}
}

// testProxy uses stock grpcurl without any certificate, through a port that has the operator's identity.
func testProxy(t *testing.T, mesh *bank.Mesh) {
	grpcurl, err := dist.Grpcurl(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	proxy := mesh.Start(t, nil, "countersign", "proxy", "ledger", "--run-dir="+mesh.RunDir, "--listen=127.0.0.1:0")
	var address string
	bank.Eventually(t, 10*time.Second, func() string {
		address = regexp.MustCompile(`127\.0\.0\.1:\d+`).FindString(proxy.Output())
		if address == "" {
			return "the proxy does not say where it listens:\n" + proxy.Output()
		}
		return ""
	})
	out, err := exec.CommandContext(t.Context(), grpcurl, "-plaintext", address, "bank.ledger.v1.LedgerService/CheckTrialBalance").CombinedOutput()
	if err != nil || !strings.Contains(string(out), `"balanced": true`) {
		t.Errorf("grpcurl through the proxy: %v\n%s", err, out)
	}
	out, err = exec.CommandContext(t.Context(), grpcurl, "-plaintext", address, "bank.ledger.v1.LedgerService/PostTransfer").CombinedOutput()
	if err == nil || !strings.Contains(string(out), "PermissionDenied") {
		t.Errorf("the proxy lets through what the operator may not call: %v\n%s", err, out)
	}
	proxy.Signal(t, os.Interrupt)
	if code := proxy.Wait(t, 10*time.Second); code != 0 {
		t.Errorf("the proxy ended with %d after Ctrl-C:\n%s", code, proxy.Output())
	}
	if out, code := mesh.CLI(t, "proxy", "ledger", "--listen=0.0.0.0:0"); code == 0 || !strings.Contains(out, "loopback") {
		t.Errorf("a proxy for the whole network: exit code %d, want refused:\n%s", code, out)
	}
}
