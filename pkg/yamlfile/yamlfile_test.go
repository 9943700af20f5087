package yamlfile_test

import (
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"

	"github.com/countersign-mesh/countersign/pkg/yamlfile"
	policyv1 "github.com/countersign-mesh/countersign/proto/gen/mesh/policy/v1"
)

const good = `trust_domain: bank.test
services:
  a.v1.A:
    methods:
      Get:
        allow:
          - peer: /b
          - peer: /c
`

func TestUnmarshalRemembersPositions(t *testing.T) {
	t.Parallel()
	var policy policyv1.Policy
	doc, err := yamlfile.Unmarshal("p.yaml", []byte(good), &policy)
	if err != nil {
		t.Fatal(err)
	}
	for want, path := range map[string][]any{
		"p.yaml:3:3":  {"services", "a.v1.A"},
		"p.yaml:5:7":  {"services", "a.v1.A", "methods", "Get"},
		"p.yaml:8:13": {"services", "a.v1.A", "methods", "Get", "allow", 1},
		"p.yaml:2:1":  {"services", "no.such"},
	} {
		if got := doc.At(path...).String(); got != want {
			t.Errorf("At(%v) = %s, want %s", path, got, want)
		}
	}
}

// What a parser of the text at a path calls line and column is a place in the file.
func TestWithinFindsAPlaceInAText(t *testing.T) {
	t.Parallel()
	path := []any{"services", "a.v1.A", "methods", "Get", "allow", 1, "when"}
	for name, test := range map[string]struct {
		when         string
		line, column int
		want         string
	}{
		"plain":                       {"a == b", 1, 5, "p.yaml:9:24"},
		"in single quotes":            {"'a == b'", 1, 5, "p.yaml:9:25"},
		"in double quotes":            {`"a == b"`, 1, 5, "p.yaml:9:25"},
		"in a block":                  {"|\n              a ==\n              b", 1, 5, "p.yaml:10:20"},
		"in a later line of a block":  {"|\n              a ==\n                b", 2, 2, "p.yaml:11:17"},
		"in a block after empty line": {"|-\n\n  \n              b", 3, 0, "p.yaml:12:15"},
		"in a block that is empty":    {"|\n", 1, 0, "p.yaml:10:1"},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			var policy policyv1.Policy
			doc, err := yamlfile.Unmarshal("p.yaml", []byte(good+"            when: "+test.when), &policy)
			if err != nil {
				t.Fatal(err)
			}
			if got := doc.Within(test.line, test.column, path...).String(); got != test.want {
				t.Errorf("Within = %s, want %s", got, test.want)
			}
		})
	}
	var policy policyv1.Policy
	doc, err := yamlfile.Unmarshal("p.yaml", []byte(good), &policy)
	if err != nil {
		t.Fatal(err)
	}
	if got, want := doc.Within(3, 7, path...), doc.At(path...); got != want {
		t.Errorf("where there is no text, Within = %s, want %s", got, want)
	}
}

