package policy_test

import (
	"testing"

	"github.com/spiffe/go-spiffe/v2/spiffeid"

	"github.com/countersign-mesh/countersign/pkg/policy"
)

var own = spiffeid.RequireTrustDomainFromString("bank.test")

func mustPattern(t testing.TB, text string) policy.Pattern {
	t.Helper()
	pattern, err := policy.ParsePattern(own, text)
	if err != nil {
		t.Fatal(err)
	}
	return pattern
}

func TestPatternCovers(t *testing.T) {
	t.Parallel()
	for name, test := range map[string]struct {
		pattern, other string
		want           bool
	}{
		"an ID covers itself":                              {"/payments", "/payments", true},
		"an ID covers itself, written whole":               {"/payments", "spiffe://bank.test/payments", true},
		"an ID does not cover another":                     {"/payments", "/risk", false},
		"an ID does not cover its path in another domain":  {"/payments", "spiffe://partner.test/payments", false},
		"an ID does not cover what is below it":            {"/payments", "/payments/x", false},
		"an ID does not cover the subtree below it":        {"/payments", "/payments/**", false},
		"a subtree covers itself":                          {"/payments/**", "/payments/**", true},
		"a subtree covers an ID in it":                     {"/payments/**", "/payments/x", true},
		"a subtree covers a subtree in it":                 {"/payments/**", "/payments/x/**", true},
		"a subtree does not cover its root":                {"/payments/**", "/payments", false},
		"a subtree does not cover the one above it":        {"/payments/x/**", "/payments/**", false},
		"a subtree does not cover its sibling":             {"/payments/**", "/risk/**", false},
		"a subtree does not cover one that starts alike":   {"/payments/**", "/payments-evil/**", false},
		"the own domain covers an ID":                      {"/**", "/payments", true},
		"the own domain covers a subtree":                  {"/**", "/payments/**", true},
		"the own domain covers itself":                     {"/**", "spiffe://bank.test/**", true},
		"the own domain does not cover another domain":     {"/**", "spiffe://partner.test/**", false},
		"the own domain does not cover one that is longer": {"/**", "spiffe://bank.test.evil/x", false},
		"a subtree does not cover its domain":              {"/payments/**", "/**", false},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			if got := mustPattern(t, test.pattern).Covers(mustPattern(t, test.other)); got != test.want {
				t.Errorf("%s covers %s: %v, want %v", test.pattern, test.other, got, test.want)
			}
		})
	}
}
