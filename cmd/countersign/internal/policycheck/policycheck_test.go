package policycheck_test

import (
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"

	"github.com/countersign-mesh/countersign/cmd/countersign/internal/contracts"
	"github.com/countersign-mesh/countersign/cmd/countersign/internal/policycheck"
	"github.com/countersign-mesh/countersign/pkg/policy"
)

const bankFile = "../../../../deploy/policy/bank.yaml"

// bank is the bank's policy as it is, or with one change.
func bank(t *testing.T, old, changed string) string {
	t.Helper()
	data, err := os.ReadFile(bankFile)
	if err != nil {
		t.Fatal(err)
	}
	text := strings.Replace(string(data), old, changed, 1)
	if old != changed && text == string(data) {
		t.Fatalf("the bank's policy has no %q", old)
	}
	return text
}

// lineOf returns the number of the first line that has part in it.
func lineOf(t *testing.T, text, part string) int {
	t.Helper()
	before, _, ok := strings.Cut(text, part)
	if !ok {
		t.Fatalf("there is no %q", part)
	}
	return strings.Count(before, "\n") + 1
}

func lines(errs []error) string {
	var b strings.Builder
	for _, err := range errs {
		fmt.Fprintln(&b, err)
	}
	return b.String()
}

func TestTheBanksPolicyIsGood(t *testing.T) {
	t.Parallel()
	r := policycheck.Check(policy.Text("bank.yaml", []byte(bank(t, "", ""))), contracts.Bank())
	if len(r.Errors)+len(r.Warnings) > 0 {
		t.Errorf("it has\n%s%s", lines(r.Errors), lines(r.Warnings))
	}
	if r.Services != len(contracts.Bank().Required()) || r.Methods < 30 || r.Rules < r.Methods || r.Files != 1 || len(r.Version) != 16 {
		t.Errorf("the report is %+v", r)
	}
}

func TestCoverageIsCheckedInBothDirections(t *testing.T) {
	t.Parallel()
	for name, test := range map[string]struct {
		old, changed string
		// want are the errors; {} is the line of at.
		want []string
		at   string
	}{
		"a method that is misspelt": {
			"PostTransfer:", "PostTransfers:", []string{
				"bank.yaml:{-3}:3: the method PostTransfer of bank.ledger.v1.LedgerService has no rules; add it under methods: (with allow: [] if nobody may call it)",
				"bank.yaml:{}:7: bank.ledger.v1.LedgerService has no method PostTransfers; did you mean PostTransfer?",
			}, "PostTransfers:",
		},
		"a method of nothing": {
			"      PostTransfer:", "      Zzz: {}\n      PostTransfer:",
			[]string{"bank.yaml:{}:7: bank.ledger.v1.LedgerService has no method Zzz; it has PostTransfer, ReserveFunds, CaptureHold, ReleaseHold, ListHolds, GetBalance, ListEntries, CheckTrialBalance"},
			"Zzz",
		},
		"a service of another version": {
			"bank.risk.v1.RiskService", "bank.risk.v2.RiskService", []string{
				"bank.yaml:{}:3: the contracts have no service bank.risk.v2.RiskService; did you mean bank.risk.v1.RiskService?",
				"bank.yaml:{services}:1: the service bank.risk.v1.RiskService has no rules; add it under services:",
			}, "bank.risk.v2",
		},
		"a service of others, with a condition": {
			"  bank.risk.v1.RiskService:", "  shop.v1.Shop: {methods: {Buy: {allow: [{peer: /x, when: request.cheap}], deny: [{peer: /y, when: 'true'}]}}}\n  bank.risk.v1.RiskService:",
			[]string{
				"bank.yaml:{}:3: the contracts have no service shop.v1.Shop; say where its contract is with --descriptors",
				"bank.yaml:{}:53: when: it cannot be checked, since the messages of shop.v1.Shop are not known",
				"bank.yaml:{}:94: when: it cannot be checked, since the messages of shop.v1.Shop are not known",
			},
			"shop.v1.Shop",
		},
		"a condition over a field that there is not": {
			"            why: gives the money of", "            when: request.amuont > 1\n            why: gives the money of",
			[]string{"bank.yaml:{}:26: when: undefined field 'amuont'"},
			"request.amuont",
		},
		"a mistake in a rule, and one in the coverage": {
			"        allow:\n          - peer: /payments\n            why: asks before it posts", "        allow:\n          - peer: /payments/../x\n      AssessPayments: {}",
			[]string{
				"bank.yaml:{}:13: peer \"/payments/../x\": no SPIFFE ID: path cannot contain dot segments",
				"bank.yaml:{1}:7: bank.risk.v1.RiskService has no method AssessPayments; did you mean AssessPayment?",
			},
			"/payments/../x",
		},
		"a value that breaks a rule of the schema, and one mistake in the coverage": {
			"        allow:\n          - peer: /payments\n            why: asks before it posts", "        allow:\n          - peer: payments\n      AssessPayments: {}",
			[]string{
				"bank.yaml:{}:19 services[\"bank.risk.v1.RiskService\"].methods[\"AssessPayment\"].allow[0].peer: does not match regex",
				"bank.yaml:{1}:7: bank.risk.v1.RiskService has no method AssessPayments; did you mean AssessPayment?",
			},
			"peer: payments\n",
		},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			text := bank(t, test.old, test.changed)
			r := policycheck.Check(policy.Text("bank.yaml", []byte(text)), contracts.Bank())
			at := lineOf(t, text, test.at)
			if len(r.Errors) != len(test.want) {
				t.Fatalf("there are %d errors, want %d:\n%s", len(r.Errors), len(test.want), lines(r.Errors))
			}
			for i, want := range test.want {
				want = strings.NewReplacer("{}", fmt.Sprint(at), "{-3}", fmt.Sprint(at-3), "{1}", fmt.Sprint(at+1), "{services}", fmt.Sprint(lineOf(t, text, "\nservices:")+1)).Replace(want)
				if got := r.Errors[i].Error(); !strings.HasPrefix(got, want) {
					t.Errorf("the error is\n%s\nwant\n%s", got, want)
				}
			}
		})
	}
}

