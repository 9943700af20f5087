package main

import (
	"os"
	"path/filepath"
	"regexp"
	"strings"
	"testing"

	"google.golang.org/protobuf/encoding/protojson"

	"github.com/countersign-mesh/countersign/cmd/countersign/internal/contracts"
	"github.com/countersign-mesh/countersign/pkg/policy"
)

func TestLearnReadsTheAuditLogOfTheMesh(t *testing.T) {
	t.Parallel()
	b, log := newAuditedBank(t, "ledger")
	b.Identity(t, "/risk")
	for range 3 {
		call := b.connect(t, "/risk", "ledger") // is denied
		_ = call()
	}
	if out, err := b.countersign(t, "peers", "ledger"); err != nil {
		t.Fatalf("%v:\n%s", err, out)
	}
	out, err := b.countersign(t, "policy", "learn")
	if err != nil {
		t.Fatalf("%v:\n%s", err, out)
	}
	for _, want := range []string{
		`\n  spiffe://bank\.test/risk +/mesh\.admin\.v1\.AdminService/ListCuts +6 .* under mesh\.admin\.v1\.AdminService/ListCuts allow: - peer: /risk\n`,
		`\n  bank\.yaml:\d+ +/bank\.ledger\.v1\.LedgerService/ReleaseHold +allow +/payments +-\n`,
		`\n  spiffe://bank\.test/gateway has recorded nothing`,
	} {
		if !regexp.MustCompile(want).MatchString(out) {
			t.Errorf("nothing in it matches %s:\n%s", want, out)
		}
	}
	if regexp.MustCompile(`AdminService/ListConnections +allow`).MatchString(out) {
		t.Errorf("a rule that was used is among those that were not:\n%s", out)
	}
	markdown, err := b.countersign(t, "policy", "learn", "--format=markdown")
	if err != nil || !strings.Contains(markdown, "\n## Rules that never decided\n\n| rule | method |") {
		t.Errorf("%v:\n%s", err, markdown)
	}

	path := filepath.Join(t.TempDir(), "least.yaml")
	if out, err := b.countersign(t, "policy", "learn", "--least", path); err != nil || !strings.Contains(out, "\nThe least policy is in "+path) {
		t.Errorf("%v:\n%s", err, out)
	}
	least, err := policy.Load(path)
	if err != nil {
		t.Fatal(err)
	}
	if err := least.Covers(methodsOf(least, contracts.Bank())); err != nil {
		t.Errorf("it does not fit the bank: %v", err)
	}
	if _, err := b.countersign(t, "policy", "learn", "--least", path); err == nil || !strings.Contains(err.Error(), "is there already") {
		t.Errorf("a file that is there: %v", err)
	}

	var lines strings.Builder
	records, _ := log.after(0)
	for _, r := range records {
		lines.WriteString(protojson.MarshalOptions{}.Format(r) + "\n")
	}
	fromFile := filepath.Join(t.TempDir(), "audit.jsonl")
	if err := os.WriteFile(fromFile, []byte(lines.String()), 0o600); err != nil {
		t.Fatal(err)
	}
	for _, from := range []string{fromFile, "-"} {
		out, _, err := b.answering(t, strings.NewReader(lines.String()), "policy", "learn", "--from", from, "--least=-", "--with-denied")
		if err != nil || !strings.HasPrefix(out, "# The least policy ") || !strings.Contains(out, "# - peer: /risk # denied 6 times") {
			t.Errorf("--from %s: %v:\n%s", from, err, out)
		}
		if _, err := policy.Parse("least.yaml", []byte(out)); err != nil {
			t.Error(err)
		}
	}
}