func TestUnmarshalRefuses(t *testing.T) {
	t.Parallel()
	for name, test := range map[string]struct{ text, want string }{
		"an empty file":           {"", "p.yaml: the file is empty"},
		"a comment alone":         {"# nothing\n", "p.yaml: the file is empty"},
		"a list":                  {"- a\n", "p.yaml:1:1: the file must hold a mapping"},
		"a tab":                   {"a:\n\t- b\n", "p.yaml: yaml: line 2"},
		"a key that stands twice": {good + "trust_domain: evil.test\n", `p.yaml:9:1: the key "trust_domain" stands already in line 1`},
		"a method that stands twice": {
			strings.Replace(good, "      Get:\n", "      Get: {}\n      Get:\n", 1),
			`p.yaml:6:7: the key "Get" stands already in line 5`,
		},
		"an unknown field": {good + "allow_all: true\n", `p.yaml:9:1: unknown field "allow_all"`},
		// The decoder would take each of these for a field, and let it win over the one that a reader sees.
		"a field by its JSON name":           {good + "trustDomain: evil.test\n", `p.yaml:9:1: unknown field "trustDomain"; write trust_domain`},
		"a field by its number":              {good + "2: {}\n", `p.yaml:9:1: unknown field "2"`},
		"a field by its number, in a rule":   {strings.Replace(good, "- peer: /c", "- {peer: /c, 1: /evil}", 1), `p.yaml:8:24: unknown field "1"`},
		"a field by its number, in a method": {strings.Replace(good, "        allow:", "        1: [{peer: /evil}]\n        allow:", 1), `p.yaml:6:9: unknown field "1"`},
		"a merge key":                        {strings.Replace(good, "      Get:\n", "      Get:\n        <<: {allow: [{peer: /evil}]}\n", 1), `p.yaml:6:9: unknown field "<<"`},
		"a key that is a list":               {good + "[a]: b\n", "a key must be plain text"},
		"a second document":                  {good + "---\ntrust_domain: evil.test\n", "p.yaml:9:1: a second document starts here"},
		"a wrong type":                       {strings.Replace(good, "/b", "[1]", 1), "p.yaml:7:19 expected scalar"},
		"a broken rule":                      {strings.Replace(good, "bank.test", "BANK", 1), "p.yaml:1:15 trust_domain"},
		"an alias": {
			strings.Replace(strings.Replace(good, "- peer: /b", "- &b\n            peer: /b", 1), "- peer: /c", "- *b", 1),
			"the alias *b is not allowed",
		},
		// The decoder panics here, as the key that it wants to tell of stands in a line after the last.
		"a file cut short in a key": {"trust_domain: bank.test\nservices:\n ?", "p.yaml: something is wrong in it that has no line, such as a key at its end"},
		"a file cut short":          {strings.TrimSuffix(good, ": /c\n"), "p.yaml:8:13"},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			_, err := yamlfile.Unmarshal("p.yaml", []byte(test.text), &policyv1.Policy{})
			if err == nil {
				t.Fatal("it was accepted")
			}
			if !strings.Contains(err.Error(), test.want) {
				t.Errorf("the error is\n%v\nand does not contain\n%s", err, test.want)
			}
		})
	}
}

func TestUnmarshalReturnsTheDocumentOfWhatBreaksRulesAlone(t *testing.T) {
	t.Parallel()
	var policy policyv1.Policy
	doc, err := yamlfile.Unmarshal("p.yaml", []byte(strings.Replace(good, "bank.test", "BANK", 1)), &policy)
	if err == nil || doc == nil || policy.GetTrustDomain() != "BANK" || len(policy.GetServices()) != 1 {
		t.Errorf("a broken rule: %v, %v, %v", doc, err, &policy)
	}
	for name, text := range map[string]string{
		"a wrong type":     strings.Replace(good, "/b", "[1]", 1),
		"an unknown field": good + "x: 1\n",
		"no text":          "",
	} {
		if doc, err := yamlfile.Unmarshal("p.yaml", []byte(text), &policyv1.Policy{}); err == nil || doc != nil {
			t.Errorf("%s: %v, %v", name, doc, err)
		}
	}
}

func TestUnmarshalReportsEachMistakeByItself(t *testing.T) {
	t.Parallel()
	_, err := yamlfile.Unmarshal("p.yaml", []byte(strings.Replace(strings.Replace(good, "bank.test", "BANK", 1), "/c", "cc", 1)), &policyv1.Policy{})
	joined, ok := err.(interface{ Unwrap() []error })
	if !ok || len(joined.Unwrap()) != 2 {
		t.Fatalf("there are not two errors in %v", err)
	}
	for i, want := range []string{"p.yaml:1:15 trust_domain: ", "p.yaml:8:19 "} {
		if got := joined.Unwrap()[i].Error(); !strings.HasPrefix(got, want) || strings.HasSuffix(got, "\n") {
			t.Errorf("error %d is %q, want it to begin with %q", i, got, want)
		}
	}
}

