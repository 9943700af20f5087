package main

import (
	"encoding/xml"
	"os"
	"path/filepath"
	"regexp"
	"strings"
	"testing"
)

func TestTestPassesWhatTheTableBesideThePolicyWants(t *testing.T) {
	t.Parallel()
	junit := filepath.Join(t.TempDir(), "report.xml")
	out, err := countersign(t, "policy", "test", "--policy", bankPolicy, "--all-rules", "--junit", junit)
	if err != nil || !regexp.MustCompile(`^Passed: \d{3} cases, policy version [0-9a-f]{16}\.\n$`).MatchString(out) {
		t.Errorf("%q, %v", out, err)
	}
	data, err := os.ReadFile(junit)
	if err != nil {
		t.Fatal(err)
	}
	var report struct {
		Tests    int `xml:"tests,attr"`
		Failures int `xml:"failures,attr"`
	}
	if err := xml.Unmarshal(data, &report); err != nil || report.Tests < 100 || report.Failures != 0 {
		t.Errorf("the report has %+v, %v", report, err)
	}
}

// shortPolicy has three rules.
const shortPolicy = `trust_domain: bank.test
services:
  bank.ledger.v1.LedgerService:
    served_by: [/ledger]
    methods:
      PostTransfer: {allow: [{peer: /payments, why: moves money}]}
      GetBalance: {allow: [{peer: /gateway}, {peer: /operator, shadow: true}]}
`

func TestTestSaysWhatFailed(t *testing.T) {
	t.Parallel()
	path := writeTemp(t, "p.yaml", shortPolicy)
	first := writeTemp(t, "first.yaml", `cases:
  - {peer: /payments, method: bank.ledger.v1.LedgerService/PostTransfer, want: allowed, rule: moves money}
  - {name: risk moves money, peer: /risk, method: bank.ledger.v1.LedgerService/PostTransfer, want: allowed}
  - {peer: /risk, method: bank.ledger.v1.LedgerService/Burn, want: denied}
`)
	second := writeTemp(t, "second.yaml", `cases:
  - {peer: /payments, method: bank.ledger.v1.LedgerService/PostTransfer, want: denied}
`)
	junit := filepath.Join(t.TempDir(), "report.xml")
	out, err := countersign(t, "policy", "test", "--policy", path, "--all-rules", "--junit", junit, first, second)
	if err == nil || exitCode(err) != 1 || err.Error() != "2 of 4 cases failed\n1 rule of "+path+" decides no case" {
		t.Errorf("the error is %v", err)
	}
	want := `FAIL risk moves money
     ` + first + `:3: it is decided otherwise
     want  allowed
     is    denied: p.yaml:6: allowed for /payments; the caller is /risk
` + first + `:4: note: no contract has bank.ledger.v1.LedgerService/Burn
FAIL /payments bank.ledger.v1.LedgerService/PostTransfer denied
     ` + second + `:2: it is decided otherwise
     want  denied
     is    allowed: p.yaml:6: allowed for /payments: moves money
` + path + `:7:29: no case is decided by this rule: allow /gateway
`
	if out != want {
		t.Errorf("it says\n%s\nwant\n%s", out, want)
	}
	if data, err := os.ReadFile(junit); err != nil || strings.Count(string(data), "<failure ") != 3 {
		t.Errorf("the report is %s, %v", data, err)
	}
}

func TestTestFailsForWhatIsNotThere(t *testing.T) {
	t.Parallel()
	path := writeTemp(t, "p.yaml", shortPolicy)
	good := writeTemp(t, "good.yaml", "cases:\n  - {peer: /risk, method: bank.ledger.v1.LedgerService/PostTransfer, want: denied}\n")
	broken := writeTemp(t, "broken.yaml", "cases:\n  - {peer: /risk}\n")
	for name, test := range map[string]struct {
		args []string
		want string
	}{
		"no policy":              {nil, "which policy file? Say it with --policy"},
		"no table beside it":     {[]string{"--policy", path}, "read the table of tests: open " + strings.TrimSuffix(path, ".yaml") + "_test.yaml"},
		"a table that is broken": {[]string{"--policy", path, good, broken}, "broken.yaml:2:"},
		"a policy that is":       {[]string{"--policy", broken, good}, `broken.yaml:1:1: unknown field "cases"`},
		"nowhere to report to":   {[]string{"--policy", path, good, "--junit", "/no/such/report.xml"}, "--junit: open /no/such/report.xml"},
	} {
		out, err := countersign(t, append([]string{"policy", "test"}, test.args...)...)
		if err == nil || !strings.Contains(err.Error(), test.want) || strings.Contains(out, "Passed") {
			t.Errorf("%s: %q, %v, want %q", name, out, err, test.want)
		}
	}
}
