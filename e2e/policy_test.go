package e2e

import (
	"context"
	"errors"
	"os"
	"path/filepath"
	"regexp"
	"strings"
	"testing"
	"time"

	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"

	"github.com/countersign-mesh/countersign/e2e/internal/bank"
	ledgerv1 "github.com/countersign-mesh/countersign/proto/gen/bank/ledger/v1"
	auditv1 "github.com/countersign-mesh/countersign/proto/gen/mesh/audit/v1"
)

const (
	// promise is how soon an edit of the policy is in force.
	promise = time.Second

	trialBalanceRule = `          - peer: /operator
            why: proves that the books balance
`
	strangersRule = `          - peer: /stranger
            why: shows that a rule takes effect
`
	watchRule = `      WatchDecisions:
        allow:
          - peer: /operator
            why: follows who calls whom
`
)

// TestPolicyEdit edits the policy of a running mesh in the ways that editors and tools do. ATTACKS 45, 50.
func TestPolicyEdit(t *testing.T) {
	mesh := dist.NewHome(t, "stranger").Up(t)
	operator := mesh.Dial(t, mesh.Identity(t, "operator"), "ledger")
	stranger := mesh.Dial(t, mesh.Identity(t, "stranger"), "ledger")
	original, err := os.ReadFile(mesh.Policy())
	if err != nil {
		t.Fatal(err)
	}
	replace := func(before, after string) string { return bank.Replace(t, before, after)(string(original)) }
	revoked := replace("        allow:\n"+trialBalanceRule, "        allow: []\n")
	granted := replace(trialBalanceRule, trialBalanceRule+strangersRule)

	for _, step := range []struct {
		name               string
		write              func(t *testing.T, path, text string)
		text               string
		operator, stranger bool
	}{
		{"a rule is added in place", overwrite, granted, true, true},
		{"every rule is taken away in place", overwrite, revoked, false, false},
		{"the file is renamed into place", rename, granted, true, true},
		{"and back", rename, string(original), true, false},
		{"the file is a symbolic link that is turned", relink, revoked, false, false},
		{"and turned again", relink, string(original), true, false},
	} {
		t.Run(step.name, func(t *testing.T) {
			step.write(t, mesh.Policy(), step.text)
			start := time.Now()
			bank.Eventually(t, promise, func() string {
				if err := decides(t.Context(), operator, step.operator); err != nil {
					return "operator: " + err.Error()
				}
				if err := decides(t.Context(), stranger, step.stranger); err != nil {
					return "stranger: " + err.Error()
				}
				return ""
			})
			t.Logf("in force after %v", time.Since(start).Round(time.Millisecond))
		})
	}
	for name, text := range map[string]string{
		"a truncated file":              string(original[:len(original)/2]) + "\n  bank.led",
		"an empty file":                 "",
		"a duplicate key":               string(original) + "\ntrust_domain: bank.test\n",
		"an unknown field":              string(original) + "\nallow_everything: true\n",
		"a method that does not exist":  replace("      CheckTrialBalance:\n", "      CheckTrialBalances:\n"),
		"a method of ours without rule": replace("      CheckTrialBalance:\n        allow:\n"+trialBalanceRule, ""),
		"another trust domain's syntax": replace("peer: /operator\n            why: proves that the books balance", "peer: spiffe://BANK.test/operator"),
	} {
		t.Run(name+" changes nothing", func(t *testing.T) {
			testBrokenEdit(t, mesh, operator, stranger, text, string(original))
		})
	}
	unwatched := replace(watchRule, "      WatchDecisions: {allow: []}\n")
	t.Run("a stream that messages flow on ends with its permission", func(t *testing.T) {
		testRevokedStream(t, mesh, unwatched, string(original))
	})
	t.Run("an idle stream ends with its permission", func(t *testing.T) {
		testRevokedIdleStream(t, mesh, unwatched, string(original))
	})
}

// testBrokenEdit writes a bad policy, sees that the last good one goes on, and where the mistake is told, and mends it.
func testBrokenEdit(t *testing.T, mesh *bank.Mesh, operator, stranger grpc.ClientConnInterface, broken, original string) {
	before := len(mesh.Log(t, "ledger"))
	overwrite(t, mesh.Policy(), broken)
	told := func() string {
		if log := mesh.Log(t, "ledger")[before:]; !strings.Contains(log, "policy") || !strings.Contains(log, "bank.yaml") {
			return "ledger has not logged the broken file; it logged:\n" + log
		}
		if metrics := bank.Get(t, mesh.Program(t, "ledger").OpsAddress, "/metrics"); !strings.Contains(metrics, "countersign_policy_stale 1") {
			return "the metrics do not show it"
		}
		return ""
	}
	bank.Eventually(t, 2*promise, told)
	// It stays like this: the checks of half a promise more all see the old policy.
	for end := time.Now().Add(promise / 2); time.Now().Before(end); {
		if err := errors.Join(decides(t.Context(), operator, true), decides(t.Context(), stranger, false)); err != nil {
			t.Fatalf("the broken file changed something: %v", err)
		}
	}
	position := regexp.MustCompile(`bank\.yaml:\d+(:\d+)?`)
	if log := mesh.Log(t, "ledger")[before:]; broken != "" && !position.MatchString(log) {
		t.Errorf("the log does not say where in the file:\n%s", log)
	}
	overwrite(t, mesh.Policy(), original)
	bank.Eventually(t, 2*promise, func() string {
		if metrics := bank.Get(t, mesh.Program(t, "ledger").OpsAddress, "/metrics"); !strings.Contains(metrics, "countersign_policy_stale 0") {
			return "the metrics still show the broken file"
		}
		return ""
	})
}

