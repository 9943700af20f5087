package policy_test

import (
	"errors"
	"fmt"
	"strings"
	"testing"

	"github.com/countersign-mesh/countersign/pkg/policy"
)

var errExpired = errors.New("the user's token has expired")

// alice asked for a transfer of the balance of account "x".
func alice(scope string) *policy.User {
	return &policy.User{
		Subject: "alice", Scope: scope, Transaction: "txn-1", Requesters: []string{"spiffe://bank.test/gateway"},
		Context: map[string]string{"account_id": "x"},
	}
}

// ATTACKS 59: peer, user and content must all match.
func TestARuleWithAUser(t *testing.T) {
	t.Parallel()
	const (
		transfer = "peer: /a, why: t, user: transfer"
		same     = transfer + ", when: request.account_id == user.context.account_id"
		deny     = "peer: /a, why: d, user: transfer"
	)
	plain := "peer: /a, why: p"
	for name, test := range map[string]struct {
		deny, allow []string
		peer        string
		user        *policy.User
		err         error
		want, rule  string
		reason      string
	}{
		"the scope":                             {nil, []string{transfer}, "/a", alice("transfer"), nil, allowed, "t", ""},
		"one of several scopes":                 {nil, []string{transfer}, "/a", alice("accounts.read transfer"), nil, allowed, "t", ""},
		"nobody has looked":                     {nil, []string{transfer}, "/a", nil, nil, undecided, "", "p.yaml:7: it depends on the user's token: the rule allows /a with a user's token for transfer"},
		"no token":                              {nil, []string{transfer}, "/a", nil, policy.ErrNoUser, denied, "", "p.yaml:7: the call carries no user's token, and the rule asks for one for transfer"},
		"an expired token":                      {nil, []string{transfer}, "/a", nil, errExpired, denied, "", "p.yaml:7: the user's token has expired, and the rule asks for one for transfer"},
		"an error beside a user":                {nil, []string{transfer}, "/a", alice("transfer"), errExpired, denied, "", "p.yaml:7: the user's token has expired"},
		"another scope":                         {nil, []string{transfer}, "/a", alice("accounts.read"), nil, denied, "", `p.yaml:7: allowed for /a with a user's token for transfer; the token is for "accounts.read"`},
		"a scope that starts alike":             {nil, []string{transfer}, "/a", alice("transfers"), nil, denied, "", "p.yaml:7: allowed for /a with"},
		"a scope that ends alike":               {nil, []string{transfer}, "/a", alice("no-transfer"), nil, denied, "", "p.yaml:7: allowed for /a with"},
		"no scope":                              {nil, []string{transfer}, "/a", alice(""), nil, denied, "", "p.yaml:7: allowed for /a with"},
		"another peer":                          {nil, []string{transfer}, "/b", alice("transfer"), nil, denied, "", "p.yaml:5: allowed for /a; the caller is /b"},
		"another peer, and nobody has looked":   {nil, []string{transfer}, "/b", nil, nil, denied, "", "p.yaml:5: allowed for /a; the caller is /b"},
		"the content":                           {nil, []string{same}, "/a", alice("transfer"), nil, allowed, "t", ""},
		"another content":                       {nil, []string{same}, "/a", &policy.User{Scope: "transfer", Context: map[string]string{"account_id": "y"}}, nil, denied, "", "p.yaml:7: allowed for /a with a user's token for transfer when request.account_id == user.context.account_id, which this call is not"},
		"no content":                            {nil, []string{same}, "/a", &policy.User{Scope: "transfer"}, nil, denied, "", "p.yaml:7: the condition could not be evaluated: no such key: account_id"},
		"the content and another scope":         {nil, []string{same}, "/a", alice("accounts.read"), nil, denied, "", "p.yaml:7: allowed for /a with a user's token for transfer; the token is for"},
		"the rule of the token's scope is told": {nil, []string{"peer: /a, user: accounts.read", same}, "/a", &policy.User{Scope: "transfer", Context: map[string]string{"account_id": "y"}}, nil, denied, "", "p.yaml:8: allowed for /a with a user's token for transfer when"},
		"one of two rules":                      {nil, []string{"peer: /a, user: accounts.read", transfer}, "/a", alice("transfer"), nil, allowed, "t", ""},
		"a rule for all without a user":         {nil, []string{transfer, plain}, "/a", nil, nil, allowed, "p", ""},
		"the subject":                           {nil, []string{transfer + ", when: user.subject == 'alice'"}, "/a", alice("transfer"), nil, allowed, "t", ""},
		"who asked":                             {nil, []string{transfer + `, when: "user.requesters[0] == 'spiffe://bank.test/gateway'"`}, "/a", alice("transfer"), nil, allowed, "t", ""},
		"the transaction and the scope":         {nil, []string{transfer + ", when: user.transaction + user.scope == 'txn-1transfer'"}, "/a", alice("transfer"), nil, allowed, "t", ""},

		"denied for the scope":           {[]string{deny}, []string{plain}, "/a", alice("transfer"), nil, denied, "d", "p.yaml:7: denied for /a with a user's token for transfer; the caller is /a"},
		"denied without a token":         {[]string{deny}, []string{plain}, "/a", nil, policy.ErrNoUser, denied, "d", "p.yaml:7: denied for /a with a user's token for transfer; the caller is /a: d (the call carries no user's token"},
		"denied for an expired one":      {[]string{deny}, []string{plain}, "/a", nil, errExpired, denied, "d", "p.yaml:7: denied"},
		"not denied for another scope":   {[]string{deny}, []string{plain}, "/a", alice("accounts.read"), nil, allowed, "p", ""},
		"denied while nobody has looked": {[]string{deny}, []string{plain}, "/a", nil, nil, undecided, "", "p.yaml:7: it depends on the user's token: the rule denies /a with a user's token for transfer"},
		"denied for the content":         {[]string{deny + ", when: user.subject == 'alice'"}, []string{plain}, "/a", alice("transfer"), nil, denied, "d", "p.yaml:7"},
		"denied for another's content":   {[]string{deny + ", when: user.subject == 'bob'"}, []string{plain}, "/a", alice("transfer"), nil, allowed, "p", ""},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			call := callOf(getBalance, workload(t, test.peer))
			call.Request, call.User, call.UserErr = balanceOf("x"), test.user, test.err
			got := mustParse(t, methodText(test.deny, test.allow)).Decide(call)
			if outcome(got) != test.want || why(got.Rule) != test.rule || !strings.HasPrefix(got.Reason, test.reason) || (got.Reason == "") != got.Allowed {
				t.Errorf("%s by %q: %q; want %s by %q: %q", outcome(got), why(got.Rule), got.Reason, test.want, test.rule, test.reason)
			}
			if got.NeedsUser != got.Undecided {
				t.Errorf("it needs the user: %t", got.NeedsUser)
			}
		})
	}
}

