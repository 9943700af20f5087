package policy_test

import (
	"fmt"
	"strings"
	"testing"

	"google.golang.org/protobuf/proto"

	"github.com/countersign-mesh/countersign/pkg/identity"
	"github.com/countersign-mesh/countersign/pkg/policy"
	ledgerv1 "github.com/countersign-mesh/countersign/proto/gen/bank/ledger/v1"
)

// getBalance is the method that methodText has rules for.
const getBalance = "/bank.ledger.v1.LedgerService/GetBalance"

// methodText is a policy with rules for one method, each the inside of a flow mapping. The first rule that denies stands in line 7, or else the first
// that allows; deny stands before allow.
func methodText(deny, allow []string) string {
	var b strings.Builder
	b.WriteString("trust_domain: bank.test\nservices:\n  bank.ledger.v1.LedgerService:\n    methods:\n      GetBalance:\n")
	for _, list := range []struct {
		name  string
		rules []string
	}{{"deny", deny}, {"allow", allow}} {
		if len(list.rules) == 0 {
			continue
		}
		fmt.Fprintf(&b, "        %s:\n", list.name)
		for _, r := range list.rules {
			fmt.Fprintf(&b, "          - {%s}\n", r)
		}
	}
	if len(deny)+len(allow) == 0 {
		b.WriteString("        allow: []\n")
	}
	return b.String()
}

// What a policy says of a call, in a word.
const (
	allowed   = "allowed"
	denied    = "denied"
	undecided = "undecided"
)

func outcome(v policy.Verdict) string {
	switch {
	case v.Allowed && v.Undecided:
		return "allowed and undecided"
	case v.Allowed:
		return allowed
	case v.Undecided:
		return undecided
	}
	return denied
}

// why is the reason that the file gives for a rule. The tests' rules have different ones, so it tells which rule it is.
func why(r *policy.Rule) string {
	if r == nil {
		return ""
	}
	return r.Why
}

// balanceOf is a request of GetBalance, whose account ID conditions ask for.
func balanceOf(account string) proto.Message { return &ledgerv1.GetBalanceRequest{AccountId: account} }

type decideCase struct {
	deny, allow []string
	peer        string
	request     proto.Message
	want        string // the outcome
	rule        string // the why of the rule that is reported
	reason      string // what the reason says, from its beginning
}

func runDecide(t *testing.T, cases map[string]decideCase) {
	t.Helper()
	for name, test := range cases {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			text := methodText(test.deny, test.allow)
			call := callOf(getBalance, workload(t, test.peer))
			call.Request = test.request
			got := mustParse(t, text).Decide(call)
			if outcome(got) != test.want || why(got.Rule) != test.rule {
				t.Errorf("%s by the rule %q, want %s by %q, of\n%s", outcome(got), why(got.Rule), test.want, test.rule, text)
			}
			if !strings.HasPrefix(got.Reason, test.reason) || (got.Reason == "") != (test.want == allowed) {
				t.Errorf("the reason is %q, want %q", got.Reason, test.reason)
			}
			if got.Shadow != (policy.Shadow{}) {
				t.Errorf("nothing is in shadow, and Shadow is %+v", got.Shadow)
			}
		})
	}
}

