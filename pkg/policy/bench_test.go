package policy_test

import (
	"fmt"
	"strings"
	"testing"

	"github.com/countersign-mesh/countersign/pkg/identity"
	"github.com/countersign-mesh/countersign/pkg/policy"
)

// A call that a rule without a condition allows costs no allocation, whichever way the rule names its peer.
func TestDecideDoesNotAllocate(t *testing.T) {
	rules := []string{
		"peer: /a", "peer: /tree/**", `peer: "spiffe://partner.test/**"`, `peer: /both/**, when: "false"`, "peer: /both/x",
		// A condition is not evaluated where a rule without one allows the call.
		"peer: /maybe, when: peer.path != '/maybe'", "peer: /maybe", "peer: /perhaps/x, when: peer.path == '/perhaps/x'", "peer: /perhaps/**",
	}
	plain := mustParse(t, methodText(nil, rules))
	// A rule that denies somebody else costs the others nothing, nor does one in shadow, nor does a list of the revoked.
	beside := mustParse(t, "revoked: [{id: /stolen}, {serial: c0ffee}]\n"+methodText([]string{"peer: /a/**", "peer: /tree/x/y"}, append(rules, "peer: /z/**, shadow: true")))
	for _, peer := range []string{"/a", "/tree/x", "/tree/x/y/z/0/1/2/3", "spiffe://partner.test/x", "/both/x", "/maybe", "/perhaps/x"} {
		for name, parsed := range map[string]*policy.Policy{"rules that allow": plain, "others beside them": beside} {
			call := callOf(getBalance, workload(t, peer))
			call.Peer.Serial = "a1"
			allocs := testing.AllocsPerRun(100, func() {
				if got := parsed.Decide(call); !got.Allowed {
					t.Errorf("%s: %+v", peer, got)
				}
			})
			if allocs != 0 {
				t.Errorf("with %s, to allow %s makes %v allocations, want 0", name, peer, allocs)
			}
		}
	}
}

// perMethod is how many rules a method has in a policy that spreads them.
const perMethod = 10

// largePolicy has n rules: perMethod a method, or all within one.
func largePolicy(n int, spread bool, rule func(i int) string) string {
	var b strings.Builder
	b.WriteString("trust_domain: bank.test\nservices:\n  bank.ledger.v1.LedgerService:\n    methods:\n")
	for i := range n {
		switch {
		case spread && i == n-perMethod, !spread && i == 0: // the last method of all, or the only one
			b.WriteString("      PostTransfer:\n        allow:\n")
		case spread && i%perMethod == 0:
			fmt.Fprintf(&b, "      M%d:\n        allow:\n", i/perMethod)
		}
		fmt.Fprintf(&b, "          - {%s}\n", rule(i))
	}
	return b.String()
}

func BenchmarkDecide(b *testing.B) {
	exact := func(i int) string { return fmt.Sprintf("peer: /team/w%d", i) }
	tree := func(i int) string { return fmt.Sprintf("peer: /team/w%d/**", i) }
	when := func(condition string) func(int) string {
		return func(i int) string { return fmt.Sprintf("peer: /team/w%d, when: '%s'", i, condition) }
	}
	for _, test := range []struct {
		name  string
		rule  func(int) string
		peer  string // of the last rule
		allow bool
	}{
		{"exact", exact, "/team/w%d", true},
		{"subtree", tree, "/team/w%d/zone/x", true},
		{"when-peer", when(`peer.trust_domain == "bank.test"`), "/team/w%d", true},
		{"when-request", when(`request.description == "rent" && request.postings[0].amount.minor_units < 1000`), "/team/w%d", true},
		{"when-each", when(`request.postings.all(p, p.amount.minor_units < 1000)`), "/team/w%d", true},
		{"denied", exact, "/team/v%d", false},
	} {
		for _, rules := range []int{10, 1_000, 100_000} {
			for _, place := range []string{"methods", "one-method"} {
				b.Run(fmt.Sprintf("%s/rules=%d/in=%s", test.name, rules, place), func(b *testing.B) {
					if strings.Contains(test.name, "when") && rules > 1_000 {
						b.Skip("to compile so many conditions takes minutes")
					}
					parsed := mustParse(b, largePolicy(rules, place == "methods", test.rule))
					call := policy.Call{
						Method:  postTransfer,
						Peer:    &identity.Peer{ID: workload(b, fmt.Sprintf(test.peer, rules-1)), Serial: "c0ffee"},
						Request: transfer(5, -5),
					}
					b.ReportAllocs()
					for b.Loop() {
						if parsed.Decide(call).Allowed != test.allow {
							b.Fatal(parsed.Decide(call))
						}
					}
				})
			}
		}
	}
}