func TestWarnings(t *testing.T) {
	t.Parallel()
	const before = "trust_domain: bank.test\nservices:\n  bank.risk.v1.RiskService:\n    served_by: [/risk]\n    methods:\n      AssessPayment:\n"
	for name, test := range map[string]struct{ rules, want string }{
		"no rule at all":                               {"{}", ""},
		"an allow for one, and one for all":            {"{allow: [{peer: /a}, {peer: /**}]}", ""},
		"an allow under a deny of the same":            {"{allow: [{peer: /a}], deny: [{peer: /a}]}", "p.yaml:6:32: warning: the rule for /a never lets anybody in: another one denies /a whatever is called (p.yaml:6)\n"},
		"an allow under a deny of more":                {"{allow: [{peer: /a/b}], deny: [{peer: /a/**}]}", "the rule for /a/b never lets anybody in: another one denies /a/** "},
		"an allow under a deny of all":                 {"{allow: [{peer: /a/**, when: 'true'}], deny: [{peer: /**}]}", "the rule for /a/** never lets anybody in: another one denies /** "},
		"an allow in shadow under a deny":              {"{allow: [{peer: /a, shadow: true}], deny: [{peer: /a}]}", "the rule for /a never lets anybody in"},
		"an allow under a deny in shadow":              {"{allow: [{peer: /a}], deny: [{peer: /a, shadow: true}]}", ""},
		"an allow under a deny of some calls":          {"{allow: [{peer: /a}], deny: [{peer: /a, when: request.amount.minor_units > 1}]}", ""},
		"an allow under a deny of others":              {"{allow: [{peer: /a}], deny: [{peer: /a/**}]}", ""},
		"an allow for more than a deny":                {"{allow: [{peer: /a/**}], deny: [{peer: /a/b}]}", ""},
		"a condition beside none":                      {"{allow: [{peer: /a, when: request.amount.minor_units > 1}, {peer: /a}]}", "p.yaml:6:32: warning: the rule for /a holds nobody to its condition: another one allows /a whatever is called (p.yaml:6)\n"},
		"a condition behind none":                      {"{allow: [{peer: /a}, {peer: /a, when: request.amount.minor_units > 1}]}", "the rule for /a holds nobody to its condition"},
		"a condition under none for more":              {"{allow: [{peer: /a/b, when: request.amount.minor_units > 1}, {peer: /a/**}]}", "the rule for /a/b holds nobody to its condition: another one allows /a/** "},
		"a condition for more beside none":             {"{allow: [{peer: /a/**, when: request.amount.minor_units > 1}, {peer: /a/b}]}", ""},
		"a condition for those below one beside none":  {"{allow: [{peer: /a/**, when: request.amount.minor_units > 1}, {peer: /a}]}", ""},
		"two conditions":                               {"{allow: [{peer: /a, when: request.amount.minor_units > 1}, {peer: /a, when: request.amount.minor_units < -1}]}", ""},
		"a deny of some calls beside one of all":       {"{deny: [{peer: /a, when: request.amount.minor_units > 1}, {peer: /a}]}", "the rule for /a changes nothing: another one denies /a "},
		"a deny of one under one of more":              {"{deny: [{peer: /a/b, why: broken into}, {peer: /a/**}]}", ""},
		"a deny beside an allow without a condition":   {"{allow: [{peer: /**}], deny: [{peer: /a}]}", ""},
		"an allow of another trust domain under deny":  {"{allow: [{peer: 'spiffe://a.test/x'}], deny: [{peer: 'spiffe://a.test/**'}]}", "the rule for spiffe://a.test/x never lets anybody in"},
		"an allow of another trust domain beside deny": {"{allow: [{peer: 'spiffe://a.test/x'}], deny: [{peer: /**}]}", ""},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			text := strings.TrimSuffix(before, "\n") + " " + test.rules + "\n"
			r := policycheck.Check(policy.Text("p.yaml", []byte(text)), contracts.Bank())
			got := lines(r.Warnings)
			if (got == "") != (test.want == "") || !strings.Contains(got, test.want) || len(r.Warnings) > 1 {
				t.Errorf("the warnings are\n%swant\n%s", got, test.want)
			}
		})
	}
	r := policycheck.Check(policy.Text("bank.yaml", []byte(bank(t, "    served_by: [/risk]\n", ""))), contracts.Bank())
	if got := lines(r.Warnings); !strings.Contains(got, ":3: warning: bank.risk.v1.RiskService has no served_by, so that no client dials a server for it") || len(r.Warnings) != 1 || r.Errors != nil {
		t.Errorf("without served_by there is\n%s%s", lines(r.Errors), got)
	}
}

