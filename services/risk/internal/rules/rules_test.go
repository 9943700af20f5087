package rules_test

import (
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/countersign-mesh/countersign/services/risk/internal/risk"
	"github.com/countersign-mesh/countersign/services/risk/internal/rules"
)

const good = `
amount_ceilings:
  EUR: {hold_above: 500000, refuse_above: 1000000}
velocity:
  - {per: account, window: 1m, max_payments: 600, verdict: refuse}
  - per: customer
    window: 24h
    max_amount: {EUR: 2000000}
    verdict: hold
blocked_payees:
  - account: acc-abcdefghijklmnopqrstuvwxyz
    why: known fraud
`

func TestParse(t *testing.T) {
	t.Parallel()
	got, err := rules.Parse("risk.yaml", []byte(good))
	if err != nil {
		t.Fatal(err)
	}
	want := risk.Rules{
		Version:  "112fd5676db09c42", // the beginning of what sha256sum says of it
		Ceilings: map[string]risk.Ceiling{"EUR": {HoldAbove: 500000, RefuseAbove: 1000000}},
		Limits: []risk.Limit{
			{Per: risk.PerAccount, Window: time.Minute, MaxPayments: 600, Verdict: risk.Refuse},
			{Per: risk.PerCustomer, Window: 24 * time.Hour, MaxAmount: map[string]int64{"EUR": 2000000}, Verdict: risk.Hold},
		},
		Blocked: map[string]risk.Block{"acc-abcdefghijklmnopqrstuvwxyz": {Why: "known fraud"}},
	}
	if diff := cmp.Diff(want, got); diff != "" {
		t.Errorf("Parse (-want +got):\n%s", diff)
	}
}

func TestTheBanksOwnRulesAreGood(t *testing.T) {
	t.Parallel()
	file, err := rules.Open("../../../../deploy/risk/bank.yaml")
	if err != nil {
		t.Fatal(err)
	}
	got := file.Rules()
	if len(got.Ceilings) == 0 || len(got.Limits) == 0 {
		t.Errorf("Rules = %+v", got)
	}
}

