package policy_test

import (
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"

	"github.com/countersign-mesh/countersign/pkg/policy"
)

// The main file of a policy whose rules stand in two others, one of them in a directory below.
const (
	mainText = `trust_domain: bank.test
include:
  - file: teams/money.yaml
    services: [bank.ledger.v1.LedgerService, bank.payments.v1.PaymentService]
  - file: risk.yaml
    services: [bank.risk.v1.RiskService]
services:
  bank.accounts.v1.AccountService:
    methods:
      GetAccount:
        allow:
          - peer: /gateway
`
	moneyText = `trust_domain: bank.test
services:
  bank.ledger.v1.LedgerService:
    methods:
      GetBalance:
        allow:
          - peer: /gateway
          - peer: /accounts
            when: request.account_id == "x"
`
	riskText = `trust_domain: bank.test
services:
  bank.risk.v1.RiskService:
    served_by: [/risk]
    methods:
      AssessPayment:
        deny:
          - peer: /payments/canary
        allow:
          - peer: /payments/**
`
)

// tree is files by their path.
type tree map[string]string

// with returns the tree with one text of one file replaced by another; a text that is not there is a mistake in the test.
func (f tree) with(t *testing.T, file, before, after string) tree {
	t.Helper()
	if !strings.Contains(f[file], before) {
		t.Fatalf("%s has no %q", file, before)
	}
	changed := tree{file: strings.Replace(f[file], before, after, 1)}
	for name, text := range f {
		if name != file {
			changed[name] = text
		}
	}
	return changed
}

// write puts the files into a directory of their own and returns the path of the main file.
func (f tree) write(t testing.TB) string {
	t.Helper()
	dir := t.TempDir()
	for name, text := range f {
		path := filepath.Join(dir, name)
		if err := os.MkdirAll(filepath.Dir(path), 0o700); err != nil {
			t.Fatal(err)
		}
		if err := os.WriteFile(path, []byte(text), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	return filepath.Join(dir, "main.yaml")
}

func included() tree {
	return tree{"main.yaml": mainText, "teams/money.yaml": moneyText, "risk.yaml": riskText}
}

func mustLoad(t testing.TB, f tree) *policy.Policy {
	t.Helper()
	loaded, err := policy.Load(f.write(t))
	if err != nil {
		t.Fatal(err)
	}
	return loaded
}

func TestTheRulesOfAllFilesAreInForce(t *testing.T) {
	t.Parallel()
	loaded := mustLoad(t, included())
	for name, test := range map[string]struct{ method, peer, want, place string }{
		"a rule of the main file":          {"/bank.accounts.v1.AccountService/GetAccount", "/gateway", allowed, "main.yaml:12"},
		"a rule of an included file":       {"/bank.ledger.v1.LedgerService/GetBalance", "/gateway", allowed, "money.yaml:7"},
		"a condition of an included file":  {"/bank.ledger.v1.LedgerService/GetBalance", "/accounts", undecided, ""},
		"a subtree of an included file":    {"/bank.risk.v1.RiskService/AssessPayment", "/payments/x", allowed, "risk.yaml:10"},
		"a denial of an included file":     {"/bank.risk.v1.RiskService/AssessPayment", "/payments/canary", denied, "risk.yaml:8"},
		"whom no rule of any file lets in": {"/bank.accounts.v1.AccountService/GetAccount", "/payments/x", denied, ""},
		"a method that no file has":        {"/bank.payments.v1.PaymentService/GetPayment", "/gateway", denied, ""},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			got := loaded.Decide(callOf(test.method, workload(t, test.peer)))
			if outcome(got) != test.want || got.Rule.Place() != test.place {
				t.Errorf("%s by %q, want %s by %q", outcome(got), got.Rule.Place(), test.want, test.place)
			}
		})
	}
	var places []string
	for service := range loaded.Services() {
		places = append(places, filepath.Base(service.Position.File)+" "+service.Name)
	}
	want := []string{"main.yaml bank.accounts.v1.AccountService", "money.yaml bank.ledger.v1.LedgerService", "risk.yaml bank.risk.v1.RiskService"}
	if diff := cmp.Diff(want, places); diff != "" {
		t.Errorf("the services stand in (-want +got)\n%s", diff)
	}
	if err := loaded.Dials(workload(t, "/payments/x"), workload(t, "/risk")); err != nil {
		t.Errorf("served_by of an included file: %v", err)
	}
}

