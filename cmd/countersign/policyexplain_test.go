package main

import (
	"os"
	"regexp"
	"strings"
	"testing"
	"time"
)

// conditionalPolicy has a condition and a rule in shadow.
const conditionalPolicy = `trust_domain: bank.test
services:
  bank.risk.v1.RiskService:
    served_by: [/risk]
    methods:
      AssessPayment:
        allow:
          - {peer: /payments, when: request.amount.minor_units <= 500, why: small amounts}
          - {peer: /trainee, shadow: true}
          - {peer: /clerk}
          - {peer: /gateway, user: transfer, when: request.payer_customer_id == user.subject}
          - {peer: /tester}
          - {peer: /tester, user: transfer, shadow: true}
        deny:
          - {peer: /clerk, shadow: true, when: request.amount.minor_units > 1}
`

func TestExplainSaysWhatIsDecidedAndWhy(t *testing.T) {
	t.Parallel()
	path := writeTemp(t, "p.yaml", conditionalPolicy)
	request := "@" + writeTemp(t, "request.json", `{"amount": {"minorUnits": 501}}`)
	for name, test := range map[string]struct {
		args []string
		want string
	}{
		"a call that is let in": {
			[]string{"--peer=spiffe://bank.test/payments", "--method=bank.risk.v1.RiskService/AssessPayment", `--request={"amount": {"minor_units": 500}}`},
			`verdict   allowed
method    /bank.risk.v1.RiskService/AssessPayment
caller    spiffe://bank.test/payments
rule      p.yaml:8: allow /payments when request.amount.minor_units <= 500
why       small amounts
policy    FILE, version VERSION
`,
		},
		"one that is denied": {
			[]string{"--peer=/risk", "--method=AssessPayment"},
			`verdict   denied
method    /bank.risk.v1.RiskService/AssessPayment
caller    spiffe://bank.test/risk
rule      -
reason    p.yaml:6: allowed for /payments, /clerk, /gateway, /tester; the caller is /risk
policy    FILE, version VERSION
`,
		},
		"one whose request is not such": {
			[]string{"--peer=/payments", "--method=AssessPayment", "--request=" + request},
			`verdict   denied
method    /bank.risk.v1.RiskService/AssessPayment
caller    spiffe://bank.test/payments
rule      -
reason    p.yaml:8: allowed for /payments when request.amount.minor_units <= 500, which this call is not
policy    FILE, version VERSION
`,
		},
		"one that depends on the request": {
			[]string{"--peer=/payments", "--method=AssessPayment"},
			`verdict   undecided
method    /bank.risk.v1.RiskService/AssessPayment
caller    spiffe://bank.test/payments
rule      -
reason    p.yaml:8: it depends on the request: the rule allows /payments when request.amount.minor_units <= 500
policy    FILE, version VERSION
`,
		},
		"one that shadow would let in": {
			[]string{"--peer=/trainee", "--method=AssessPayment"},
			`verdict   denied
method    /bank.risk.v1.RiskService/AssessPayment
caller    spiffe://bank.test/trainee
rule      -
reason    p.yaml:6: allowed for /payments, /clerk, /gateway, /tester; the caller is /trainee
shadow    would be allowed, by p.yaml:9: allow /trainee
policy    FILE, version VERSION
`,
		},
		"one that shadow would keep out": {
			[]string{"--peer=/clerk", "--method=AssessPayment", "--request=" + request},
			`verdict   allowed
method    /bank.risk.v1.RiskService/AssessPayment
caller    spiffe://bank.test/clerk
rule      p.yaml:10: allow /clerk
shadow    would be denied, by p.yaml:15: deny /clerk when request.amount.minor_units > 1
policy    FILE, version VERSION
`,
		},
		"one that shadow may keep out": {
			[]string{"--peer=/clerk", "--method=AssessPayment"},
			`verdict   allowed
method    /bank.risk.v1.RiskService/AssessPayment
caller    spiffe://bank.test/clerk
rule      p.yaml:10: allow /clerk
shadow    with the rules in shadow it would depend on the request
policy    FILE, version VERSION
`,
		},
		"one for a user": {
			[]string{"--peer=/gateway", "--method=AssessPayment", `--request={"payer_customer_id": "alice"}`, `--user={"subject": "alice", "scope": "transfer"}`},
			`verdict   allowed
method    /bank.risk.v1.RiskService/AssessPayment
caller    spiffe://bank.test/gateway
rule      p.yaml:11: allow /gateway when user.scope == "transfer" && request.payer_customer_id == user.subject
policy    FILE, version VERSION
`,
		},
		"one for another user": {
			[]string{"--peer=/gateway", "--method=AssessPayment", `--request={"payer_customer_id": "alice"}`, `--user={"subject": "bob", "scope": "transfer"}`},
			`verdict   denied
method    /bank.risk.v1.RiskService/AssessPayment
caller    spiffe://bank.test/gateway
rule      -
reason    p.yaml:11: allowed for /gateway with a user's token for transfer when request.payer_customer_id == user.subject, which this call is not
policy    FILE, version VERSION
`,
		},
		"one without a token": {
			[]string{"--peer=/gateway", "--method=AssessPayment", "--user=none"},
			`verdict   denied
method    /bank.risk.v1.RiskService/AssessPayment
caller    spiffe://bank.test/gateway
rule      -
reason    p.yaml:11: the call carries no user's token, and the rule asks for one for transfer
policy    FILE, version VERSION
`,
		},
		"one that depends on the user": {
			[]string{"--peer=/gateway", "--method=AssessPayment", `--request={"payer_customer_id": "alice"}`},
			`verdict   undecided
method    /bank.risk.v1.RiskService/AssessPayment
caller    spiffe://bank.test/gateway
rule      -
reason    p.yaml:11: it depends on the user's token: the rule allows /gateway with a user's token for transfer when request.payer_customer_id == user.subject
policy    FILE, version VERSION
`,
		},
		"one that shadow asks for a user": {
			[]string{"--peer=/tester", "--method=AssessPayment"},
			`verdict   allowed
method    /bank.risk.v1.RiskService/AssessPayment
caller    spiffe://bank.test/tester
rule      p.yaml:12: allow /tester
shadow    with the rules in shadow it would depend on the user
policy    FILE, version VERSION
`,
		},
		"one of a method that there is not": {
			[]string{"--peer=/payments", "--method=bank.risk.v1.RiskService/Burn"},
			`verdict   denied
method    /bank.risk.v1.RiskService/Burn
caller    spiffe://bank.test/payments
rule      -
reason    p.yaml has no rules for "/bank.risk.v1.RiskService/Burn"
policy    FILE, version VERSION
`,
		},
	} {
		out, err := countersign(t, append([]string{"policy", "explain", "--policy", path}, test.args...)...)
		got := regexp.MustCompile(`version [0-9a-f]{16}`).ReplaceAllString(strings.ReplaceAll(out, path, "FILE"), "version VERSION")
		if err != nil || got != test.want {
			t.Errorf("%s: %v\n%s\nwant\n%s", name, err, got, test.want)
		}
	}
}

