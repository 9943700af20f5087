package policyview

import (
	"strings"
	"testing"

	"github.com/countersign-mesh/countersign/pkg/policy"
	// The contracts that conditions of the tests are over.
	_ "github.com/countersign-mesh/countersign/proto/gen/bank/ledger/v1"
)

const ledger = "bank.ledger.v1.LedgerService"

func mustParse(t testing.TB, text string) *policy.Policy {
	t.Helper()
	parsed, err := policy.Parse("p.yaml", []byte(text))
	if err != nil {
		t.Fatal(err)
	}
	return parsed
}

// ledgerPolicy is a policy with these methods of the ledger, each "Method: rules" with the rules in YAML's flow style.
func ledgerPolicy(t testing.TB, methods ...string) *policy.Policy {
	t.Helper()
	return mustParse(t, ledgerText(methods...))
}

func ledgerText(methods ...string) string {
	text := "trust_domain: bank.test\nservices:\n  " + ledger + ":\n    served_by: [/ledger]\n    methods:\n"
	return text + "      " + strings.Join(methods, "\n      ") + "\n"
}
