package policytest_test

import (
	"path/filepath"
	"testing"

	"github.com/countersign-mesh/countersign/cmd/countersign/internal/contracts"
	"github.com/countersign-mesh/countersign/cmd/countersign/internal/policytest"
	"github.com/countersign-mesh/countersign/pkg/policy"
)

var bankFolder = filepath.Join("..", "..", "..", "..", "deploy", "policy")

// What `countersign policy test --all-rules` asks of the bank's policy. ATTACKS 13 and 43 are among the cases.
func TestTheBanksPolicyDecidesWhatItsTableWants(t *testing.T) {
	t.Parallel()
	set := contracts.Bank()
	p, err := policy.Load(filepath.Join(bankFolder, "bank.yaml"), policy.WithDescriptors(set))
	if err != nil {
		t.Fatal(err)
	}
	table, err := policytest.Read(filepath.Join(bankFolder, "bank_test.yaml"))
	if err != nil {
		t.Fatal(err)
	}
	results := table.Run(p, set)
	for _, r := range results {
		if r.Err != nil {
			t.Errorf("%s: %s: %v\nwant %s\nis   %s", r.Place, r.Name, r.Err, r.Want, r.Got)
		}
		if r.Unknown {
			t.Errorf("%s: %s: no contract has the method %s; if that is the point, the case needs a name that says so", r.Place, r.Name, r.Method)
		}
	}
	for _, rule := range policytest.Untested(p, results) {
		t.Errorf("%s: no case is decided by this rule: %s %s", rule.Position, rule.Effect, rule.Written)
	}
	if len(results) < 100 {
		t.Errorf("there are %d cases", len(results))
	}
}