func TestParseRefuses(t *testing.T) {
	t.Parallel()
	change := func(before, after string) string {
		t.Helper()
		if !strings.Contains(good, before) {
			t.Fatalf("the good file has no %q", before)
		}
		return strings.Replace(good, before, after, 1)
	}
	tests := map[string]struct {
		text string
		want []string
	}{
		"an empty file":                    {"", []string{"risk.yaml:1:1: the file is empty"}},
		"a file of comments":               {"# nothing\n", []string{"risk.yaml:1:1: the file is empty"}},
		"an empty document":                {"---\n", []string{"risk.yaml:", "the file must be a mapping"}},
		"a list":                           {"- a\n", []string{"risk.yaml:1:1: the file must be a mapping"}},
		"no YAML":                          {"a: [", []string{"risk.yaml: yaml: line 1"}},
		"two documents":                    {good + "---\n" + good, []string{"more than one YAML document"}},
		"an unknown field":                 {change("velocity:", "velocities:"), []string{`risk.yaml:4:1: unknown field "velocities"; the file has amount_ceilings, blocked_payees, velocity`, `risk.yaml:2:1: the file lacks the field "velocity"`}},
		"a field twice":                    {good + "velocity: []\n", []string{`risk.yaml:13:1: "velocity" is here for the second time; the first is in line 4`}},
		"no ceiling":                       {change("  EUR: {hold_above: 500000, refuse_above: 1000000}", "  {}"), []string{"risk.yaml:3:3: amount_ceilings is empty"}},
		"a ceiling that lacks its half":    {change("hold_above: 500000, ", ""), []string{`risk.yaml:3:8: a ceiling lacks the field "hold_above"`}},
		"ceilings the wrong way round":     {change("hold_above: 500000", "hold_above: 1000001"), []string{"risk.yaml:3:8: hold_above is more than refuse_above"}},
		"an amount with a decimal point":   {change("500000", "5000.00"), []string{`risk.yaml:3:21: "5000.00" is not a whole number from 0 to 1000000000000000 (amounts are in minor units`}},
		"an amount below zero":             {change("500000", "-1"), []string{`risk.yaml:3:21: "-1" is not a whole number`}},
		"an amount beyond all bounds":      {change("1000000}", "1000000000000001}"), []string{`"1000000000000001" is not a whole number`}},
		"a currency in lower case":         {change("  EUR: {h", "  eur: {h"), []string{`risk.yaml:3:3: "eur" is not a currency code of ISO 4217`}},
		"a ceiling that is a number":       {change("{hold_above: 500000, refuse_above: 1000000}", "5"), []string{"risk.yaml:3:8: a ceiling must be a mapping"}},
		"velocity that is a mapping":       {change("  - {per: account, window: 1m, max_payments: 600, verdict: refuse}\n  - per", "    per"), []string{"risk.yaml:5:5: velocity must be a list"}},
		"a limit of nobody":                {change("per: account", "per: bank"), []string{`risk.yaml:5:11: "bank" is not account or customer`}},
		"a window without a unit":          {change("1m", "60"), []string{`risk.yaml:5:28: "60" is not a duration from 1s to 744h0m0s`}},
		"a window of nothing":              {change("1m", "0s"), []string{`"0s" is not a duration`}},
		"a count of nothing":               {change("600", "0"), []string{`"0" is not a whole number from 1`}},
		"a limit that limits nothing":      {change("max_payments: 600, ", ""), []string{"risk.yaml:5:5: a limit of velocity needs max_payments or max_amount"}},
		"a limit of no currency":           {change("{EUR: 2000000}", "{}"), []string{"risk.yaml:8:17: max_amount is empty"}},
		"a limit without a verdict":        {change(", verdict: refuse", ""), []string{`risk.yaml:5:5: a limit of velocity lacks the field "verdict"`}},
		"a verdict that allows":            {change("verdict: refuse", "verdict: allow"), []string{`"allow" is not hold or refuse`}},
		"a blocked payee that is a name":   {change("acc-abcdefghijklmnopqrstuvwxyz", "mallory"), []string{`risk.yaml:11:14: "mallory" is not an account`}},
		"a blocked payee without a reason": {change("known fraud", `""`), []string{`risk.yaml:12:10: "" is not a reason`}},
		"a blocked payee twice":            {good + "  - account: acc-abcdefghijklmnopqrstuvwxyz\n    why: again\n", []string{"risk.yaml:13:5: account acc-abcdefghijklmnopqrstuvwxyz is blocked already"}},
		"an alias":                         {change("per: customer", "per: &who customer") + "x: *who\n", []string{`unknown field "x"`}},
		"a value that is an alias":         {change("window: 1m", "window: &w 1m") + "  - account: *w\n    why: x\n", []string{"risk.yaml:13:14: must be a single value"}},
		"a code in lower case":             {change("window: 24h", "window: 24h\n    code: fast"), []string{`risk.yaml:8:11: "fast" is not a code, one to four words of A-Z and 0-9 such as ACCOUNT_EMPTIED`}},
		"a code with a gap":                {change("window: 24h", "window: 24h\n    code: TOO__FAST"), []string{`"TOO__FAST" is not a code`}},
		"a code without an end":            {change("window: 24h", "window: 24h\n    code: A_B_C_D_E"), []string{`"A_B_C_D_E" is not a code`}},
		"no code":                          {change("window: 24h", "window: 24h\n    code:"), []string{`risk.yaml:8:10: "" is not a code`}},
		"the code of a kind":               {change("window: 24h", "window: 24h\n    code: VELOCITY_COUNT"), []string{"risk.yaml:8:11: VELOCITY_COUNT is the code of rules that have none of their own; leave it out"}},
		"the code of another kind":         {change("window: 24h", "window: 24h\n    code: BLOCKED_PAYEE"), []string{"BLOCKED_PAYEE is the code of rules that have none of their own"}},
		"a code of two limits":             {strings.NewReplacer("window: 1m", "window: 1m, code: FAST", "window: 24h", "window: 24h\n    code: FAST").Replace(good), []string{"risk.yaml:8:11: the code FAST is that of the rule in line 5 already"}},
		"a code of two kinds of rules":     {strings.NewReplacer("{hold_above", "{code: FRAUD, hold_above", "known fraud", "known fraud\n    code: FRAUD").Replace(good), []string{"risk.yaml:13:11: the code FRAUD is in use for amount_ceilings, in line 3"}},
		"three mistakes at once":           {strings.NewReplacer("500000", "x", "24h", "y", "known", "\" \" #").Replace(good), []string{"risk.yaml:3:21:", "risk.yaml:7:13:", "risk.yaml:12:10:"}},
	}
	for name, tt := range tests {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			got, err := rules.Parse("risk.yaml", []byte(tt.text))
			if err == nil {
				t.Fatalf("Parse took it: %+v", got)
			}
			for _, want := range tt.want {
				if !strings.Contains(err.Error(), want) {
					t.Errorf("the error does not say %q:\n%v", want, err)
				}
			}
			if diff := cmp.Diff(risk.Rules{}, got); diff != "" {
				t.Errorf("Parse returned rules with its error:\n%s", diff)
			}
		})
	}
}