func TestAnIncludedFileIsRefused(t *testing.T) {
	t.Parallel()
	const accounts = "services:\n  bank.accounts.v1.AccountService:\n    methods:\n      GetAccount: {}\n"
	for name, test := range map[string]struct {
		files tree
		want  []string // the whole error, with paths as they are from the main file's directory
	}{
		"a service that the main file does not let it have": {
			included().with(t, "main.yaml", "[bank.ledger.v1.LedgerService, bank.payments.v1.PaymentService]", "[bank.payments.v1.PaymentService]"),
			[]string{"teams/money.yaml:3:3: the file that includes this one lets it have no rules for bank.ledger.v1.LedgerService; it would have to stand there under services"},
		},
		"each service that it must not have": {
			included().with(t, "risk.yaml", "services:\n", "services:\n  a.A: {methods: {Get: {}}}\n  z.Z: {methods: {Get: {allow: [{peer: /x/}]}}}\n"),
			[]string{
				"risk.yaml:3:3: the file that includes this one lets it have no rules for a.A; it would have to stand there under services",
				"risk.yaml:4:3: the file that includes this one lets it have no rules for z.Z; it would have to stand there under services",
			},
		},
		"each service that stands elsewhere, and what is wrong in the next": {
			included().with(t, "main.yaml", "[bank.risk.v1.RiskService]", "[bank.risk.v1.RiskService, bank.accounts.v1.AccountService, bank.ledger.v1.LedgerService]").
				with(t, "risk.yaml", "services:\n", accounts+"  bank.ledger.v1.LedgerService:\n    methods:\n      GetBalance: {}\n").with(t, "risk.yaml", "/payments/**", "/x/"),
			[]string{
				"risk.yaml:3:3: bank.accounts.v1.AccountService has its rules already at main.yaml:8",
				"risk.yaml:6:3: bank.ledger.v1.LedgerService has its rules already at money.yaml:3",
				`risk.yaml:16:13: peer "/x/": no SPIFFE ID: path cannot have a trailing slash`,
			},
		},
		"a service of another included file": {
			included().with(t, "risk.yaml", "services:\n", "services:\n  bank.payments.v1.PaymentService:\n    methods: {GetPayment: {}}\n"),
			[]string{"risk.yaml:3:3: the file that includes this one lets it have no rules for bank.payments.v1.PaymentService; it would have to stand there under services"},
		},
		"a service that starts like one that it may have": {
			included().with(t, "risk.yaml", "bank.risk.v1.RiskService:", "bank.risk.v1.RiskServiceX:"),
			[]string{"risk.yaml:3:3: the file that includes this one lets it have no rules for bank.risk.v1.RiskServiceX; it would have to stand there under services"},
		},
		"a service that stands in the main file too": {
			included().with(t, "risk.yaml", "services:\n", accounts).with(t, "main.yaml", "[bank.risk.v1.RiskService]", "[bank.risk.v1.RiskService, bank.accounts.v1.AccountService]"),
			[]string{"risk.yaml:3:3: bank.accounts.v1.AccountService has its rules already at main.yaml:8"},
		},
		"a service that stands in two included files": {
			included().with(t, "risk.yaml", "bank.risk.v1.RiskService", "bank.ledger.v1.LedgerService").with(t, "main.yaml", "[bank.risk.v1.RiskService]", "[bank.ledger.v1.LedgerService]"),
			[]string{"risk.yaml:3:3: bank.ledger.v1.LedgerService has its rules already at money.yaml:3"},
		},
		"a file that is included twice": {
			included().with(t, "main.yaml", "  - file: risk.yaml\n", "  - file: ./teams/../risk.yaml\n    services: [bank.risk.v1.RiskService]\n  - file: risk.yaml\n"),
			[]string{"risk.yaml:3:3: bank.risk.v1.RiskService has its rules already at risk.yaml:3"},
		},
		"a file that is not there": {
			included().with(t, "main.yaml", "file: risk.yaml", "file: none.yaml"),
			[]string{"main.yaml:5:5: open none.yaml: no such file or directory"},
		},
		"a directory": {
			included().with(t, "main.yaml", "file: risk.yaml", "file: teams"),
			[]string{"main.yaml:5:5: read teams: is a directory"},
		},
		"a file that is empty": {
			tree{"main.yaml": mainText, "teams/money.yaml": moneyText, "risk.yaml": ""},
			[]string{"risk.yaml: the file is empty"},
		},
		"a file with an unknown field": {
			included().with(t, "risk.yaml", "served_by", "servedBy"),
			[]string{`risk.yaml:4:5: unknown field "servedBy"; write served_by`},
		},
		"a file with a peer that is none": {
			included().with(t, "risk.yaml", "/payments/**", "/payments/"),
			[]string{`risk.yaml:10:13: peer "/payments/": no SPIFFE ID: path cannot have a trailing slash`},
		},
		"a file with a condition that is wrong": {
			included().with(t, "teams/money.yaml", "request.account_id", "request.account"),
			[]string{"teams/money.yaml:9:26: when: undefined field 'account'"},
		},
		"another trust domain": {
			included().with(t, "risk.yaml", "bank.test", "partner.test"),
			[]string{`risk.yaml:1:1: trust_domain "partner.test" is not that of the file that includes this one, "bank.test"`},
		},
		"revocations": {
			included().with(t, "risk.yaml", "services:\n", "revoked:\n  - id: /stolen\nservices:\n"),
			[]string{"risk.yaml:2:1: revocations stand in the main file, not in an included one"},
		},
		"a file that includes another": {
			included().with(t, "risk.yaml", "services:\n", "include:\n  - {file: x.yaml, services: [a.A]}\nservices:\n"),
			[]string{"risk.yaml:2:1: an included file includes no other; the main file does"},
		},
		"the main file itself": {
			included().with(t, "main.yaml", "file: risk.yaml", "file: main.yaml").with(t, "main.yaml", "[bank.risk.v1.RiskService]", "[bank.accounts.v1.AccountService]"),
			[]string{
				"main.yaml:2:1: an included file includes no other; the main file does",
				"main.yaml:8:3: bank.accounts.v1.AccountService has its rules already at main.yaml:8",
			},
		},
		"a path that leads out": {
			included().with(t, "main.yaml", "file: risk.yaml", "file: ../risk.yaml"),
			[]string{`main.yaml:5:5: "../risk.yaml" does not lie in the directory of this file or below; write its path relative to that`},
		},
		"a path that leads out, before one that does not": {
			included().with(t, "main.yaml", "file: teams/money.yaml", "file: ../money.yaml"),
			[]string{`main.yaml:3:5: "../money.yaml" does not lie in the directory of this file or below; write its path relative to that`},
		},
		"a path that leads out on its way": {
			included().with(t, "main.yaml", "file: risk.yaml", "file: teams/../../risk.yaml"),
			[]string{`main.yaml:5:5: "teams/../../risk.yaml" does not lie in the directory of this file or below; write its path relative to that`},
		},
		"a path from the root": {
			included().with(t, "main.yaml", "file: risk.yaml", "file: /etc/passwd"),
			[]string{`main.yaml:5:5: "/etc/passwd" does not lie in the directory of this file or below; write its path relative to that`},
		},
		"whatever is wrong in each file": {
			included().with(t, "main.yaml", "- peer: /gateway", "- peer: /gate/").with(t, "teams/money.yaml", "- peer: /gateway", "- peer: /way/").
				with(t, "risk.yaml", "services:\n", "revoked:\n  - id: /stolen\nservices:\n").with(t, "risk.yaml", "bank.test", "a.test").with(t, "risk.yaml", "/payments/**", "/x/"),
			[]string{
				`main.yaml:12:13: peer "/gate/": no SPIFFE ID: path cannot have a trailing slash`,
				`teams/money.yaml:7:13: peer "/way/": no SPIFFE ID: path cannot have a trailing slash`,
				`risk.yaml:1:1: trust_domain "a.test" is not that of the file that includes this one, "bank.test"`,
				"risk.yaml:2:1: revocations stand in the main file, not in an included one",
				`risk.yaml:12:13: peer "/x/": no SPIFFE ID: path cannot have a trailing slash`,
			},
		},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			path := test.files.write(t)
			_, err := policy.Load(path)
			if err == nil {
				t.Fatal("it was accepted")
			}
			got := strings.Split(strings.ReplaceAll(err.Error(), filepath.Dir(path)+string(filepath.Separator), ""), "\n")
			if diff := cmp.Diff(test.want, got); diff != "" {
				t.Errorf("the error is not as it should be (-want +got)\n%s", diff)
			}
		})
	}
}

