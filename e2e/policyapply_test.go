package e2e

import (
	"context"
	"os"
	"regexp"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"github.com/countersign-mesh/countersign/e2e/internal/bank"
	ledgerv1 "github.com/countersign-mesh/countersign/proto/gen/bank/ledger/v1"
)

// TestPolicyApply changes the policy of a running mesh with `countersign policy apply`, for better and for worse.
func TestPolicyApply(t *testing.T) {
	mesh := dist.NewHome(t).Up(t)
	original := readPolicy(t, mesh)
	harmful := bank.Replace(t, "        allow:\n"+trialBalanceRule, "        allow: []\n")(original)
	harmless := bank.Replace(t, `          - peer: /gateway
            user: accounts.read
            when: request.account_id == user.context.account_id
            why: a statement is made of the account's entries
`, "")(original)
	apply := func(t *testing.T, text string, more ...string) *bank.Process {
		t.Helper()
		overwrite(t, mesh.Path("new.yaml"), text)
		return mesh.Start(t, nil, "countersign", append([]string{"policy", "apply", "new.yaml", "--run-dir=" + mesh.RunDir, "--yes"}, more...)...)
	}
	checkBalance(t, mesh)

	t.Run("what takes a permission away that is used is put back", func(t *testing.T) {
		start := time.Now()
		p := apply(t, harmful, "--watch=1m")
		code := p.Wait(t, 20*time.Second)
		row := regexp.MustCompile(`spiffe://bank\.test/operator +/bank\.ledger\.v1\.LedgerService/CheckTrialBalance +\d+ +[0-9a-f]{32}`)
		if code != 1 || !strings.Contains(p.Output(), "The old policy is back at 7 of 7 services") || !row.MatchString(p.Output()) {
			t.Errorf("exit code %d after %v:\n%s", code, time.Since(start), p.Output())
		}
		if readPolicy(t, mesh) != original {
			t.Error("the file is not what it was")
		}
		t.Logf("put back after %v", time.Since(start).Round(time.Millisecond))
	})
	t.Run("what nobody misses stays", func(t *testing.T) {
		p := apply(t, harmless, "--watch=2s")
		if code := p.Wait(t, 30*time.Second); code != 0 || !strings.Contains(p.Output(), "In force at 7 of 7 services") || readPolicy(t, mesh) != harmless {
			t.Errorf("exit code %d:\n%s", code, p.Output())
		}
		kept := regexp.MustCompile(`go back to the old one: countersign policy apply (\S+)`).FindStringSubmatch(p.Output())
		if kept == nil {
			t.Fatalf("it does not say how to go back:\n%s", p.Output())
		}
		if out, code := mesh.Run(t, nil, "countersign", "policy", "apply", kept[1], "--run-dir="+mesh.RunDir, "--yes", "--no-watch"); code != 0 || readPolicy(t, mesh) != original {
			t.Errorf("back: exit code %d:\n%s", code, out)
		}
	})
	for name, test := range map[string]struct {
		stop func(t *testing.T, p *bank.Process)
		code int
	}{
		"Ctrl-C puts the old one back":          {func(t *testing.T, p *bank.Process) { p.Interrupt(t) }, 1},
		"one who is killed leaves a way back":   {func(t *testing.T, p *bank.Process) { p.Signal(t, syscall.SIGKILL) }, -1},
		"a terminal that is closed is a Ctrl-C": {func(t *testing.T, p *bank.Process) { p.Signal(t, syscall.SIGHUP) }, 1},
	} {
		t.Run(name, func(t *testing.T) {
			p := apply(t, harmless, "--watch=1h")
			bank.Eventually(t, 20*time.Second, func() string {
				if !strings.Contains(p.Output(), "Watching for 1h0m0s") {
					return "it does not watch:\n" + p.Output()
				}
				return ""
			})
			test.stop(t, p)
			if code := p.Wait(t, 20*time.Second); code != test.code {
				t.Errorf("exit code %d, want %d:\n%s", code, test.code, p.Output())
			}
			if test.code == -1 {
				byHand := regexp.MustCompile(`To put it back by hand: mv (\S+) (\S+)\n`).FindStringSubmatch(p.Output())
				if byHand == nil || readPolicy(t, mesh) != harmless {
					t.Fatalf("it did not say how to put it back, or the file is not whole:\n%s", p.Output())
				}
				if err := os.Rename(byHand[1], byHand[2]); err != nil {
					t.Fatal(err)
				}
			}
			if readPolicy(t, mesh) != original {
				t.Error("the file is not what it was")
			}
		})
	}
	t.Run("the audit log knows which rules were used", func(t *testing.T) {
		out, code := mesh.CLI(t, "policy", "learn", "--format=markdown", "--least=least.yaml")
		unused := regexp.MustCompile(`(?s)## Rules that never decided\n.*?\n## `).FindString(out)
		if code != 0 || !strings.Contains(unused, "LedgerService/PostTransfer | allow | /payments") || strings.Contains(unused, "CheckTrialBalance") {
			t.Errorf("exit code %d:\n%s", code, out)
		}
		if out, code := mesh.CLI(t, "policy", "apply", "least.yaml", "--dry-run"); code != 0 || strings.Contains(out, "CheckTrialBalance") {
			t.Errorf("the least policy: exit code %d:\n%s", code, out)
		}
	})
}

// checkBalance has the operator check the trial balance over and over, until the test ends.
func checkBalance(t *testing.T, mesh *bank.Mesh) {
	t.Helper()
	ledger := ledgerv1.NewLedgerServiceClient(mesh.Dial(t, mesh.Identity(t, "operator"), "ledger"))
	if _, err := ledger.CheckTrialBalance(t.Context(), &ledgerv1.CheckTrialBalanceRequest{}); err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(context.Background())
	var checking sync.WaitGroup
	checking.Go(func() {
		ticker := time.NewTicker(20 * time.Millisecond)
		defer ticker.Stop()
		for {
			_, _ = ledger.CheckTrialBalance(ctx, &ledgerv1.CheckTrialBalanceRequest{}) // denied at times, which is what this is about
			select {
			case <-ticker.C:
			case <-ctx.Done():
				return
			}
		}
	})
	t.Cleanup(func() {
		cancel()
		checking.Wait()
	})
}

func readPolicy(t *testing.T, mesh *bank.Mesh) string {
	t.Helper()
	text, err := os.ReadFile(mesh.Policy())
	if err != nil {
		t.Fatal(err)
	}
	return string(text)
}
