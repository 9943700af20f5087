package e2e

import (
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/countersign-mesh/countersign/e2e/internal/bank"
)

// TestHealthcheck asks every program by its own binary, as a container's health check does: before it runs, when it is ready, and
// when it is stopped and does not answer.
func TestHealthcheck(t *testing.T) {
	mesh := dist.NewHome(t).Apart(t)
	programs := append(bank.Services(), "authority")
	for _, program := range programs {
		if out, code := mesh.Healthcheck(t, program); code != 1 || !strings.HasPrefix(out, program+": not ready: ") || strings.Count(out, "\n") != 1 {
			t.Errorf("%s, which does not run: exit code %d, %q", program, code, out)
		}
	}
	mesh.StartAll(t)
	for _, program := range programs {
		if out, code := mesh.Healthcheck(t, program); code != 0 || out != "ready\n" {
			t.Errorf("%s, which is ready: exit code %d, %q", program, code, out)
		}
	}
	mesh.Process("ledger").Signal(t, syscall.SIGSTOP)
	begun := time.Now()
	out, code := mesh.Healthcheck(t, "ledger")
	if code != 1 || !strings.Contains(out, "no answer within 3s") || time.Since(begun) > 5*time.Second {
		t.Errorf("ledger, which hangs: exit code %d after %s, %q", code, time.Since(begun), out)
	}
	mesh.Process("ledger").Signal(t, syscall.SIGCONT)
	mesh.Kill(t, "ledger")
	if out, code := mesh.Healthcheck(t, "ledger"); code != 1 || !strings.Contains(out, "refused") {
		t.Errorf("ledger, which was killed: exit code %d, %q", code, out)
	}
}
