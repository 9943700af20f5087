package policyview

import (
	"bytes"
	"encoding/json"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"

	"github.com/countersign-mesh/countersign/cmd/countersign/internal/console"
	"github.com/countersign-mesh/countersign/pkg/policy"
)

// sentences are changes in words, with the ledger's methods by their last names.
func sentences(changes []Change) []string {
	var all []string
	for _, c := range changes {
		all = append(all, c.sentence(c.method(), func(text string) string { return strings.ReplaceAll(text, ledger, "Ledger") }))
	}
	return all
}

func TestDiffOfOneMethod(t *testing.T) {
	t.Parallel()
	for name, test := range map[string]struct {
		old, current string
		want         []string
	}{
		"the same rules": {
			"{allow: [{peer: /a}, {peer: /b}]}", "{allow: [{peer: /a}, {peer: /b}]}", nil,
		},
		"another order, other reasons, another spelling": {
			"{allow: [{peer: /a, why: x}, {peer: /b}]}", "{allow: [{peer: spiffe://bank.test/b}, {peer: /a, why: y}]}", nil,
		},
		"a rule that a pattern makes redundant": {
			"{allow: [{peer: /a/x}, {peer: /a/**}]}", "{allow: [{peer: /a/**}]}", nil,
		},
		"a condition beside a rule without one": {
			"{allow: [{peer: /a}, {peer: /a, when: 'request.account_id == \"x\"'}]}", "{allow: [{peer: /a}]}", nil,
		},
		"a condition written otherwise": {
			"{allow: [{peer: /a, when: 'request.account_id == \"x\"'}]}", "{allow: [{peer: /a, when: '( request.account_id==\"x\" ) // x'}]}", nil,
		},
		"an allowance of whom a rule denies": {
			"{deny: [{peer: /a}]}", "{deny: [{peer: /a}], allow: [{peer: /a}]}", nil,
		},
		"a peer gains": {
			"{allow: [{peer: /a}]}", "{allow: [{peer: /a}, {peer: /b}]}", []string{"/b gains GetBalance"},
		},
		"a peer of another trust domain loses": {
			"{allow: [{peer: spiffe://partner.test/x}]}", "{allow: []}", []string{"spiffe://partner.test/x loses GetBalance"},
		},
		"a peer gains under a condition": {
			"{allow: []}", "{allow: [{peer: /a, when: 'request.account_id == \"x\"'}]}",
			[]string{`/a gains GetBalance: allowed when request.account_id == "x"`},
		},
		"a pattern gains, and whom it means besides": {
			"{allow: [{peer: /a/x}]}", "{allow: [{peer: /a/x}, {peer: /a/**}, {peer: /a/y}]}",
			[]string{"/a/** gains GetBalance (not /a/x; among them /a/y)"},
		},
		"a rule is widened": {
			"{allow: [{peer: /a/x}]}", "{allow: [{peer: /a/**}]}", []string{"/a/** gains GetBalance (not /a/x)"},
		},
		"a rule is narrowed": {
			"{allow: [{peer: /**}]}", "{allow: [{peer: /a/**}]}", []string{"/** loses GetBalance (not /a/**)"},
		},
		"two patterns are narrowed, one within the other": {
			"{allow: [{peer: /**}]}", "{allow: [{peer: /a/b/c}, {peer: /a/d}], deny: [{peer: /a/b/**}]}",
			[]string{
				"/** loses GetBalance (not /a/d, /a/b/**)",
				"/a/b/** loses GetBalance: a rule denies it (among them /a/b/c)",
			},
		},
		"a denial takes from some what a pattern gives": {
			"{allow: [{peer: /**}]}", "{allow: [{peer: /**}], deny: [{peer: /a}]}", []string{"/a loses GetBalance: a rule denies it"},
		},
		"a denial of whom nothing allows": {
			"{allow: []}", "{deny: [{peer: /a}]}", []string{"/a: deny added for GetBalance: not allowed → denied"},
		},
		"that denial goes": {
			"{deny: [{peer: /a}]}", "{allow: []}", []string{"/a: deny removed for GetBalance: denied → not allowed"},
		},
		"a denial under a condition": {
			"{allow: [{peer: /a}]}", "{allow: [{peer: /a}], deny: [{peer: /a, when: 'request.account_id == \"x\"'}]}",
			[]string{`/a: deny added for GetBalance: allowed → allowed, but denied when request.account_id == "x"`},
		},
		"the condition of a denial goes": {
			"{allow: [{peer: /a}], deny: [{peer: /a, when: 'request.account_id == \"x\"'}]}", "{allow: [{peer: /a}], deny: [{peer: /a}]}",
			[]string{"/a loses GetBalance: a rule denies it"},
		},
		"a condition is added": {
			"{allow: [{peer: /a}]}", "{allow: [{peer: /a, when: 'request.account_id == \"x\"'}]}",
			[]string{`/a: condition added for GetBalance: allowed → allowed when request.account_id == "x"`},
		},
		"a condition is removed": {
			"{allow: [{peer: /a, when: 'request.account_id == \"x\"'}]}", "{allow: [{peer: /a}]}",
			[]string{`/a: condition removed for GetBalance: allowed when request.account_id == "x" → allowed`},
		},
		"a condition is another one": {
			"{allow: [{peer: /a, when: 'request.account_id == \"x\"'}]}", "{allow: [{peer: /a, when: 'request.account_id == \"y\"'}]}",
			[]string{`/a: condition changed for GetBalance: allowed when request.account_id == "x" → allowed when request.account_id == "y"`},
		},
		"a condition on several lines": {
			"{allow: []}", `{allow: [{peer: /a, when: "1 <\n  2"}, {peer: /b, when: "true // not\n  && false"}]}`,
			[]string{"/a gains GetBalance: allowed when 1 < 2", "/b gains GetBalance: allowed when true // not ⏎ && false"},
		},
		"a text in a condition has other spaces": {
			"{allow: [{peer: /a, when: 'request.account_id == \"x y\"'}]}", "{allow: [{peer: /a, when: 'request.account_id == \"x  y\"'}]}",
			[]string{`/a: condition changed for GetBalance: allowed when request.account_id == "x y" → allowed when request.account_id == "x  y"`},
		},
		"an allowance in shadow": {
			"{allow: []}", "{allow: [{peer: /a, shadow: true}]}", []string{"/a: shadow changed for GetBalance: not allowed → allowed"},
		},
		"a denial in shadow": {
			"{allow: [{peer: /**}]}", "{allow: [{peer: /**}], deny: [{peer: /a, shadow: true}]}",
			[]string{"/a: shadow changed for GetBalance: allowed → denied"},
		},
		"one in shadow that would change nothing": {
			"{allow: [{peer: /**}]}", "{allow: [{peer: /**}, {peer: /a, shadow: true}]}", nil,
		},
		"what was in shadow is enforced": {
			"{allow: [{peer: /a}], deny: [{peer: /a, shadow: true}]}", "{allow: [{peer: /a}], deny: [{peer: /a}]}",
			[]string{"/a loses GetBalance: a rule denies it (what was in shadow is enforced)"},
		},
		"what was enforced is in shadow": {
			"{allow: [{peer: /a}]}", "{allow: [{peer: /a, shadow: true}]}", []string{"/a loses GetBalance (what was enforced is in shadow)"},
		},
		"what was in shadow is enforced, and something else is in shadow": {
			"{allow: [{peer: /a, shadow: true}]}", "{allow: [{peer: /a}], deny: [{peer: /a, shadow: true}]}",
			[]string{"/a gains GetBalance (what was in shadow is enforced)", "/a: shadow changed for GetBalance: allowed → denied"},
		},
		"what was in shadow for one is enforced for many": {
			"{allow: [{peer: /**}], deny: [{peer: /a/x, shadow: true}]}", "{allow: [{peer: /**}], deny: [{peer: /a/**}]}",
			[]string{
				"/a/x loses GetBalance: a rule denies it (what was in shadow is enforced)",
				"/a/** loses GetBalance: a rule denies it (not /a/x)",
			},
		},
		"two who come to the same from elsewhere": {
			"{allow: [{peer: /a/**, when: 1 < 2}, {peer: /a/x, when: 2 < 3}]}", "{allow: [{peer: /a/**}]}",
			[]string{
				"/a/x: condition removed for GetBalance: allowed when 1 < 2 or 2 < 3 → allowed",
				"/a/**: condition removed for GetBalance: allowed when 1 < 2 → allowed (not /a/x)",
			},
		},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			old, current := ledgerPolicy(t, "GetBalance: "+test.old), ledgerPolicy(t, "GetBalance: "+test.current)
			if diff := cmp.Diff(test.want, sentences(Diff(old, current))); diff != "" {
				t.Errorf("the changes differ (-want +got):\n%s", diff)
			}
			if changes := Diff(current, current); len(changes) > 0 {
				t.Errorf("a policy differs from itself: %v", changes)
			}
		})
	}
}

