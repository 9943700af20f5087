package policy_test

import (
	"strings"
	"testing"

	"google.golang.org/protobuf/proto"

	"github.com/countersign-mesh/countersign/pkg/policy"
)

// shadowed puts a rule in shadow.
func shadowed(rule string) string { return rule + ", shadow: true" }

// What the verdict would be if the rules in shadow were enforced, in a word.
func shadowOutcome(s policy.Shadow) string {
	switch {
	case s.Undecided && (s.Allowed || s.Rule != nil):
		return "undecided and decided"
	case s.Undecided:
		return undecided
	case s.Rule == nil && s.Allowed:
		return "allowed by no rule"
	case s.Rule == nil:
		return ""
	case s.Allowed:
		return allowed
	}
	return denied
}

func TestShadow(t *testing.T) {
	t.Parallel()
	allow, deny := []string{"peer: /a, why: allow"}, []string{"peer: /a, why: deny"}
	for name, test := range map[string]struct {
		deny, allow []string // the rules that are enforced
		hidden      []string // the rules in shadow that deny
		shown       []string // the rules in shadow that allow
		request     proto.Message
		shadow      string // the outcome that the rules in shadow would have
		rule        string // the one of them that is reported
		without     string // what the call gets, whatever is in shadow
	}{
		"nothing in shadow says nothing":                  {allow: allow, without: allowed},
		"a rule that would let in lets nobody in":         {shown: []string{"peer: /a, why: s"}, without: denied, shadow: allowed, rule: "s"},
		"a rule that would keep out keeps nobody out":     {allow: allow, hidden: []string{"peer: /a, why: s"}, without: allowed, shadow: denied, rule: "s"},
		"a rule that would let in whom a rule keeps out":  {deny: deny, shown: []string{"peer: /a, why: s"}, without: denied, shadow: denied, rule: "s"},
		"a rule that would let in whom a rule lets in":    {allow: allow, shown: []string{"peer: /a/**, why: x", "peer: /a, why: s"}, without: allowed, shadow: allowed, rule: "s"},
		"a rule that would keep out whom a rule does":     {deny: deny, hidden: []string{"peer: /a, why: s"}, without: denied, shadow: denied, rule: "s"},
		"a rule that would keep out whom no rule lets in": {hidden: []string{"peer: /a, why: s"}, without: denied, shadow: denied, rule: "s"},
		"a rule that would keep out over one that would let in": {
			hidden: []string{"peer: /**, why: s"}, shown: []string{"peer: /a, why: x"}, without: denied, shadow: denied, rule: "s",
		},
		"a rule for another peer says nothing":              {allow: allow, hidden: []string{"peer: /b"}, shown: []string{"peer: /c/**"}, without: allowed},
		"the most specific of those that would keep out":    {hidden: []string{"peer: /**, why: x", "peer: /a, why: s"}, allow: allow, without: allowed, shadow: denied, rule: "s"},
		"the most specific of those that would let in":      {shown: []string{"peer: /**, why: x", "peer: /a, why: s"}, without: denied, shadow: allowed, rule: "s"},
		"a rule for all says it of one that a rule lets in": {allow: allow, hidden: []string{"peer: /**, why: s"}, without: allowed, shadow: denied, rule: "s"},
		"a condition that does not hold says nothing":       {allow: allow, hidden: []string{"peer: /a, why: s, " + notFor}, without: allowed},
		"a condition over the peer that holds":              {allow: allow, hidden: []string{"peer: /a, why: s, " + ifPeer}, without: allowed, shadow: denied, rule: "s"},
		"a condition that fails would let nobody in":        {shown: []string{"peer: /a, why: s, " + fails}, without: denied},
		"a condition that fails would keep out":             {allow: allow, hidden: []string{"peer: /a, why: s, " + fails}, without: allowed, shadow: denied, rule: "s"},
		"a condition over the request that is not known":    {allow: allow, hidden: []string{"peer: /a, why: s, " + ifX}, without: allowed, shadow: undecided},
		"the same with a request for which it holds":        {allow: allow, hidden: []string{"peer: /a, why: s, " + ifX}, request: balanceOf("x"), without: allowed, shadow: denied, rule: "s"},
		"the same with a request for which it does not":     {allow: allow, hidden: []string{"peer: /a, why: s, " + ifX}, request: balanceOf("y"), without: allowed},
		"a condition to let in that is not known":           {shown: []string{"peer: /a, why: s, " + ifX}, without: denied, shadow: undecided},
		"the same with a request for which it would let in": {shown: []string{"peer: /a, why: s, " + ifX}, request: balanceOf("x"), without: denied, shadow: allowed, rule: "s"},
		"the same of a call that a rule keeps out":          {deny: deny, shown: []string{"peer: /a, why: s, " + ifX}, request: balanceOf("x"), without: denied, shadow: denied, rule: "s"},
		"a condition to let in beside a rule that would":    {shown: []string{"peer: /a, why: x, " + ifX, "peer: /**, why: s"}, without: denied, shadow: allowed, rule: "s"},
		"a condition to keep out beside a rule that would":  {allow: allow, hidden: []string{"peer: /a, why: x, " + ifX, "peer: /**, why: s"}, without: allowed, shadow: denied, rule: "s"},
		"a condition to keep out before a rule to let in":   {hidden: []string{"peer: /a, why: x, " + ifX}, shown: []string{"peer: /a, why: s"}, without: denied, shadow: undecided},
		"a rule that would let in whom a rule may keep out": {
			deny: []string{"peer: /a, why: d, " + ifX}, shown: []string{"peer: /a, why: s"}, without: denied, shadow: undecided,
		},
		"the same with a request that it keeps out": {
			deny: []string{"peer: /a, why: d, " + ifX}, shown: []string{"peer: /a, why: s"}, request: balanceOf("x"), without: denied, shadow: denied, rule: "s",
		},
		"the same with a request that it does not keep out": {
			deny: []string{"peer: /a, why: d, " + ifX}, shown: []string{"peer: /a, why: s"}, request: balanceOf("y"), without: denied, shadow: allowed, rule: "s",
		},
		"a rule that would keep out whom a rule may keep out": {
			deny: []string{"peer: /a, why: d, " + ifX}, hidden: []string{"peer: /a, why: s"}, shown: []string{"peer: /a, why: x"}, without: denied, shadow: denied, rule: "s",
		},
		"an enforced condition that is not known comes first": {allow: []string{"peer: /a, " + ifX}, hidden: []string{"peer: /a, why: s"}, without: undecided},
		"the same with a request that it lets in": {
			allow: []string{"peer: /a, why: allow, " + ifX}, hidden: []string{"peer: /a, why: s"}, request: balanceOf("x"), without: allowed, shadow: denied, rule: "s",
		},
		"the same with a request that it does not let in": {
			allow: []string{"peer: /a, why: allow, " + ifX}, shown: []string{"peer: /a, why: s"}, request: balanceOf("y"), without: denied, shadow: allowed, rule: "s",
		},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			withShadow := func(enforced, inShadow []string) []string {
				var all []string
				for _, r := range inShadow { // before the others, as the order of the file must not matter
					all = append(all, shadowed(r))
				}
				return append(all, enforced...)
			}
			call := callOf(getBalance, workload(t, "/a"))
			call.Request = test.request
			text := methodText(withShadow(test.deny, test.hidden), withShadow(test.allow, test.shown))
			got := mustParse(t, text).Decide(call)
			bare := mustParse(t, methodText(test.deny, test.allow)).Decide(call)
			if outcome(got) != test.without || outcome(bare) != test.without || why(got.Rule) != why(bare.Rule) {
				t.Errorf("the verdict is %s by %q, without shadow %s by %q, want %s, of\n%s",
					outcome(got), why(got.Rule), outcome(bare), why(bare.Rule), test.without, text)
			}
			if (got.Reason == "") != got.Allowed {
				t.Errorf("the reason is %q", got.Reason)
			}
			if shadowOutcome(got.Shadow) != test.shadow || why(got.Shadow.Rule) != test.rule {
				t.Errorf("Shadow is %s by %q, want %s by %q, of\n%s", shadowOutcome(got.Shadow), why(got.Shadow.Rule), test.shadow, test.rule, text)
			}
		})
	}
}