// testRevokedStream takes away the rule that a stream was opened under, while messages flow on it. ATTACKS 45.
func testRevokedStream(t *testing.T, mesh *bank.Mesh, revoked, original string) {
	audit := mesh.Dial(t, mesh.Identity(t, "operator"), "audit")
	stream, err := auditv1.NewAuditServiceClient(audit).WatchDecisions(t.Context(), &auditv1.WatchDecisionsRequest{
		Filter: &auditv1.DecisionFilter{Method: ledgerv1.LedgerService_CheckTrialBalance_FullMethodName},
	})
	if err != nil {
		t.Fatal(err)
	}
	messages, ended := make(chan time.Time, 1000), make(chan error, 1)
	go func() {
		for {
			if _, err := stream.Recv(); err != nil {
				ended <- err
				return
			}
			messages <- time.Now()
		}
	}()
	// Decisions to watch, for as long as the test runs.
	ledger := mesh.Dial(t, mesh.Identity(t, "operator"), "ledger")
	busy := func() string {
		if err := decides(t.Context(), ledger, true); err != nil {
			t.Fatal(err)
		}
		return ""
	}
	bank.Eventually(t, 5*time.Second, func() string {
		if busy(); len(messages) == 0 {
			return "no decision was seen"
		}
		return ""
	})
	overwrite(t, mesh.Policy(), revoked)
	start := time.Now()
	bank.Eventually(t, 5*time.Second, func() string {
		busy()
		select {
		case err = <-ended:
			return ""
		default:
			return "the stream goes on after its permission ended"
		}
	})
	if _, wrong := bank.DecisionID(err); wrong != "" {
		t.Errorf("the stream ended otherwise: %s", wrong)
	}
	last := start
	for len(messages) > 0 {
		last = <-messages
	}
	t.Logf("ended after %v, last message after %v", time.Since(start).Round(time.Millisecond), last.Sub(start).Round(time.Millisecond))
	if last.Sub(start) > promise {
		t.Errorf("a message came %v after the permission ended", last.Sub(start))
	}
	overwrite(t, mesh.Policy(), original)
}

// testRevokedIdleStream takes away the rule of a stream on which nothing ever comes. ATTACKS 45.
func testRevokedIdleStream(t *testing.T, mesh *bank.Mesh, revoked, original string) {
	audit := mesh.Dial(t, mesh.Identity(t, "operator"), "audit")
	client := auditv1.NewAuditServiceClient(audit)
	watch := func(ctx context.Context) grpc.ServerStreamingClient[auditv1.WatchDecisionsResponse] {
		stream, err := client.WatchDecisions(ctx, &auditv1.WatchDecisionsRequest{
			Filter: &auditv1.DecisionFilter{PeerId: "spiffe://bank.test/nobody"},
		})
		if err != nil {
			t.Fatal(err)
		}
		return stream
	}
	bank.Eventually(t, 2*promise, func() string { // the policy of before the last test may not be in force again yet
		ctx, cancel := context.WithTimeout(t.Context(), promise/5)
		defer cancel()
		if _, err := watch(ctx).Recv(); status.Code(err) != codes.DeadlineExceeded {
			return "the stream does not stay open: " + err.Error()
		}
		return ""
	})
	stream := watch(t.Context())
	ended := make(chan error, 1)
	go func() {
		_, err := stream.Recv()
		ended <- err
	}()
	select {
	case err := <-ended:
		t.Fatalf("the stream ended before its permission: %v", err)
	case <-time.After(promise / 2):
	}
	overwrite(t, mesh.Policy(), revoked)
	start := time.Now()
	select {
	case err := <-ended:
		if _, wrong := bank.DecisionID(err); wrong != "" {
			t.Errorf("the stream ended otherwise: %s", wrong)
		}
		t.Logf("ended after %v", time.Since(start).Round(time.Millisecond))
	case <-time.After(promise):
		t.Errorf("the stream goes on %v after its permission ended", promise)
	}
	overwrite(t, mesh.Policy(), original)
}

// decides says what is wrong unless the caller may, or may not, check the trial balance.
func decides(ctx context.Context, conn grpc.ClientConnInterface, allowed bool) error {
	_, err := ledgerv1.NewLedgerServiceClient(conn).CheckTrialBalance(ctx, &ledgerv1.CheckTrialBalanceRequest{})
	if allowed {
		return err
	}
	if _, wrong := bank.DecisionID(err); wrong != "" {
		return errors.New(wrong)
	}
	return nil
}

func overwrite(t *testing.T, path, text string) {
	t.Helper()
	if err := os.WriteFile(path, []byte(text), 0o600); err != nil {
		t.Fatal(err)
	}
}

func rename(t *testing.T, path, text string) {
	t.Helper()
	overwrite(t, path+".new", text)
	if err := os.Rename(path+".new", path); err != nil {
		t.Fatal(err)
	}
}

// relink makes path a symbolic link to a new file, at once, as Kubernetes turns a ConfigMap.
func relink(t *testing.T, path, text string) {
	t.Helper()
	dir, err := os.MkdirTemp(filepath.Dir(path), "turned-") //nolint:usetesting // outlives the test that turns the link
	if err != nil {
		t.Fatal(err)
	}
	target := filepath.Join(dir, filepath.Base(path))
	overwrite(t, target, text)
	if err := os.Symlink(target, path+".link"); err != nil {
		t.Fatal(err)
	}
	if err := os.Rename(path+".link", path); err != nil {
		t.Fatal(err)
	}
}
