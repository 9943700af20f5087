package main

import (
	"path/filepath"
	"strings"
	"testing"
)

func TestPolicyGraph(t *testing.T) {
	t.Parallel()
	bank := filepath.Join("..", "..", "deploy", "policy", "bank.yaml")
	for format, want := range map[string]string{
		"":                 "\nflowchart LR\n",
		"--format=mermaid": `|"LedgerService: CaptureHold (under a condition), PostTransfer (under a condition), ReleaseHold, ReserveFunds (under a condition)"| `,
		"--format=dot":     `"spiffe://bank.test/payments" -> "spiffe://bank.test/ledger" [label="LedgerService: CaptureHold (under a condition), PostTransfer (under a condition), ReleaseHold, ReserveFunds (under a condition)"]`,
	} {
		args := []string{"policy", "graph", "--policy", bank}
		if format != "" {
			args = append(args, format)
		}
		out, err := countersign(t, args...)
		if err != nil || !strings.Contains(out, want) {
			t.Errorf("%q: the error is %v, and the output\n%s\nwant in it %s", format, err, out, want)
		}
	}
	if _, err := countersign(t, "policy", "graph", "--policy", bank, "--format=svg"); exitCode(err) != codeUsage {
		t.Errorf("of another format: %v", err)
	}
	if _, err := countersign(t, "policy", "graph"); err == nil || !strings.Contains(err.Error(), "--policy") {
		t.Errorf("without a file and a mesh: %v", err)
	}
}
