package authz_test

import (
	"log/slog"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/countersign-mesh/countersign/pkg/authz"
)

const (
	mainText = `trust_domain: bank.test
include:
  - file: teams/ledger.yaml
    services: [bank.ledger.v1.LedgerService]
`
	ledgerText = policyText
)

// includedPolicy writes a policy that consists of two files and watches it.
func includedPolicy(t *testing.T) (ledger string, file *authz.File, out *log) {
	t.Helper()
	dir := t.TempDir()
	if err := os.Mkdir(filepath.Join(dir, "teams"), 0o700); err != nil {
		t.Fatal(err)
	}
	ledger = filepath.Join(dir, "teams", "ledger.yaml")
	write(t, ledger, ledgerText)
	write(t, filepath.Join(dir, "p.yaml"), mainText)
	out = &log{}
	file, err := authz.Open(filepath.Join(dir, "p.yaml"), authz.WithFileLogger(slog.New(slog.NewTextHandler(out, nil))))
	if err != nil {
		t.Fatal(err)
	}
	watch(t, file)
	return ledger, file, out
}

// A team edits its own file, which no notification of the main file's directory tells of.
func TestAnIncludedFileIsWatched(t *testing.T) {
	t.Parallel()
	ledger, file, _ := includedPolicy(t)
	if !allows(file, payments) || allows(file, risk) {
		t.Fatal("the included rules are not in force")
	}
	before := file.Policy().Version()
	write(t, ledger+".new", strings.Replace(ledgerText, "/payments", "/risk", 1))
	if err := os.Rename(ledger+".new", ledger); err != nil {
		t.Fatal(err)
	}
	eventually(t, 2*inForce, "the change of the included file is in force", func() bool { return allows(file, risk) && !allows(file, payments) })
	if file.Policy().Version() == before {
		t.Error("another policy has the same version")
	}
}

// ATTACKS 50: one team's mistake changes nothing, and says in which file it is.
func TestABrokenIncludedFileChangesNothing(t *testing.T) {
	t.Parallel()
	for name, test := range map[string]struct {
		breakIt func(t *testing.T, path string)
		logged  string
	}{
		"that has a mistake": {func(t *testing.T, path string) { write(t, path, ledgerText+"allow_all: true\n") }, `ledger.yaml:15:1: unknown field`},
		"that is truncated":  {func(t *testing.T, path string) { write(t, path, ledgerText[:40]) }, "ledger.yaml"},
		"that is gone": {func(t *testing.T, path string) {
			if err := os.Remove(path); err != nil {
				t.Fatal(err)
			}
		}, "p.yaml:3:5: open "},
		"that takes another team's service": {func(t *testing.T, path string) {
			write(t, path, ledgerText+"  bank.risk.v1.RiskService: {methods: {AssessPayment: {allow: [{peer: /risk}]}}}\n")
		}, "ledger.yaml:15:3: the file that includes this one lets it have no rules for bank.risk.v1.RiskService"},
		"that revokes": {func(t *testing.T, path string) { write(t, path, ledgerText+"revoked: [{id: /gateway}]\n") }, "ledger.yaml:15:1: revocations stand in the main file"},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			ledger, file, out := includedPolicy(t)
			before := file.Policy()
			test.breakIt(t, ledger)
			eventually(t, 5*time.Second, "the failure is reported", func() bool { return file.Status().Failure != nil })
			if file.Policy() != before {
				t.Error("another policy is in force")
			}
			if !strings.Contains(out.String(), test.logged) {
				t.Errorf("the log does not say %q:\n%s", test.logged, out)
			}
			write(t, ledger, ledgerText)
			eventually(t, 5*time.Second, "the file that is mended is accepted", func() bool { return file.Status().Failure == nil })
		})
	}
}