func TestAFileInShadowPutsEachOfItsRulesThere(t *testing.T) {
	t.Parallel()
	text := methodText([]string{"peer: /b, why: deny"}, []string{"peer: /a, why: a", "peer: /b, why: b, shadow: false", "peer: /c, why: c, shadow: true"})
	parsed := mustParse(t, "shadow: true\n"+text)
	for peer, want := range map[string]struct{ shadow, rule string }{
		"/a": {allowed, "a"}, "/b": {denied, "deny"}, "/c": {allowed, "c"}, "/d": {"", ""},
	} {
		got := parsed.Decide(callOf(getBalance, workload(t, peer)))
		if got.Allowed || got.Undecided || got.Rule != nil || shadowOutcome(got.Shadow) != want.shadow || why(got.Shadow.Rule) != want.rule {
			t.Errorf("%s gets %+v, want denied, and in shadow %s by %q", peer, got, want.shadow, want.rule)
		}
		if !strings.Contains(got.Reason, "nobody is allowed") {
			t.Errorf("the reason for %s is %q", peer, got.Reason)
		}
	}
	for method, peer := range parsed.Allows() {
		t.Errorf("a rule in shadow lets %s call %s", peer, method)
	}
	m, _ := parsed.Method(getBalance)
	for _, r := range m.Rules {
		if !r.Shadow {
			t.Errorf("the rule %q is not in shadow", r.Why)
		}
	}
}

// Shadow is not for those whom no rule can let in.
func TestWhoIsNobodyOrRevokedIsNotInShadow(t *testing.T) {
	t.Parallel()
	parsed := mustParse(t, "revoked: [{id: /a}]\n"+methodText(nil, []string{"peer: /a, shadow: true"}))
	for _, peer := range []string{"", "/a"} {
		if got := parsed.Decide(callOf(getBalance, workload(t, peer))); got.Allowed || got.Shadow != (policy.Shadow{}) {
			t.Errorf("%q gets %+v", peer, got)
		}
	}
}