func TestDiffOfPolicies(t *testing.T) {
	t.Parallel()
	const base = "GetBalance: {allow: [{peer: /a}, {peer: /b}]}"
	for name, test := range map[string]struct {
		old, current string
		want         []string
	}{
		"a workload is revoked": {
			ledgerText(base), ledgerText(base) + "revoked: [{id: /a}]\n", []string{"/a is revoked: refused everywhere", "/a loses GetBalance: it is revoked"},
		},
		"one that no rule names is": {
			ledgerText(base), ledgerText(base) + "revoked: [{id: /c}]\n", []string{"/c is revoked: refused everywhere"},
		},
		"one that a pattern means is": {
			ledgerText("GetBalance: {allow: [{peer: /**}]}"), ledgerText("GetBalance: {allow: [{peer: /**}]}") + "revoked: [{id: /c}]\n",
			[]string{"/c is revoked: refused everywhere", "/c loses GetBalance: it is revoked"},
		},
		"one for whom rules are in shadow is": {
			ledgerText("GetBalance: {allow: [{peer: /a, shadow: true}]}"), ledgerText("GetBalance: {allow: [{peer: /a, shadow: true}]}") + "revoked: [{id: /a}]\n",
			[]string{"/a is revoked: refused everywhere"},
		},
		"a workload is revoked no more, and gains what it was given meanwhile": {
			ledgerText("GetBalance: {allow: []}") + "revoked: [{id: /a}]\n", ledgerText("GetBalance: {allow: [{peer: /a}]}"),
			[]string{"/a is revoked no more", "/a gains GetBalance"},
		},
		"a rule for whom is revoked": {
			ledgerText("GetBalance: {allow: []}") + "revoked: [{id: /a}]\n", ledgerText("GetBalance: {allow: [{peer: /a}]}") + "revoked: [{id: /a}]\n", nil,
		},
		"a pattern that means whom is revoked": {
			ledgerText("GetBalance: {allow: []}") + "revoked: [{id: /a}]\n", ledgerText("GetBalance: {allow: [{peer: /**}]}") + "revoked: [{id: /a}]\n",
			[]string{"/** gains GetBalance (not /a)"},
		},
		"an SVID and an authority are revoked": {
			ledgerText(base), ledgerText(base) + "revoked: [{serial: 4F}, {authority: 9c1d}]\n",
			[]string{"the SVID with the serial number 4f is revoked: refused everywhere", "the authority 9c1d is revoked: refused everywhere"},
		},
		"revocations in another order and spelling": {
			ledgerText(base) + "revoked: [{serial: 4F}, {id: /c}]\n", ledgerText(base) + "revoked: [{id: 'spiffe://bank.test/c', why: x}, {serial: 4f}]\n", nil,
		},
		"another one serves": {
			ledgerText(base), strings.Replace(ledgerText(base), "[/ledger]", "[/books]", 1),
			[]string{"/books serves Ledger: clients may dial it for that", "/ledger serves Ledger no more: no client dials it for that"},
		},
		"a server that a pattern means already": {
			strings.Replace(ledgerText(base), "[/ledger]", "[/ledger/**]", 1), strings.Replace(ledgerText(base), "[/ledger]", "[/ledger/**, /ledger/x]", 1), nil,
		},
		"a method is new, and nobody may call it": {
			ledgerText(base), ledgerText(base, "ListEntries: {}"), []string{"ListEntries has rules now"},
		},
		"a method goes": {
			ledgerText(base, "ListEntries: {allow: [{peer: /a}]}"), ledgerText(base), []string{"ListEntries has no rules any more", "/a loses ListEntries"},
		},
		"a service is new": {
			ledgerText(base), ledgerText(base) + "  a.v1.A: {served_by: [/a], methods: {M: {allow: [{peer: /b}]}}}\n",
			[]string{"a.v1.A has rules now", "/a serves a.v1.A: clients may dial it for that", "M has rules now", "/b gains M"},
		},
		"another trust domain is the own one": {
			ledgerText("GetBalance: {allow: [{peer: /a}]}"), strings.Replace(ledgerText("GetBalance: {allow: [{peer: /a}]}"), "bank.test", "shop.test", 1),
			[]string{
				"/ledger serves Ledger: clients may dial it for that", "spiffe://bank.test/ledger serves Ledger no more: no client dials it for that",
				"/a gains GetBalance", "spiffe://bank.test/a loses GetBalance",
			},
		},
		"a comment": {ledgerText(base), "# why\n" + ledgerText(base), nil},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			if diff := cmp.Diff(test.want, sentences(Diff(mustParse(t, test.old), mustParse(t, test.current)))); diff != "" {
				t.Errorf("the changes differ (-want +got):\n%s", diff)
			}
		})
	}
}