const free = `cases:
  - peer: /b
    method: a.v1.A/Get
    want: allowed
    request: {amount: {units: 9007199254740993, currency: EUR}, tags: [a, {b: true}], empty: {}, none: null}
`

func TestUnmarshalTakesAnyKeyWhereTheSchemaHasNone(t *testing.T) {
	t.Parallel()
	var table policyv1.Table
	doc, err := yamlfile.Unmarshal("t.yaml", []byte(free), &table)
	if err != nil {
		t.Fatal(err)
	}
	want := map[string]any{
		"amount": map[string]any{"units": "9007199254740993", "currency": "EUR"}, // as text: no float64 holds it
		"tags":   []any{"a", map[string]any{"b": true}},
		"empty":  map[string]any{},
		"none":   nil,
	}
	if diff := cmp.Diff(want, table.GetCases()[0].GetRequest().AsMap()); diff != "" {
		t.Errorf("the request differs (-want +got):\n%s", diff)
	}
	if got := doc.At("cases", 0, "request", "tags", 1).String(); got != "t.yaml:5:75" {
		t.Errorf("the last tag is at %s", got)
	}
}

func TestUnmarshalRefusesInWhatHasAnyKey(t *testing.T) {
	t.Parallel()
	for name, test := range map[string]struct{ old, new, want string }{
		"a key that stands twice":           {"currency: EUR", "units: 1", `t.yaml:5:49: the key "units" stands already in line 5`},
		"a key that stands twice in a list": {"{b: true}", "{b: true, b: false}", `t.yaml:5:85: the key "b" stands already in line 5`},
		"a key that stands twice, quoted":   {"currency: EUR", `"units": 1`, `the key "units" stands already`},
		"an alias":                          {"amount: {units: 9007199254740993, currency: EUR}, tags: [a,", "amount: &x {units: 1}, tags: [*x,", "the alias *x is not allowed"},
		"an alias below a key":              {"empty: {}", "other: &y 1, empty: {z: *y}", "the alias *y is not allowed"},
		"a merge key":                       {"empty: {}", "empty: {<<: {units: 1}}", "the merge key << is not allowed"},
		"a key that is a list":              {"empty: {}", "empty: {[a]: b}", "a key must be plain text"},
		"an unknown field beside it":        {"want: allowed", "want: allowed\n    wanted: denied", `t.yaml:5:5: unknown field "wanted"`},
		"no mapping where one must be":      {"{amount: {units: 9007199254740993, currency: EUR}, tags: [a, {b: true}], empty: {}, none: null}", "yes", "t.yaml:5:14"},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			text := strings.Replace(free, test.old, test.new, 1)
			if text == free {
				t.Fatal("the test changes nothing")
			}
			_, err := yamlfile.Unmarshal("t.yaml", []byte(text), &policyv1.Table{})
			if err == nil {
				t.Fatal("it was accepted")
			}
			if !strings.Contains(err.Error(), test.want) {
				t.Errorf("the error is\n%v\nand does not contain\n%s", err, test.want)
			}
		})
	}
}

func FuzzUnmarshal(f *testing.F) {
	f.Add([]byte(good))
	f.Add([]byte("trust_domain: a\nservices: {A: {methods: {B: {}}}}\n"))
	f.Fuzz(func(t *testing.T, data []byte) {
		var policy policyv1.Policy
		doc, err := yamlfile.Unmarshal("p.yaml", data, &policy)
		if err != nil {
			return
		}
		if policy.GetTrustDomain() == "" || len(policy.GetServices()) == 0 {
			t.Errorf("accepted a policy without its required fields: %v", &policy)
		}
		_ = doc.At("services", 0, "methods")
	})
}
