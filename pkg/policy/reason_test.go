package policy_test

import (
	"fmt"
	"strings"
	"testing"
)

func TestADenialSaysWhatCameNearest(t *testing.T) {
	t.Parallel()
	many := func(n int) []string {
		var rules []string
		for i := range n {
			rules = append(rules, fmt.Sprintf("peer: /w%d", i))
		}
		return rules
	}
	const (
		broken = `when: "1 / 0 == 1"`
		eight  = "/w0, /w1, /w2, /w3, /w4, /w5, /w6, /w7"
	)
	for name, test := range map[string]struct {
		deny, allow []string
		peer        string
		reason      string
	}{
		"nobody is allowed":            {nil, nil, "/a", "p.yaml:5: nobody is allowed to call it"},
		"nobody but whom is denied":    {[]string{"peer: /b"}, nil, "/a", "p.yaml:5: nobody is allowed to call it"},
		"another peer is allowed":      {nil, []string{"peer: /b"}, "/a", "p.yaml:5: allowed for /b; the caller is /a"},
		"several others are":           {nil, []string{"peer: /b", "peer: /c/**"}, "/a", "p.yaml:5: allowed for /b, /c/**; the caller is /a"},
		"as many others as are named":  {nil, many(8), "/a", "p.yaml:5: allowed for " + eight + "; the caller is /a"},
		"one more":                     {nil, many(9), "/a", "p.yaml:5: allowed for " + eight + " and 1 more; the caller is /a"},
		"many more":                    {nil, many(1000), "/a", "p.yaml:5: allowed for " + eight + " and 992 more; the caller is /a"},
		"the caller is a stranger":     {nil, []string{"peer: /b"}, "spiffe://partner.test/b", "p.yaml:5: allowed for /b; the caller is spiffe://partner.test/b"},
		"a domain that starts alike":   {nil, []string{"peer: /b"}, "spiffe://bank.test.evil/b", "p.yaml:5: allowed for /b; the caller is spiffe://bank.test.evil/b"},
		"what is in shadow is nothing": {nil, []string{"peer: /b, shadow: true"}, "/a", "p.yaml:5: nobody is allowed to call it"},
		"nor is it for its own peer":   {nil, []string{"peer: /a, shadow: true", "peer: /b"}, "/a", "p.yaml:5: allowed for /b; the caller is /a"},

		"a rule denies":                {[]string{"peer: /a"}, nil, "/a", "p.yaml:7: denied for /a; the caller is /a"},
		"a rule that says why denies":  {[]string{"peer: /a/**, why: it leaks"}, nil, "/a/b", "p.yaml:7: denied for /a/**; the caller is /a/b: it leaks"},
		"the second rule denies":       {[]string{"peer: /b", `peer: "spiffe://bank.test/a"`}, nil, "/a", "p.yaml:8: denied for spiffe://bank.test/a; the caller is /a"},
		"a condition does not hold":    {nil, []string{"peer: /a, when: 'false'"}, "/a", "p.yaml:7: allowed for /a when false, which this call is not"},
		"the most specific of several": {nil, []string{"peer: /**, when: 'false'", "peer: /a, when: 'false'"}, "/a", "p.yaml:8: allowed for /a when false, which this call is not"},
		"a condition after one that would deny": {
			[]string{"peer: /a, when: 'false'"},
			[]string{"peer: /a, when: '!true'"},
			"/a", "p.yaml:9: allowed for /a when !true, which this call is not",
		},
		"a condition that would deny is no miss": {
			[]string{"peer: /a, when: 'false'"},
			[]string{"peer: /b"},
			"/a", "p.yaml:5: allowed for /b; the caller is /a",
		},
		"a condition that would deny, over the request, is no miss": {
			[]string{"peer: /a, when: request.account_id == 'x'"},
			[]string{"peer: /b"},
			"/a", "p.yaml:5: allowed for /b; the caller is /a",
		},
		"a condition cannot be evaluated": {
			nil,
			[]string{"peer: /a, " + broken},
			"/a", "p.yaml:7: the condition could not be evaluated: division by zero",
		},
		"the first that cannot be evaluated": {
			nil,
			[]string{"peer: /a/**, " + broken, `peer: /a/b, when: "{'x': 1}['y'] == 1"`},
			"/a/b", "p.yaml:8: the condition could not be evaluated: no such key: y",
		},
		"one that cannot be evaluated goes before one that does not hold": {
			nil,
			[]string{"peer: /a, when: 'false'", "peer: /a, " + broken},
			"/a", "p.yaml:8: the condition could not be evaluated: division by zero",
		},
		"a condition to deny that cannot be evaluated": {
			[]string{"peer: /a, why: because, " + broken},
			[]string{"peer: /a"},
			"/a", "p.yaml:7: denied for /a; the caller is /a: because (the condition could not be evaluated: division by zero)",
		},
		"a rule that denies after one that cannot be evaluated is not asked": {
			[]string{"peer: /a, " + broken, "peer: /a"},
			nil, "/a", "p.yaml:7: denied for /a; the caller is /a (the condition could not be evaluated: division by zero)",
		},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			got := mustParse(t, methodText(test.deny, test.allow)).Decide(callOf(getBalance, workload(t, test.peer)))
			if outcome(got) != denied || got.Reason != test.reason {
				t.Errorf("%s: %q, want denied: %q", outcome(got), got.Reason, test.reason)
			}
		})
	}
}

// A method's name comes from the caller: what is said of it has an end.
func TestTheReasonForAnUnknownMethodIsShort(t *testing.T) {
	t.Parallel()
	call := callOf("/"+strings.Repeat("x", 1<<16)+"/\n", workload(t, "/a"))
	if got, want := mustParse(t, policyText).Decide(call).Reason, `p.yaml has no rules for "/`+strings.Repeat("x", 199)+`"`; got != want {
		t.Errorf("the reason is %q, want %q", got, want)
	}
}