func TestDiffWithoutAPolicy(t *testing.T) {
	t.Parallel()
	p := ledgerPolicy(t, "GetBalance: {allow: [{peer: /a}]}")
	for name, test := range map[string]struct {
		old, current *policy.Policy
		want         string
	}{
		"the first policy gives what it allows": {nil, p, "/a gains " + ledger + "/GetBalance"},
		"no policy takes it all away":           {p, nil, "/a loses " + ledger + "/GetBalance"},
	} {
		changes := Diff(test.old, test.current)
		if len(changes) == 0 || changes[len(changes)-1].String() != test.want {
			t.Errorf("%s: %v, want %q at the end", name, changes, test.want)
		}
	}
}

// apply and scripts read this. A field that is renamed breaks them.
func TestChangesInJSON(t *testing.T) {
	t.Parallel()
	old := mustParse(t, ledgerText("GetBalance: {allow: [{peer: /a/x}]}", "ListEntries: {deny: [{peer: /a, shadow: true}], allow: [{peer: /a}]}"))
	current := mustParse(t, ledgerText(
		"GetBalance: {allow: [{peer: /a/x}, {peer: /a/**, when: '1 < 2'}, {peer: /a/y, when: 1 < 2}]}", "ListEntries: {deny: [{peer: /a}]}",
	)+"revoked: [{serial: 4f}, {authority: 9c1d}]\n")
	var got bytes.Buffer
	if err := WriteChangesJSON(&got, Diff(old, current)); err != nil {
		t.Fatal(err)
	}
	const want = `{"changes": [
		{"kind": "revoked", "serial": "4f"},
		{"kind": "revoked", "authority": "9c1d"},
		{
			"kind": "gains", "peer": "spiffe://bank.test/a/**", "except": ["spiffe://bank.test/a/x"], "among": ["spiffe://bank.test/a/y"],
			"service": "bank.ledger.v1.LedgerService", "method": "bank.ledger.v1.LedgerService/GetBalance",
			"before": {"state": "not_allowed"}, "after": {"state": "conditional", "when": ["1 < 2"]}
		},
		{
			"kind": "loses", "peer": "spiffe://bank.test/a",
			"service": "bank.ledger.v1.LedgerService", "method": "bank.ledger.v1.LedgerService/ListEntries",
			"before": {"state": "allowed"}, "after": {"state": "denied"}, "from_shadow": true
		}
	]}`
	var gotValue, wantValue any
	if err := json.Unmarshal([]byte(want), &wantValue); err != nil {
		t.Fatal(err)
	}
	if err := json.Unmarshal(got.Bytes(), &gotValue); err != nil {
		t.Fatal(err)
	}
	if diff := cmp.Diff(wantValue, gotValue); diff != "" {
		t.Errorf("the JSON differs (-want +got):\n%s\n%s", diff, &got)
	}
	var none bytes.Buffer
	if err := WriteChangesJSON(&none, nil); err != nil || none.String() != "{\n  \"changes\": []\n}\n" {
		t.Errorf("no changes are %q, error %v", none.String(), err)
	}
}

