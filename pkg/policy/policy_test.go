package policy_test

import (
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/spiffe/go-spiffe/v2/spiffeid"

	"github.com/countersign-mesh/countersign/pkg/identity"
	"github.com/countersign-mesh/countersign/pkg/policy"
)

const policyText = `trust_domain: bank.test
services:
  bank.ledger.v1.LedgerService:
    methods:
      PostTransfer:
        allow:
          - peer: /payments
            why: moves money
      GetBalance:
        allow:
          - peer: spiffe://bank.test/accounts
          - peer: spiffe://partner.test/reader
      Burn:
        allow: []
`

func mustParse(t testing.TB, text string) *policy.Policy {
	t.Helper()
	parsed, err := policy.Parse("p.yaml", []byte(text))
	if err != nil {
		t.Fatal(err)
	}
	return parsed
}

// callOf is a call of a method by a peer, whose request is not known.
func callOf(method string, peer spiffeid.ID) policy.Call {
	return policy.Call{Method: method, Peer: &identity.Peer{ID: peer}}
}

func TestDecide(t *testing.T) {
	t.Parallel()
	parsed := mustParse(t, policyText)
	const service = "/bank.ledger.v1.LedgerService/"
	for name, test := range map[string]struct {
		method string
		peer   string
		rule   string // where the rule stands, when it is allowed
		reason string // what the reason says, when it is denied
	}{
		"the short form allows the peer of the own trust domain":  {service + "PostTransfer", "spiffe://bank.test/payments", "p.yaml:7", ""},
		"the whole form allows the same kind of peer":             {service + "GetBalance", "spiffe://bank.test/accounts", "p.yaml:11", ""},
		"a peer of another trust domain is allowed when named":    {service + "GetBalance", "spiffe://partner.test/reader", "p.yaml:12", ""},
		"another peer is denied and told apart":                   {service + "PostTransfer", "spiffe://bank.test/risk", "", "p.yaml:5: allowed for /payments; the caller is /risk"},
		"the same path in another trust domain is denied":         {service + "PostTransfer", "spiffe://evil.test/payments", "", "the caller is spiffe://evil.test/payments"},
		"a trust domain that starts alike is denied (ATTACKS 13)": {service + "PostTransfer", "spiffe://bank.test.evil/payments", "", "allowed for /payments"},
		"a path that starts alike is denied (ATTACKS 13)":         {service + "PostTransfer", "spiffe://bank.test/payments-evil", "", "allowed for /payments"},
		"a path beneath is denied (ATTACKS 13)":                   {service + "PostTransfer", "spiffe://bank.test/payments/x", "", "allowed for /payments"},
		"an empty list allows nobody":                             {service + "Burn", "spiffe://bank.test/payments", "", "nobody is allowed"},
		"a method without rules is denied":                        {service + "Nothing", "spiffe://bank.test/payments", "", "has no rules"},
		"a service without rules is denied":                       {"/bank.x.v1.X/PostTransfer", "spiffe://bank.test/payments", "", "has no rules"},
		"a path without a leading slash is denied":                {"bank.ledger.v1.LedgerService/PostTransfer", "spiffe://bank.test/payments", "", "has no rules"},
		"a doubled slash is denied":                               {"/" + service + "PostTransfer", "spiffe://bank.test/payments", "", "has no rules"},
		"another case is denied":                                  {service + "posttransfer", "spiffe://bank.test/payments", "", "has no rules"},
		"an empty path is denied":                                 {"", "spiffe://bank.test/payments", "", "has no rules"},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			got := parsed.Decide(callOf(test.method, spiffeid.RequireFromString(test.peer)))
			if got.Allowed != (test.rule != "") || got.Rule.Place() != test.rule {
				t.Errorf("Decide = %+v, want the rule %q", got, test.rule)
			}
			if !strings.Contains(got.Reason, test.reason) || (got.Reason == "") != (test.reason == "") {
				t.Errorf("the reason is %q, want %q", got.Reason, test.reason)
			}
		})
	}
}

func TestDecideDeniesNobodyAndWithoutPolicy(t *testing.T) {
	t.Parallel()
	if got := mustParse(t, policyText).Decide(callOf("/bank.ledger.v1.LedgerService/PostTransfer", spiffeid.ID{})); got.Allowed {
		t.Error("the zero ID was allowed")
	}
	var none *policy.Policy
	if got := none.Decide(callOf("/bank.ledger.v1.LedgerService/PostTransfer", spiffeid.RequireFromString("spiffe://bank.test/payments"))); got.Allowed {
		t.Error("no policy allowed a call")
	}
}