func TestRulesMayHaveCodesOfTheirOwn(t *testing.T) {
	t.Parallel()
	got, err := rules.Parse("f", []byte(`
amount_ceilings: # one rule in two currencies
  EUR: {code: BIG_ONE, hold_above: 500000, refuse_above: 1000000}
  USD: {code: BIG_ONE, hold_above: 500000, refuse_above: 1000000}
velocity:
  - {code: ROBOT, per: account, window: 1m, max_payments: 600, verdict: refuse}
  - {code: ACCOUNT_EMPTIED_1H, per: account, window: 1h, max_amount: {EUR: 2000000}, verdict: hold}
  - {per: customer, window: 1h, max_amount: {EUR: 2000000}, verdict: hold}
blocked_payees: # a list and another
  - {code: COURT_ORDER, account: acc-abcdefghijklmnopqrstuvwxyz, why: case 7}
  - {code: COURT_ORDER, account: acc-bbcdefghijklmnopqrstuvwxyz, why: case 8}
  - {account: acc-cbcdefghijklmnopqrstuvwxyz, why: known fraud}
`))
	if err != nil {
		t.Fatal(err)
	}
	codes := map[string]risk.Code{"EUR": got.Ceilings["EUR"].Code, "USD": got.Ceilings["USD"].Code}
	for i, l := range got.Limits {
		codes[fmt.Sprint("limit ", i)] = l.Code
	}
	for account, b := range got.Blocked {
		codes[account] = b.Code
	}
	want := map[string]risk.Code{
		"EUR": "BIG_ONE", "USD": "BIG_ONE", "limit 0": "ROBOT", "limit 1": "ACCOUNT_EMPTIED_1H", "limit 2": "",
		"acc-abcdefghijklmnopqrstuvwxyz": "COURT_ORDER", "acc-bbcdefghijklmnopqrstuvwxyz": "COURT_ORDER", "acc-cbcdefghijklmnopqrstuvwxyz": "",
	}
	if diff := cmp.Diff(want, codes); diff != "" {
		t.Errorf("codes (-want +got):\n%s", diff)
	}
}

func TestErrorsAreInTheOrderOfTheFile(t *testing.T) {
	t.Parallel()
	_, err := rules.Parse("f", []byte("blocked_payees: 1\nvelocity: 2\namount_ceilings: 3\n"))
	want := `f:1:17: blocked_payees must be a list, "- …" or []
f:2:11: velocity must be a list, "- …" or []
f:3:18: amount_ceilings must be a mapping, "key: value"`
	if err == nil || err.Error() != want {
		t.Errorf("errors (-want +got):\n%s", cmp.Diff(want, err.Error()))
	}
}

func TestOpenNamesAMissingFile(t *testing.T) {
	t.Parallel()
	path := filepath.Join(t.TempDir(), "none.yaml")
	if _, err := rules.Open(path); err == nil || !strings.Contains(err.Error(), path) {
		t.Errorf("Open = %v, want an error that names the file", err)
	}
}

// FuzzParse holds that no text makes the reader panic, and that what it takes is within bounds.
func FuzzParse(f *testing.F) {
	f.Add(good)
	f.Add("a: &a [*a]")
	f.Add("<<: {a: b}")
	f.Add("? {a: b}\n: c")
	own, err := os.ReadFile("../../../../deploy/risk/bank.yaml")
	if err != nil {
		f.Fatal(err)
	}
	f.Add(string(own))
	f.Fuzz(func(t *testing.T, text string) {
		got, err := rules.Parse("f", []byte(text))
		if err != nil {
			return
		}
		if len(got.Ceilings) == 0 || len(got.Limits) == 0 {
			t.Errorf("took rules without a ceiling or a limit: %+v", got)
		}
		for _, l := range got.Limits {
			if l.Per == 0 || l.Verdict < risk.Hold || l.Window <= 0 || l.MaxPayments <= 0 && len(l.MaxAmount) == 0 {
				t.Errorf("took the limit %+v", l)
			}
		}
	})
}
