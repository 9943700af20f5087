package policytest_test

import (
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"

	"github.com/countersign-mesh/countersign/cmd/countersign/internal/contracts"
	"github.com/countersign-mesh/countersign/cmd/countersign/internal/policytest"
	"github.com/countersign-mesh/countersign/pkg/policy"
)

const policyText = `trust_domain: bank.test
revoked: [{id: /thief}]
services:
  bank.risk.v1.RiskService:
    served_by: [/risk]
    methods:
      AssessPayment:
        deny:
          - {peer: /branch/south, why: closed}
        allow:
          - {peer: /payments, why: asks before it posts}
          - {peer: /branch/**}
          - {peer: /counter, when: request.amount.minor_units <= 500, why: small amounts}
          - {peer: /trainee, shadow: true}
          - {peer: /thief}
          - {peer: /gateway, user: transfer, when: request.payer_customer_id == user.subject && user.context.payment_id == request.payment_id, why: for the customer}
`

func mustParse(t *testing.T, text string) *policy.Policy {
	t.Helper()
	p, err := policy.Parse("bank.yaml", []byte(text), policy.WithDescriptors(contracts.Bank()))
	if err != nil {
		t.Fatal(err)
	}
	return p
}

// run runs cases, each of which has a line of its own.
func run(t *testing.T, p *policy.Policy, cases ...string) []policytest.Result {
	t.Helper()
	table, err := policytest.Parse("bank_test.yaml", []byte("cases:\n  - "+strings.Join(cases, "\n  - ")+"\n"))
	if err != nil {
		t.Fatal(err)
	}
	return table.Run(p, contracts.Bank())
}

const assess = "method: bank.risk.v1.RiskService/AssessPayment"

func TestACasePasses(t *testing.T) {
	t.Parallel()
	for name, text := range map[string]string{
		"allowed":                                   "{peer: /payments, " + assess + ", want: allowed}",
		"allowed by the rule with that reason":      "{peer: /payments, " + assess + ", want: allowed, rule: asks before it posts}",
		"allowed by the rule for that peer":         "{peer: /branch/north, " + assess + ", want: allowed, rule: /branch/**}",
		"allowed to a peer that is written whole":   "{peer: 'spiffe://bank.test/payments', " + assess + ", want: allowed}",
		"denied since no rule allows it":            "{peer: /risk, " + assess + ", want: denied}",
		"denied by a rule":                          "{peer: /branch/south, " + assess + ", want: denied, rule: closed}",
		"denied to a revoked peer":                  "{peer: /thief, " + assess + ", want: denied}",
		"denied to whom shadow alone allows":        "{peer: /trainee, " + assess + ", want: denied}",
		"allowed by what is in the request":         "{peer: /counter, " + assess + ", request: {amount: {minor_units: 500}}, want: allowed, rule: small amounts}",
		"denied by what is in the request":          "{peer: /counter, " + assess + ", request: {amount: {minorUnits: '501'}}, want: denied}",
		"a number that no float holds":              "{peer: /counter, " + assess + ", request: {amount: {minor_units: 9007199254740993}}, want: denied}",
		"decided by an empty request":               "{peer: /counter, " + assess + ", request: {}, want: allowed}",
		"allowed for a user":                        "{peer: /gateway, " + assess + ", request: {payer_customer_id: alice, payment_id: p}, user: {subject: alice, scope: transfer, transaction: t, context: {payment_id: p}}, want: allowed, rule: for the customer}",
		"denied for another user":                   "{peer: /gateway, " + assess + ", request: {payer_customer_id: alice, payment_id: p}, user: {subject: bob, scope: transfer, context: {payment_id: p}}, want: denied}",
		"denied for another scope":                  "{peer: /gateway, " + assess + ", request: {payer_customer_id: alice, payment_id: p}, user: {subject: alice, scope: accounts.read, context: {payment_id: p}}, want: denied}",
		"denied without a user":                     "{peer: /gateway, " + assess + ", want: denied}",
		"a method that there is not":                "{peer: /payments, method: bank.risk.v1.RiskService/NoSuch, want: denied}",
		"a method of a service that there is not":   "{peer: /payments, method: no.such.v1.Service/NoSuch, want: denied}",
		"denied to a peer of another trust domain":  "{peer: 'spiffe://bank.test.evil/payments', " + assess + ", want: denied}",
		"a request that the rule does not ask for":  "{peer: /payments, " + assess + ", request: {payment_id: pay-1}, want: allowed}",
		"a denial whatever is asked of the request": "{peer: /branch/south, " + assess + ", request: {amount: {minor_units: 1}}, want: denied, rule: /branch/south}",
	} {
		if r := run(t, mustParse(t, policyText), text)[0]; r.Err != nil {
			t.Errorf("%s: %v; want %s, is %s", name, r.Err, r.Want, r.Got)
		}
	}
}