func TestIncludedFilesAreCheckedToo(t *testing.T) {
	t.Parallel()
	const risk = "trust_domain: bank.test\nservices:\n  bank.risk.v1.RiskService:\n    methods:\n      AssessPaymint: {}\n"
	for name, test := range map[string]struct {
		included string
		want     []string
	}{
		"a method that is misspelt": {risk, []string{
			"risk.yaml:3:3: the method AssessPayment of bank.risk.v1.RiskService has no rules",
			"risk.yaml:5:7: bank.risk.v1.RiskService has no method AssessPaymint; did you mean AssessPayment?",
		}},
		// What a file has that cannot be read is not known, so nothing is missing there.
		"a file that is no policy": {"services: [", []string{"risk.yaml: yaml: "}},
		"a file that is away":      {"", []string{"no such file"}},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			dir := t.TempDir()
			main := filepath.Join(dir, "bank.yaml")
			text := bank(t, "", "")
			// Everything but risk, which the other file has.
			head, rest, _ := strings.Cut(text, "  # An opinion, and no power.\n")
			_, tail, _ := strings.Cut(rest, "\n\n")
			write(t, main, "include: [{file: risk.yaml, services: [bank.risk.v1.RiskService]}]\n"+head+tail)
			if test.included != "" {
				write(t, filepath.Join(dir, "risk.yaml"), test.included)
			}
			source, err := policy.Read(main)
			if err != nil {
				t.Fatal(err)
			}
			r := policycheck.Check(source, contracts.Bank())
			if len(r.Errors) != len(test.want) {
				t.Fatalf("the errors are\n%s", lines(r.Errors))
			}
			for i, want := range test.want {
				if !strings.Contains(r.Errors[i].Error(), want) {
					t.Errorf("the error is\n%v\nwant\n%s", r.Errors[i], want)
				}
			}
		})
	}
}

func write(t *testing.T, path, text string) {
	t.Helper()
	if err := os.WriteFile(path, []byte(text), 0o600); err != nil {
		t.Fatal(err)
	}
}

func TestWhatIsNoPolicyIsOneError(t *testing.T) {
	t.Parallel()
	for text, want := range map[string]string{"": "p.yaml: the file is empty", "a: [": "p.yaml: yaml: "} {
		r := policycheck.Check(policy.Text("p.yaml", []byte(text)), contracts.Bank())
		if len(r.Errors) != 1 || !strings.HasPrefix(r.Errors[0].Error(), want) {
			t.Errorf("the errors are\n%s", lines(r.Errors))
		}
		if diff := cmp.Diff(policycheck.Report{}, policycheck.Report{Version: r.Version, Files: r.Files, Rules: r.Rules}); diff != "" {
			t.Errorf("it counts what it cannot read:\n%s", diff)
		}
	}
}
