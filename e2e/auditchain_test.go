package e2e

import (
	"bytes"
	"database/sql"
	"fmt"
	"os"
	"path/filepath"
	"regexp"
	"strings"
	"syscall"
	"testing"
	"time"

	_ "modernc.org/sqlite" // what an attacker opens the file with

	"github.com/countersign-mesh/countersign/e2e/internal/bank"
	ledgerv1 "github.com/countersign-mesh/countersign/proto/gen/bank/ledger/v1"
)

// TestAuditChain makes calls and denials, has the audit trail verified while the mesh runs, stops it, and finds what is then done to the
// trail's file (ATTACKS 65).
func TestAuditChain(t *testing.T) {
	mesh := dist.NewHome(t, "stranger").Up(t, "--svid-ttl=1h")
	tail := mesh.Start(t, nil, "countersign", "audit", "tail", "--run-dir="+mesh.RunDir, "--after=0", "--server=/ledger", "--json")
	denied := deniedCalls(t, mesh)
	for _, id := range denied {
		// Each is there once, under the ID that its caller was told.
		out, code := mesh.CLI(t, "audit", "show", id)
		if code != 0 || !strings.Contains(out, "spiffe://bank.test/stranger") {
			t.Fatalf("audit show %s: exit code %d:\n%s", id, code, out)
		}
		out, code = mesh.CLI(t, "audit", "query", "--peer=/stranger", "--method=CheckTrialBalance", "--verdict=denied", "--since=10m", "--json")
		if n := strings.Count(out, `"decision_id":"`+id+`"`); code != 0 || n != 1 {
			t.Errorf("the denial %s is recorded %d times, exit code %d:\n%s", id, n, code, out)
		}
		bank.Eventually(t, 10*time.Second, func() string {
			if n := strings.Count(tail.Output(), id); n != 1 {
				return fmt.Sprintf("audit tail says %s %d times:\n%s", id, n, tail.Output())
			}
			return ""
		})
	}
	tail.Signal(t, os.Interrupt)
	if code := tail.Wait(t, 10*time.Second); code != 0 {
		t.Errorf("audit tail ended with %d after Ctrl-C:\n%s", code, tail.Output())
	}
	head := wantSound(t, mesh.Home)
	if out, code := mesh.CLI(t, "audit", "verify", "--expect="+head); code != 0 {
		t.Errorf("the head of a moment ago is not in the trail, exit code %d:\n%s", code, out)
	}
	if code := mesh.Stop(t); code != 0 {
		t.Fatalf("countersign up ended with %d:\n%s", code, mesh.Up.Output())
	}
	file := trailFile(t, mesh.Home)
	if head = wantSound(t, mesh.Home, "--db="+file, "--expect="+head); head == "" {
		return
	}
	tamper(t, mesh.Home, file, head, denied)
}

// deniedCalls makes calls of the ledger that are let in and others that are not, and returns the IDs of the latter.
func deniedCalls(t *testing.T, mesh *bank.Mesh) []string {
	t.Helper()
	operator := ledgerv1.NewLedgerServiceClient(mesh.Dial(t, mesh.Identity(t, "operator"), "ledger"))
	stranger := ledgerv1.NewLedgerServiceClient(mesh.Dial(t, mesh.Identity(t, "stranger"), "ledger"))
	var denied []string
	for range 5 {
		if _, err := operator.CheckTrialBalance(t.Context(), &ledgerv1.CheckTrialBalanceRequest{}); err != nil {
			t.Fatal(err)
		}
		_, err := stranger.CheckTrialBalance(t.Context(), &ledgerv1.CheckTrialBalanceRequest{})
		id, wrong := bank.DecisionID(err)
		if wrong != "" {
			t.Fatal(wrong)
		}
		denied = append(denied, id)
	}
	return denied
}

// wantSound expects that nothing is found, and returns the head.
func wantSound(t *testing.T, h *bank.Home, args ...string) (head string) {
	t.Helper()
	out, code := h.CLI(t, "audit", append([]string{"verify"}, args...)...)
	head = regexp.MustCompile(`\b\d+:[0-9a-f]{64}\b`).FindString(out)
	if code != 0 || head == "" || !strings.Contains(out, "as it was stored") {
		t.Fatalf("audit verify %v: exit code %d, want a sound trail and its head:\n%s", args, code, out)
	}
	return head
}