func TestACaseFails(t *testing.T) {
	t.Parallel()
	for name, test := range map[string]struct{ text, err, want, got string }{
		"it is denied": {
			"{peer: /risk, " + assess + ", want: allowed}", "it is decided otherwise",
			"allowed", "denied: bank.yaml:7: allowed for /payments, /branch/**, /counter, /thief, /gateway; the caller is /risk",
		},
		"it is allowed": {
			"{peer: /payments, " + assess + ", want: denied}", "it is decided otherwise",
			"denied", "allowed: bank.yaml:11: allowed for /payments: asks before it posts",
		},
		"it is allowed by a rule without a reason": {
			"{peer: /branch/north, " + assess + ", want: denied}", "it is decided otherwise", "denied", "allowed: bank.yaml:12: allowed for /branch/**",
		},
		"another rule allows it": {
			"{peer: /payments, " + assess + ", want: allowed, rule: /branch/**}", "another rule decides",
			`allowed by the rule "/branch/**"`, "allowed: bank.yaml:11: allowed for /payments: asks before it posts",
		},
		"no rule denies it": {
			"{peer: /risk, " + assess + ", want: denied, rule: closed}", "no rule decides; what no rule allows is denied",
			`denied by the rule "closed"`, "denied: bank.yaml:7: allowed for ",
		},
		"it is undecided": {
			"{peer: /counter, " + assess + ", want: allowed}", "it depends on the request, which the case does not have; add one under request",
			"allowed", "undecided: bank.yaml:13: it depends on the request: the rule allows /counter when request.amount.minor_units <= 500",
		},
		"it is undecided, and a denial is wanted": {
			"{peer: /counter, " + assess + ", want: denied}", "it depends on the request", "denied", "undecided: ",
		},
		"a condition does not hold": {
			"{peer: /counter, " + assess + ", request: {amount: {minor_units: 501}}, want: allowed}", "it is decided otherwise",
			"allowed", "denied: bank.yaml:13: allowed for /counter when request.amount.minor_units <= 500, which this call is not",
		},
		"the request is another one's": {
			"{peer: /counter, " + assess + ", request: {amuont: 1}, want: denied}", "request: no bank.risk.v1.AssessPaymentRequest: ", "denied", "nothing: request: ",
		},
		"the request is of a method that there is not": {
			"{peer: /counter, method: bank.risk.v1.RiskService/NoSuch, request: {}, want: denied}",
			`request: bank.risk.v1.RiskService has no method "NoSuch"; it has AssessPayment`, "denied", "nothing: ",
		},
		"the peer is many": {
			"{peer: /branch/**, " + assess + ", want: denied}", `peer: "/branch/**" is no workload's SPIFFE ID: `, "denied", "nothing: ",
		},
		"the peer is a trust domain": {
			"{peer: 'spiffe://bank.test/', " + assess + ", want: denied}", `peer: "spiffe://bank.test/" is no workload's SPIFFE ID`, "denied", "nothing: ",
		},
	} {
		r := run(t, mustParse(t, policyText), "{peer: /risk, "+assess+", want: denied}", test.text)[1]
		if r.Err == nil {
			t.Errorf("%s: it passed", name)
			continue
		}
		if !strings.HasPrefix(r.Err.Error(), test.err) || r.Want != test.want || !strings.HasPrefix(r.Got, test.got) || r.Place.String() != "bank_test.yaml:3:5" {
			t.Errorf("%s: %s: %v; want %s, is %s", name, r.Place, r.Err, r.Want, r.Got)
		}
	}
}

func TestACaseHasAName(t *testing.T) {
	t.Parallel()
	results := run(t, mustParse(t, policyText),
		"{peer: /payments, method: bank.risk.v1.RiskService/NoSuch, want: denied}",
		"{name: nobody burns money, peer: /payments, method: bank.risk.v1.RiskService/Burn, want: denied}",
		"{peer: /payments, "+assess+", want: allowed}",
	)
	var got []string
	for _, r := range results {
		got = append(got, r.Name)
		// A name says that a method that there is not is the point.
		if unknown := r.Name == got[0]; r.Unknown != unknown {
			t.Errorf("%s: that no contract has its method: %v, want %v", r.Name, r.Unknown, unknown)
		}
	}
	want := []string{"/payments bank.risk.v1.RiskService/NoSuch denied", "nobody burns money", "/payments bank.risk.v1.RiskService/AssessPayment allowed"}
	if diff := cmp.Diff(want, got); diff != "" {
		t.Errorf("the names differ (-want +got):\n%s", diff)
	}
}