func TestDenyWinsOverAllow(t *testing.T) {
	t.Parallel()
	runDecide(t, map[string]decideCase{
		"the same peer":                                {deny: []string{"peer: /a, why: d"}, allow: []string{"peer: /a, why: a"}, peer: "/a", want: denied, rule: "d"},
		"the same peer, written in two ways":           {deny: []string{`peer: "spiffe://bank.test/a", why: d`}, allow: []string{"peer: /a, why: a"}, peer: "/a", want: denied, rule: "d"},
		"a subtree over a peer in it":                  {deny: []string{"peer: /a/**, why: d"}, allow: []string{"peer: /a/b, why: a"}, peer: "/a/b", want: denied, rule: "d"},
		"the whole domain over a peer in it":           {deny: []string{"peer: /**, why: d"}, allow: []string{"peer: /a, why: a"}, peer: "/a", want: denied, rule: "d"},
		"the whole domain over a subtree in it":        {deny: []string{"peer: /**, why: d"}, allow: []string{"peer: /a/**, why: a"}, peer: "/a/b", want: denied, rule: "d"},
		"a peer over a subtree that it is in":          {deny: []string{"peer: /a/b, why: d"}, allow: []string{"peer: /a/**, why: a"}, peer: "/a/b", want: denied, rule: "d"},
		"a smaller subtree over a larger one":          {deny: []string{"peer: /a/b/**, why: d"}, allow: []string{"peer: /a/**, why: a"}, peer: "/a/b/c", want: denied, rule: "d"},
		"without a condition over one with":            {deny: []string{"peer: /a, why: d"}, allow: []string{"peer: /a, why: a, when: 'true'"}, peer: "/a", want: denied, rule: "d"},
		"with a condition that holds over one without": {deny: []string{"peer: /a, why: d, when: 'true'"}, allow: []string{"peer: /a, why: a"}, peer: "/a", want: denied, rule: "d"},
		"but not with one that does not hold":          {deny: []string{"peer: /a, why: d, when: 'false'"}, allow: []string{"peer: /a, why: a"}, peer: "/a", want: allowed, rule: "a"},
		"but not over the others of a subtree":         {deny: []string{"peer: /a/b, why: d"}, allow: []string{"peer: /a/**, why: a"}, peer: "/a/c", want: allowed, rule: "a"},
		"but not over what is below the peer":          {deny: []string{"peer: /a, why: d"}, allow: []string{"peer: /a/**, why: a"}, peer: "/a/c", want: allowed, rule: "a"},
		"but not over the root of a subtree":           {deny: []string{"peer: /a/**, why: d"}, allow: []string{"peer: /a, why: a"}, peer: "/a", want: allowed, rule: "a"},
		"but not over a name that starts alike":        {deny: []string{"peer: /a/**, why: d"}, allow: []string{"peer: /**, why: a"}, peer: "/ab/c", want: allowed, rule: "a"},
		"but not over another domain":                  {deny: []string{"peer: /**, why: d"}, allow: []string{`peer: "spiffe://partner.test/**", why: a`}, peer: "spiffe://partner.test/a", want: allowed, rule: "a"},
		"another domain over one of it":                {deny: []string{`peer: "spiffe://partner.test/**", why: d`}, allow: []string{`peer: "spiffe://partner.test/a", why: a`}, peer: "spiffe://partner.test/a", want: denied, rule: "d"},
		"where nothing is allowed too":                 {deny: []string{"peer: /a, why: d"}, peer: "/a", want: denied, rule: "d"},
	})
}

func TestTheMostSpecificRuleIsReported(t *testing.T) {
	t.Parallel()
	// From the least specific to the most, as the order of the file must not matter.
	all := []string{
		"peer: /**, why: domain", "peer: /t/**, why: team", "peer: /t/p/**, why: below", "peer: /t/p/x, why: one", "peer: /t/p, why: root",
		`peer: "spiffe://partner.test/**", why: partner`, `peer: "spiffe://partner.test/t/p/x", why: partner one`,
	}
	for peer, rule := range map[string]string{
		"/t/p/x":                      "one",
		"/t/p/y":                      "below",
		"/t/p/x/y":                    "below",
		"/t/p":                        "root",
		"/t/q":                        "team",
		"/t/pp/x":                     "team",
		"/t":                          "domain",
		"/tt/p/x":                     "domain",
		"spiffe://partner.test/t/p/x": "partner one",
		"spiffe://partner.test/t/p":   "partner",
	} {
		backwards := make([]string, 0, len(all))
		for _, r := range all {
			backwards = append([]string{r}, backwards...)
		}
		runDecide(t, map[string]decideCase{
			peer + " is allowed by its own":           {allow: all, peer: peer, want: allowed, rule: rule},
			peer + " is denied by its own":            {deny: all, allow: []string{"peer: /**, why: a"}, peer: peer, want: denied, rule: rule},
			peer + " is allowed by its own backwards": {allow: backwards, peer: peer, want: allowed, rule: rule},
			peer + " is denied by its own backwards":  {deny: backwards, peer: peer, want: denied, rule: rule},
		})
	}
	runDecide(t, map[string]decideCase{
		"of two for the same peer the first that holds": {
			allow: []string{"peer: /a, why: no, when: 'false'", "peer: /a, why: first, when: 'true'", "peer: /a, why: second, when: '!false'"},
			peer:  "/a", want: allowed, rule: "first",
		},
		"of two for the same peer the first that denies": {
			deny: []string{"peer: /a, why: no, when: 'false'", "peer: /a, why: first, when: 'true'", "peer: /a, why: second"},
			peer: "/a", want: denied, rule: "first",
		},
		"a condition of the peer before one of its subtree": {
			allow: []string{"peer: /a/**, why: tree, when: 'true'", "peer: /a/b, why: one, when: 'true'"}, peer: "/a/b", want: allowed, rule: "one",
		},
		"a subtree whose own conditions do not hold leaves it to the larger one": {
			allow: []string{"peer: /**, why: domain", "peer: /a/**, why: tree, when: 'false'", "peer: /a/b, why: one, when: 'false'"}, peer: "/a/b", want: allowed, rule: "domain",
		},
		"a peer whose own condition does not hold is in its subtree all the same": {
			allow: []string{"peer: /a/**, why: tree", "peer: /a/b, why: one, when: 'false'"}, peer: "/a/b", want: allowed, rule: "tree",
		},
	})
}