// trailFile returns the database of the audit service, which the service has left behind in one file.
func trailFile(t *testing.T, h *bank.Home) string {
	t.Helper()
	found, err := filepath.Glob(filepath.Join(h.RunDir, "*", "audit.db*"))
	if err != nil || len(found) != 1 {
		t.Fatalf("the audit service left %v, %v; want one file", found, err)
	}
	return found[0]
}

// tamper does to copies of the trail what whoever can write to it can do, and expects verify to say what that was.
func tamper(t *testing.T, h *bank.Home, file, head string, denied []string) {
	sound, err := os.ReadFile(file)
	if err != nil {
		t.Fatal(err)
	}
	const triggers = "DROP TRIGGER records_are_not_changed; DROP TRIGGER records_are_not_deleted; "
	chosen := "WHERE decision_id = '" + denied[2] + "'"
	for name, test := range map[string]struct {
		statement string
		args      []string
		want      string
	}{
		"a denial made an allowance":  {triggers + "UPDATE records SET verdict = 'allowed', reason = '' " + chosen, nil, `changed .*decision ` + denied[2]},
		"a denial deleted":            {triggers + "DELETE FROM records " + chosen, nil, `missing .*record \d+ is missing`},
		"a denial moved to the front": {triggers + "UPDATE records SET position = -1 " + chosen, nil, `moved .*decision ` + denied[2]},
		"the end cut off":             {triggers + "DELETE FROM records WHERE position > 10", nil, `cut .*the last one that is left is 10`},
		"the end cut off and forgotten": {
			triggers + "DELETE FROM records WHERE position > 10; UPDATE sqlite_sequence SET seq = 10 WHERE name = 'records'",
			[]string{"--expect=" + head},
			`cut .*when its head was kept, and the last one that is left is 10`,
		},
	} {
		t.Run(name, func(t *testing.T) {
			copied := filepath.Join(t.TempDir(), "audit.db")
			if err := os.WriteFile(copied, sound, 0o600); err != nil {
				t.Fatal(err)
			}
			db, err := sql.Open("sqlite", copied)
			if err != nil {
				t.Fatal(err)
			}
			if _, err := db.ExecContext(t.Context(), test.statement); err != nil {
				t.Fatal(err)
			}
			if err := db.Close(); err != nil {
				t.Fatal(err)
			}
			wantFound(t, h, copied, test.want, test.args...)
		})
	}
	// No trigger sees who writes into the file itself. The longer ID stands in the table alone, and not in an index.
	t.Run("bytes of the file changed", func(t *testing.T) {
		at := bytes.LastIndex(sound, []byte(denied[2]+"spiffe://bank.test/stranger"))
		if at < 0 {
			t.Fatal("the denial is not in the file")
		}
		changed := bytes.Clone(sound)
		copy(changed[at+len(denied[2]):], "spiffe://bank.test/operator")
		copied := filepath.Join(t.TempDir(), "audit.db")
		if err := os.WriteFile(copied, changed, 0o600); err != nil {
			t.Fatal(err)
		}
		wantFound(t, h, copied, `changed .*decision `+denied[2])
	})
	// The service does not go on with a trail whose end is missing: that would cover up what was done.
	t.Run("the mesh on a trail that was cut off", func(t *testing.T) {
		db, err := sql.Open("sqlite", file)
		if err != nil {
			t.Fatal(err)
		}
		if _, err := db.ExecContext(t.Context(), triggers+"DELETE FROM records WHERE position > 10"); err != nil {
			t.Fatal(err)
		}
		if err := db.Close(); err != nil {
			t.Fatal(err)
		}
		up := h.Begin(t)
		bank.Eventually(t, 30*time.Second, func() string {
			if !strings.Contains(up.Output(), "tampered with") {
				return "the mesh does not say what is wrong:\n" + up.Output()
			}
			return ""
		})
		if up.Running() {
			up.Signal(t, syscall.SIGTERM)
		}
		up.Wait(t, 30*time.Second)
	})
}

func wantFound(t *testing.T, h *bank.Home, file, want string, args ...string) {
	t.Helper()
	out, code := h.CLI(t, "audit", append([]string{"verify", "--db=" + file}, args...)...)
	if code != 1 || !regexp.MustCompile("(?m)^"+want).MatchString(out) {
		t.Errorf("audit verify: exit code %d, want 1 and a line that matches %q:\n%s", code, want, out)
	}
}