func TestParseRefuses(t *testing.T) {
	t.Parallel()
	for name, test := range map[string]struct{ old, new, want string }{
		"a peer that is not a SPIFFE ID":         {"spiffe://bank.test/accounts", "spiffe://bank.test:80/accounts", "p.yaml:11:13: peer"},
		"a peer with a percent sign":             {"/payments", "/pay%6Dents", "p.yaml:7:13: peer"},
		"a peer with a dot segment":              {"/payments", "/a/../payments", "p.yaml:7:13: peer"},
		"a peer with a trailing slash":           {"/payments", "/payments/", "p.yaml:7:13: peer"},
		"a peer that is a trust domain":          {"spiffe://partner.test/reader", "spiffe://partner.test", "names a trust domain and no workload"},
		"a peer that stands twice":               {"spiffe://partner.test/reader", "/accounts", `p.yaml:12:13: peer "/accounts" stands already under allow at p.yaml:11`},
		"a peer of another kind":                 {"/payments", "payments", "p.yaml:7"},
		"a trust domain with a path":             {"bank.test\n", "bank.test/x\n", "p.yaml:1:15"},
		"a trust domain in upper case":           {"bank.test\n", "BANK.test\n", "p.yaml:1:15"},
		"a method with a slash":                  {"Burn:", "x/Burn:", "p.yaml:13"},
		"a rule with an unknown field":           {"why: moves money", "unless: true", `p.yaml:8:13: unknown field "unless"`},
		"a service without methods":              {"  bank.ledger.v1", "  a.B: {}\n  bank.ledger.v1", "p.yaml:3"},
		"no rules at all":                        {policyText, "trust_domain: bank.test\n", "services"},
		"two mistakes, of which it reports both": {"spiffe://partner.test/reader", "/UPPER/ /\n          - peer: /x/../y", "p.yaml:13:13"},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			_, err := policy.Parse("p.yaml", []byte(strings.Replace(policyText, test.old, test.new, 1)))
			if err == nil {
				t.Fatal("it was accepted")
			}
			if !strings.Contains(err.Error(), test.want) {
				t.Errorf("the error is\n%v\nand does not contain\n%s", err, test.want)
			}
		})
	}
}

func TestCovers(t *testing.T) {
	t.Parallel()
	parsed := mustParse(t, policyText)
	has := func(methods ...string) map[string][]string {
		return map[string][]string{"bank.ledger.v1.LedgerService": methods}
	}
	for name, test := range map[string]struct {
		services map[string][]string
		want     string
	}{
		"each method has rules":         {has("GetBalance", "Burn", "PostTransfer"), ""},
		"a method has no rules":         {has("GetBalance", "Burn", "PostTransfer", "Audit"), "p.yaml:3:3: the method Audit of bank.ledger.v1.LedgerService has no rules"},
		"a rule names no method":        {has("GetBalance", "PostTransfer"), "p.yaml:13:7: bank.ledger.v1.LedgerService has no method Burn; it has GetBalance, PostTransfer"},
		"a service has no rules":        {map[string][]string{"a.B": {}}, "p.yaml: the service a.B is served here and has no rules"},
		"a server has no such services": {nil, ""},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			err := parsed.Covers(test.services)
			if (err == nil) != (test.want == "") || err != nil && !strings.Contains(err.Error(), test.want) {
				t.Errorf("Covers = %v, want %q", err, test.want)
			}
		})
	}
}

func TestTheBanksPolicyParses(t *testing.T) {
	t.Parallel()
	data, err := os.ReadFile("../../deploy/policy/bank.yaml")
	if err != nil {
		t.Fatal(err)
	}
	if _, err := policy.Parse("bank.yaml", data); err != nil {
		t.Error(err)
	}
}

func TestASourceYieldsTheFilesThatCouldBeRead(t *testing.T) {
	t.Parallel()
	dir := t.TempDir()
	main := filepath.Join(dir, "main.yaml")
	for name, text := range map[string]string{
		main:                         "trust_domain: bank.test\ninclude:\n  - {file: a.yaml, services: [a.v1.A]}\n  - {file: gone.yaml, services: [b.v1.B]}\n",
		filepath.Join(dir, "a.yaml"): "trust_domain: bank.test\nservices: {a.v1.A: {methods: {Get: {}}}}\n",
	} {
		if err := os.WriteFile(name, []byte(text), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	source, err := policy.Read(main)
	if err != nil {
		t.Fatal(err)
	}
	var names []string
	for name, text := range source.Files() {
		names = append(names, filepath.Base(name))
		if !strings.HasPrefix(string(text), "trust_domain: bank.test\n") {
			t.Errorf("the text of %s is %q", name, text)
		}
	}
	if got := strings.Join(names, " "); got != "main.yaml a.yaml" || len(source.Names()) != 3 {
		t.Errorf("the files are %s of %v", got, source.Names())
	}
}