// A file that its owners have emptied of rules is no mistake: the servers of its services refuse it, as they are not covered.
func TestAnIncludedFileMayHaveNoServices(t *testing.T) {
	t.Parallel()
	files := included()
	files["risk.yaml"] = "trust_domain: bank.test\n"
	loaded := mustLoad(t, files)
	if err := loaded.Covers(map[string][]string{"bank.risk.v1.RiskService": {"AssessPayment"}}); err == nil {
		t.Error("a service without rules is covered")
	}
}

func TestAPolicyMayConsistOfIncludedFilesAlone(t *testing.T) {
	t.Parallel()
	main, _, _ := strings.Cut(mainText, "services:\n  bank.accounts")
	loaded := mustLoad(t, tree{"main.yaml": main, "teams/money.yaml": moneyText, "risk.yaml": riskText})
	if got := loaded.Decide(callOf("/bank.ledger.v1.LedgerService/GetBalance", workload(t, "/gateway"))); !got.Allowed {
		t.Errorf("Decide = %+v", got)
	}
}

func TestAPolicyMayHaveAsManyServicesAsIncludedFiles(t *testing.T) {
	t.Parallel()
	loaded := mustLoad(t, included().with(t, "main.yaml", "  - file: risk.yaml\n    services: [bank.risk.v1.RiskService]\n", ""))
	for _, method := range []string{"/bank.accounts.v1.AccountService/GetAccount", "/bank.ledger.v1.LedgerService/GetBalance"} {
		if got := loaded.Decide(callOf(method, workload(t, "/gateway"))); !got.Allowed {
			t.Errorf("%s: %+v", method, got)
		}
	}
}