func TestRulesThatDecideNoCaseAreFound(t *testing.T) {
	t.Parallel()
	p := mustParse(t, policyText)
	places := func(cases ...string) string {
		var places []string
		for _, r := range policytest.Untested(p, run(t, p, cases...)) {
			places = append(places, r.Place())
		}
		return strings.Join(places, " ")
	}
	none := "{peer: /risk, " + assess + ", want: denied}"
	if got, want := places(none), "bank.yaml:9 bank.yaml:11 bank.yaml:12 bank.yaml:13 bank.yaml:15 bank.yaml:16"; got != want {
		t.Errorf("of a case that no rule decides: %s, want %s", got, want)
	}
	got := places(none, "{peer: /branch/south, "+assess+", want: denied}", "{peer: /payments, "+assess+", want: allowed}",
		"{peer: /branch/north, "+assess+", want: allowed}", "{peer: /counter, "+assess+", want: allowed}", "{peer: /trainee, "+assess+", want: denied}")
	if want := "bank.yaml:13 bank.yaml:15 bank.yaml:16"; got != want { // one was not decided, the peer of one is revoked, and one was not tried
		t.Errorf("the rules are %s, want %s", got, want)
	}
}

func TestATableIsRefused(t *testing.T) {
	t.Parallel()
	for name, test := range map[string]struct{ text, want string }{
		"without cases":           {"cases: []\n", "t.yaml:1:8 cases: must contain at least 1 item(s)"},
		"with a third outcome":    {"cases:\n  - {peer: /a, " + assess + ", want: maybe}\n", "t.yaml:2:"},
		"with a short method":     {"cases:\n  - {peer: /a, method: AssessPayment, want: denied}\n", "t.yaml:2:"},
		"with a slip in a key":    {"cases:\n  - {peer: /a, " + assess + ", wants: denied}\n", `unknown field "wants"`},
		"with a key twice":        {"cases:\n  - {peer: /a, " + assess + ", want: denied, request: {a: 1, a: 2}}\n", `the key "a" stands already`},
		"with an alias":           {"cases:\n  - {peer: &p /a, " + assess + ", want: denied}\n  - {peer: *p, " + assess + ", want: denied}\n", "the alias *p is not allowed"},
		"that is a policy":        {policyText, `unknown field "trust_domain"`},
		"with a wildcard outcome": {"cases:\n  - {peer: /a, " + assess + "}\n", "want"},
	} {
		if _, err := policytest.Parse("t.yaml", []byte(test.text)); err == nil || !strings.Contains(err.Error(), test.want) {
			t.Errorf("%s: %v, want %q", name, err, test.want)
		}
	}
	if _, err := policytest.Read("/no/such.yaml"); err == nil || !strings.Contains(err.Error(), "read the table of tests: open /no/such.yaml") {
		t.Errorf("a file that is away: %v", err)
	}
}

func TestTheReportIsOfTheFormThatCISystemsRead(t *testing.T) {
	t.Parallel()
	p := mustParse(t, policyText)
	results := run(t, p, "{peer: /payments, "+assess+", want: allowed}", `{name: "a <name> & \u0001", peer: /risk, `+assess+", want: allowed}")
	for i := range results {
		results[i].Took = 1500
	}
	var report policytest.Report
	report.Add("bank_test.yaml", results)
	report.AddUntested(p, policytest.Untested(p, results)[:1])
	report.AddUntested(p, nil)
	var b strings.Builder
	if err := report.Write(&b); err != nil {
		t.Fatal(err)
	}
	const want = `<?xml version="1.0" encoding="UTF-8"?>
<testsuites name="countersign policy test" tests="4" failures="2">
  <testsuite name="bank_test.yaml" tests="2" failures="1" errors="0" skipped="0" time="0.000003">
    <testcase name="/payments bank.risk.v1.RiskService/AssessPayment allowed" classname="bank.risk.v1.RiskService.AssessPayment" file="bank_test.yaml" line="2" time="0.000002"></testcase>
    <testcase name="a &lt;name&gt; &amp; �" classname="bank.risk.v1.RiskService.AssessPayment" file="bank_test.yaml" line="3" time="0.000002">
      <failure message="it is decided otherwise">bank_test.yaml:3&#xA;want  allowed&#xA;is    denied: bank.yaml:7: allowed for /payments, /branch/**, /counter, /thief, /gateway; the caller is /risk</failure>
    </testcase>
  </testsuite>
  <testsuite name="bank.yaml" tests="1" failures="1" errors="0" skipped="0" time="0.000000">
    <testcase name="each rule decides a case" classname="bank.yaml" file="bank.yaml" line="1" time="0.000000">
      <failure message="rules that decide no case: 1">bank.yaml:9:14: deny: /branch/south</failure>
    </testcase>
  </testsuite>
  <testsuite name="bank.yaml" tests="1" failures="0" errors="0" skipped="0" time="0.000000">
    <testcase name="each rule decides a case" classname="bank.yaml" file="bank.yaml" line="1" time="0.000000"></testcase>
  </testsuite>
</testsuites>
`
	if diff := cmp.Diff(want, b.String()); diff != "" {
		t.Errorf("the report differs (-want +got):\n%s", diff)
	}
}