func TestARuleInShadowWithAUserIsNotEnforced(t *testing.T) {
	t.Parallel()
	parsed := mustParse(t, methodText([]string{"peer: /a, user: transfer, when: user.subject == 'alice', shadow: true, why: s"}, []string{"peer: /a"}))
	call := callOf(getBalance, workload(t, "/a"))
	if got := parsed.Decide(call); !got.Allowed || !got.NeedsUser || !got.Shadow.Undecided {
		t.Errorf("while nobody has looked: %+v", got)
	}
	call.UserErr = policy.ErrNoUser
	if got := parsed.Decide(call); !got.Allowed || got.NeedsUser || why(got.Shadow.Rule) != "s" || got.Shadow.Allowed {
		t.Errorf("without a token: %+v", got)
	}
	call.User, call.UserErr = &policy.User{Subject: "bob", Scope: "transfer"}, nil
	if got := parsed.Decide(call); !got.Allowed || got.Shadow != (policy.Shadow{}) {
		t.Errorf("for another user: %+v", got)
	}
}

func TestAUserIsCheckedWhenTheFileIsRead(t *testing.T) {
	t.Parallel()
	for rule, want := range map[string]string{
		"user: Transfer": "8:19 services",
		"user: a b":      "8:19 services",
		"user: transfer\n            when: user.name == 'x'":         "9:23: when: undefined field 'name'",
		"user: transfer\n            when: user.context.amount == 1": "9:39: when: found no matching overload",
		"user: transfer\n            when: user.transaction":         "9:19: when: it is of type string",
		"when: user.subject == 'x'":                                  "8:19: when: undeclared reference to 'user' (in container ''); a condition asks for the user where the rule has one",
		"user: ''\n            when: user.subject == 'x'":            "9:19: when: undeclared reference to 'user'",
	} {
		text := strings.Replace(conditionText(getBalance, "allow", "X"), "when: X", rule, 1)
		if _, err := policy.Parse("p.yaml", []byte(text)); err == nil || !strings.HasPrefix(err.Error(), "p.yaml:"+want) {
			t.Errorf("%s: %v, want %s", rule, err, want)
		}
	}
	if _, err := policy.Parse("p.yaml", []byte(methodText(nil, []string{"peer: /a, user: transfer", "peer: /a, user: accounts.read", "peer: /a"}))); err != nil {
		t.Errorf("rules for different users: %v", err)
	}
	if _, err := policy.Parse("p.yaml", []byte(methodText(nil, []string{"peer: /a, user: transfer", "peer: /a, user: transfer"}))); err == nil {
		t.Error("the same rule twice was accepted")
	}
}