func TestWhatIsNotReadFromAFileIncludesNoOther(t *testing.T) {
	t.Parallel()
	_, err := policy.Parse("main.yaml", []byte(mainText))
	for _, want := range []string{
		`main.yaml:3:5: "teams/money.yaml": a policy that is not read from a file includes no other`,
		`main.yaml:5:5: "risk.yaml": a policy that is not read from a file includes no other`,
	} {
		if err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("the error is %v, want %s", err, want)
		}
	}
	// Nor itself, though that be at hand.
	_, err = policy.Parse("main.yaml", []byte("trust_domain: bank.test\ninclude:\n  - {file: main.yaml, services: [a.A]}\n"))
	if want := `main.yaml:3:6: "main.yaml": a policy that is not read from a file includes no other`; err == nil || err.Error() != want {
		t.Errorf("the error is %v, want %s", err, want)
	}
}

func TestShadowOfAFileIsItsOwn(t *testing.T) {
	t.Parallel()
	const (
		account = "/bank.accounts.v1.AccountService/GetAccount"
		balance = "/bank.ledger.v1.LedgerService/GetBalance"
		risk    = "/bank.risk.v1.RiskService/AssessPayment"
	)
	for name, test := range map[string]struct {
		file     string
		inShadow map[string]bool
	}{
		"of the main file":     {"main.yaml", map[string]bool{account: true, balance: false, risk: false}},
		"of an included file":  {"teams/money.yaml", map[string]bool{account: false, balance: true, risk: false}},
		"of the last included": {"risk.yaml", map[string]bool{account: false, balance: false, risk: true}},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			loaded := mustLoad(t, included().with(t, test.file, "trust_domain: bank.test\n", "trust_domain: bank.test\nshadow: true\n"))
			for method, inShadow := range test.inShadow {
				peer := "/gateway"
				if method == risk {
					peer = "/payments/x"
				}
				got := loaded.Decide(callOf(method, workload(t, peer)))
				if got.Allowed == inShadow || got.Shadow.Allowed != inShadow {
					t.Errorf("%s: %+v, want it in shadow: %v", method, got, inShadow)
				}
			}
		})
	}
}