func TestExplainRefuses(t *testing.T) {
	t.Parallel()
	path := writeTemp(t, "p.yaml", conditionalPolicy)
	for name, test := range map[string]struct {
		args []string
		want string
	}{
		"a peer that is many":           {[]string{"--peer=/branch/**", "--method=AssessPayment"}, `--peer: "/branch/**" is no workload's SPIFFE ID`},
		"a peer and a method at once":   {[]string{"--peer=risk", "--method=Burn"}, "right would be /risk or spiffe://bank.test/risk\n--method: no service that this program knows has a method \"Burn\""},
		"a request of another method":   {[]string{"--peer=/risk", "--method=AssessPayment", `--request={"item": 1}`}, "--request: no bank.risk.v1.AssessPaymentRequest: "},
		"a user that is none":           {[]string{"--peer=/risk", "--method=AssessPayment", `--user={"name": "alice"}`}, `--user: it is neither "none" nor a user as JSON`},
		"a request in no file":          {[]string{"--peer=/risk", "--method=AssessPayment", "--request=@/no/such.json"}, "--request: open /no/such.json"},
		"nobody":                        {[]string{"--method=AssessPayment"}, "missing flags: --peer=ID"},
		"nothing":                       {[]string{"--peer=/risk"}, "missing flags: --method=METHOD"},
		"some servers and all":          {[]string{"--peer=/risk", "--method=AssessPayment", "--all", "--server=ledger"}, "can't be used together"},
		"all servers where no mesh is":  {[]string{"--peer=/risk", "--method=AssessPayment", "--all"}, "--all: no mesh is running"},
		"a server where no identity is": {[]string{"--peer=/risk", "--method=AssessPayment", "--server=ledger", "--socket="}, "which Workload API?"},
	} {
		if _, err := countersign(t, append([]string{"policy", "explain", "--policy", path}, test.args...)...); err == nil || !strings.Contains(err.Error(), test.want) {
			t.Errorf("%s: %v, want %q", name, err, test.want)
		}
	}
}