func TestChangesForPeople(t *testing.T) {
	t.Parallel()
	old := ledgerPolicy(t, "GetBalance: {allow: [{peer: /a}]}")
	current := mustParse(t, ledgerText("GetBalance: {allow: [{peer: /b, when: 'request.account_id == \"`\"'}]}")+"revoked: [{id: /c}]\n")
	var text bytes.Buffer
	WriteChanges(console.New(&text, nil), Diff(old, current))
	const wantText = "everywhere\n  - /c is revoked: refused everywhere\n\n" + ledger + "\n  - /a loses GetBalance\n" +
		"  + /b gains GetBalance: allowed when request.account_id == \"`\"\n"
	if diff := cmp.Diff(wantText, text.String()); diff != "" {
		t.Errorf("the text differs (-want +got):\n%s", diff)
	}
	const wantMarkdown = "### everywhere\n\n- `/c` is revoked: refused everywhere\n\n### " + ledger + "\n\n- `/a` loses `GetBalance`\n" +
		"- `/b` gains `GetBalance`: allowed when ``request.account_id == \"`\"``\n"
	if diff := cmp.Diff(wantMarkdown, ChangesMarkdown(Diff(old, current))); diff != "" {
		t.Errorf("the Markdown differs (-want +got):\n%s", diff)
	}
	text.Reset()
	WriteChanges(console.New(&text, nil), nil)
	if text.String() != "no peer gains or loses anything\n" || ChangesMarkdown(nil) != "No peer gains or loses anything.\n" {
		t.Errorf("no changes are %q and %q", text.String(), ChangesMarkdown(nil))
	}
}