func TestAServerWithoutUsersIsTold(t *testing.T) {
	t.Parallel()
	parsed := mustParse(t, methodText([]string{"peer: /b, user: accounts.read, shadow: true"}, []string{"peer: /a, user: transfer", "peer: /c"}))
	served := map[string][]string{"a.v1.WithoutRules": {"Get"}, "bank.ledger.v1.LedgerService": {"GetBalance"}}
	err := parsed.WithoutUsers(served)
	if err == nil || strings.Count(err.Error(), "\n") != 1 || !strings.Contains(err.Error(), `p.yaml:9:14: the rule for "/a" asks for a user's token for transfer`) ||
		!strings.Contains(err.Error(), "p.yaml:7:14") {
		t.Errorf("it says %v", err)
	}
	if err := parsed.WithoutUsers(map[string][]string{"bank.risk.v1.RiskService": {"AssessPayment"}}); err != nil {
		t.Errorf("of another's rules it says %v", err)
	}
	if err := mustParse(t, methodText(nil, []string{"peer: /a"})).WithoutUsers(served); err != nil {
		t.Errorf("of a policy without users it says %v", err)
	}
}

func TestConditionOfARule(t *testing.T) {
	t.Parallel()
	for rule, want := range map[string]string{
		"peer: /a":                                          "",
		"peer: /a, when: 'true'":                            "true",
		"peer: /a, user: transfer":                          `user.scope == "transfer"`,
		"peer: /a, user: transfer, when: 'true'":            `user.scope == "transfer" && true`,
		"peer: /a, user: transfer, when: 'true||false'":     `user.scope == "transfer" && (true||false)`,
		"peer: /a, user: transfer, when: 'true?true:false'": `user.scope == "transfer" && (true?true:false)`,
		"peer: /a, user: transfer, when: 'true // x'":       "user.scope == \"transfer\" && (true // x\n)",
	} {
		m, _ := mustParse(t, methodText(nil, []string{rule})).Method(getBalance)
		if got := m.Rules[0].Condition(); got != want {
			t.Errorf("%s: %s, want %s", rule, got, want)
		}
	}
}

// A rule that asks for nothing costs no allocation where others ask for a user, and one that awaits the user none either.
func TestAUserCostsTheOthersNothing(t *testing.T) {
	parsed := mustParse(t, methodText(nil, []string{"peer: /a", "peer: /a, user: transfer", "peer: /b, user: transfer", "peer: /c/**, user: transfer", "peer: /c/d"}))
	for peer, want := range map[string]string{"/a": allowed, "/c/d": allowed, "/b": undecided} {
		call := callOf(getBalance, workload(t, peer))
		if allocs := testing.AllocsPerRun(100, func() {
			if got := parsed.Decide(call); outcome(got) != want {
				t.Errorf("%s: %+v", peer, got)
			}
		}); allocs != 0 {
			t.Errorf("%s makes %v allocations", peer, allocs)
		}
	}
}

// BenchmarkDecideUser is a decision over a user who is known.
func BenchmarkDecideUser(b *testing.B) {
	for name, rule := range map[string]string{
		"scope":   "peer: /a, user: transfer",
		"content": "peer: /a, user: transfer, when: request.account_id == user.context.account_id",
	} {
		b.Run(fmt.Sprintf("of=%s", name), func(b *testing.B) {
			parsed := mustParse(b, methodText(nil, []string{rule}))
			call := callOf(getBalance, workload(b, "/a"))
			call.Request, call.User = balanceOf("x"), alice("transfer")
			b.ReportAllocs()
			for b.Loop() {
				if got := parsed.Decide(call); !got.Allowed {
					b.Fatal(got)
				}
			}
		})
	}
}