func TestExplainComparesTheFileWithWhatIsInForce(t *testing.T) {
	t.Parallel()
	b := newBank(t, "ledger")
	b.add(t, "audit", b.serve(t, "audit", false))
	ask := func(args ...string) (string, error) {
		return b.countersign(t, append([]string{"policy", "explain", "--peer=/risk", "--method=PostTransfer"}, args...)...)
	}
	out, err := ask("--all")
	if err != nil || !strings.HasSuffix(out, "\nThe file and 2 servers agree.\n") ||
		!regexp.MustCompile(`\n +ledger +denied +- +[0-9a-f]{16} +agrees\n +audit +denied +- +[0-9a-f]{16} +agrees\n`).MatchString(out) {
		t.Errorf("at first: %v\n%s", err, out)
	}
	out, err = ask("--server="+b.address(t, "ledger"), "--expect=/ledger", "--server=audit")
	if err != nil || !strings.HasSuffix(out, "\nThe file and 2 servers agree.\n") {
		t.Errorf("by address: %v\n%s", err, out)
	}

	// Another file than that of the mesh, which lets risk in.
	text := strings.Replace(b.text(t), "      PostTransfer:\n        allow:\n", "      PostTransfer:\n        allow:\n          - peer: /risk\n            why: whoever reads this reads on\n", 1)
	other := writeTemp(t, "other.yaml", text)
	out, err = ask("--policy="+other, "--all")
	if err == nil || exitCode(err) != 1 || !strings.HasPrefix(err.Error(), "the file and 2 of 2 servers do not agree:\nledger: it has the policy ") ||
		strings.Count(err.Error(), `; it decides "denied", and the file "allowed"`) != 2 || !strings.Contains(out, "differs\n") || !strings.HasPrefix(out, "verdict   allowed\n") {
		t.Errorf("of another file: %v\n%s", err, out)
	}

	// The mesh gets that file too. One server takes it, the other does not watch.
	if err := os.WriteFile(b.policy, []byte(text), 0o600); err != nil {
		t.Fatal(err)
	}
	eventually(t, "the ledger has the file in force", func() bool {
		_, err := ask("--server=ledger")
		return err == nil
	})
	out, err = ask("--all")
	if err == nil || !strings.HasPrefix(err.Error(), "the file and 1 of 2 servers do not agree:\naudit: it has the policy ") || !strings.Contains(out, "agrees\n") {
		t.Errorf("when one server has the file: %v\n%s", err, out)
	}
	if !regexp.MustCompile(`\n +ledger +allowed +bank\.yaml:\d+ `).MatchString(out) {
		t.Errorf("the ledger's rule is not in\n%s", out)
	}
}

// ATTACKS 44: admin is under the policy.
func TestExplainIsForTheOperatorAlone(t *testing.T) {
	t.Parallel()
	b := newBank(t, "ledger")
	b.Identity(t, "/payments")
	out, err := b.countersign(t, "policy", "explain", "--peer=/risk", "--method=PostTransfer", "--server=ledger", "--socket", b.API(t, "/payments").Addr())
	if err == nil || !strings.Contains(err.Error(), "1 of 1 server could not be asked:\nledger: PERMISSION_DENIED: permission denied") || !strings.Contains(out, "not known") {
		t.Errorf("%v\n%s", err, out)
	}
}

// eventually waits until ok holds, at most for ten seconds.
func eventually(t *testing.T, what string, ok func() bool) {
	t.Helper()
	timeout := time.After(10 * time.Second)
	tick := time.NewTicker(20 * time.Millisecond)
	defer tick.Stop()
	for !ok() {
		select {
		case <-timeout:
			t.Fatalf("not within ten seconds: %s", what)
		case <-tick.C:
		}
	}
}