func TestWhoeverIsNobodyOrRevokedIsDenied(t *testing.T) {
	t.Parallel()
	parsed := mustParse(t, "revoked:\n  - id: /stolen\n  - serial: '0A:0B'\n  - id: spiffe://partner.test/stolen\n"+methodText(nil, []string{
		"peer: /**", `peer: "spiffe://partner.test/**"`, `peer: "spiffe://bank.test/stolen"`,
	}))
	for name, test := range map[string]struct {
		peer   *identity.Peer
		reason string // empty when it is allowed
	}{
		"no peer":                                {nil, "the caller has no verified identity"},
		"a peer without an ID":                   {&identity.Peer{}, "the caller has no verified identity"},
		"a peer without an ID but a serial":      {&identity.Peer{Serial: "0a0b"}, "the caller has no verified identity"},
		"a revoked ID":                           {&identity.Peer{ID: workload(t, "/stolen")}, `the SPIFFE ID "spiffe://bank.test/stolen" is revoked (p.yaml:2)`},
		"a revoked ID of another domain":         {&identity.Peer{ID: workload(t, "spiffe://partner.test/stolen")}, `the SPIFFE ID "spiffe://partner.test/stolen" is revoked (p.yaml:4)`},
		"a revoked serial number":                {&identity.Peer{ID: workload(t, "/a"), Serial: "a0b"}, "the SVID with the serial number a0b is revoked (p.yaml:3)"},
		"the same ID with another serial":        {&identity.Peer{ID: workload(t, "/a"), Serial: "a0c"}, ""},
		"an ID below one that is revoked":        {&identity.Peer{ID: workload(t, "/stolen/x")}, ""},
		"a revoked path in another domain":       {&identity.Peer{ID: workload(t, "spiffe://partner.test/a")}, ""},
		"an ID that looks like one (ATTACKS 13)": {&identity.Peer{ID: workload(t, "/stolen-not")}, ""},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			got := parsed.Decide(policy.Call{Method: getBalance, Peer: test.peer})
			if got.Allowed != (test.reason == "") || got.Undecided || got.Reason != test.reason || (got.Rule != nil) != got.Allowed {
				t.Errorf("Decide = %+v, want %q", got, test.reason)
			}
		})
	}
}

func TestNoPolicyDeniesAndHasNothing(t *testing.T) {
	t.Parallel()
	var none *policy.Policy
	peer := &identity.Peer{ID: workload(t, "/a")}
	if got := none.Decide(policy.Call{Method: getBalance, Peer: peer}); got != (policy.Verdict{Reason: "there is no policy"}) {
		t.Errorf("Decide = %+v", got)
	}
	if err := none.Dials(peer.ID, peer.ID); err == nil || err.Error() != "there is no policy" {
		t.Errorf("Dials = %v", err)
	}
	if got := none.Version(); got != "" {
		t.Errorf("Version = %q", got)
	}
	if got := none.Revocations(); got.Check(peer) != nil {
		t.Error("somebody is revoked")
	}
	if m, ok := none.Method(getBalance); m != nil || ok {
		t.Errorf("Method = %v, %v", m, ok)
	}
	for service := range none.Services() {
		t.Errorf("there is a service %v", service)
	}
	for method, peer := range none.Allows() {
		t.Errorf("%s may call %s", peer, method)
	}
	if got := (*policy.Rule)(nil).Place(); got != "" {
		t.Errorf("no rule stands at %q", got)
	}
}
