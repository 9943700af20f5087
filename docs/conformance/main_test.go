package main

import (
	"bytes"
	"encoding/json"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
)

const requirements = `
standards:
  - name: X509-SVID
    url: https://spiffe.test/X509-SVID.md
    requirements:
      - {section: "2", key: one-uri, text: "It MUST contain one URI | exactly.", note: "Counted as signed."}
      - {section: "5.1", key: path, text: "It MUST be valid."}
      - {section: "6.1", key: kid, text: "The kid MUST NOT be set.", elsewhere: "Falls on publishers."}
  - name: House
    requirements:
      - {key: lifetime, text: "It does not live long."}
`

// results are those of tests that hold all of the requirements.
func results() []event {
	of := func(pkg, name, result string, holds ...string) []event {
		all := []event{{Action: "run", Package: pkg, Test: name}}
		for _, h := range holds {
			all = append(all, event{Action: "attr", Package: pkg, Test: name, Key: "spiffe.requirement", Value: h})
		}
		return append(all, event{Action: "output", Package: pkg, Test: name, Output: "what it said\n"}, event{Action: result, Package: pkg, Test: name})
	}
	var all []event
	for _, some := range [][]event{
		{{Action: "start", Package: "m/pkg/b"}},
		of("m/pkg/b", "TestPath", "pass", "X509-SVID §5.1 path", "House lifetime"),
		of("m/pkg/b", "TestOther", "fail"),
		of("m/pkg/a", "TestRefuses/X509-SVID_§2:_two_URIs_(ATTACKS_2)", "pass", "X509-SVID §2 one-uri"),
		of("m/pkg/a", "TestRefuses/X509-SVID_§2:_no_URI", "pass", "X509-SVID §2 one-uri", "X509-SVID §2 one-uri"),
		of("m/pkg/a", "TestRefuses", "pass"),
		{{Action: "fail", Package: "m/pkg/b"}},
	} {
		all = append(all, some...)
	}
	return all
}

func generate(t *testing.T, requirements string, events []event) (string, error) {
	t.Helper()
	path := filepath.Join(t.TempDir(), "requirements.yaml")
	if err := os.WriteFile(path, []byte(requirements), 0o600); err != nil {
		t.Fatal(err)
	}
	var in, out bytes.Buffer
	encoder := json.NewEncoder(&in)
	for _, e := range events {
		if err := encoder.Encode(e); err != nil {
			t.Fatal(err)
		}
	}
	err := run([]string{path}, &in, &out)
	if err != nil && out.Len() != 0 {
		t.Errorf("a document was written in spite of %v", err)
	}
	return out.String(), err
}

func TestDocument(t *testing.T) {
	t.Parallel()
	got, err := generate(t, requirements, results())
	if err != nil {
		t.Fatal(err)
	}
	want := preface + `3 requirements, held by 3 tests. 1 more fall on others, or on nothing that there is here.

## [X509-SVID](https://spiffe.test/X509-SVID.md)

| section | requirement | tests | result |
| --- | --- | --- | --- |
| §2 | It MUST contain one URI \| exactly. *Counted as signed.* | ` + "`a.TestRefuses`" + `: no URI; two URIs | all 2 passed |
| §5.1 | It MUST be valid. | ` + "`b.TestPath`" + ` | passed |

Without a test:

| section | requirement | why |
| --- | --- | --- |
| §6.1 | The kid MUST NOT be set. | Falls on publishers. |

## House

| section | requirement | tests | result |
| --- | --- | --- | --- |
| – | It does not live long. | ` + "`b.TestPath`" + ` | passed |
`
	if diff := cmp.Diff(want, got); diff != "" {
		t.Errorf("document (-want +got):\n%s", diff)
	}
}

// Tests run in parallel, so that their results come in another order each time.
func TestDocumentDoesNotDependOnTheOrderOfResults(t *testing.T) {
	t.Parallel()
	first, err := generate(t, requirements, results())
	if err != nil {
		t.Fatal(err)
	}
	backwards := results()
	for i, j := 0, len(backwards)-1; i < j; i, j = i+1, j-1 {
		backwards[i], backwards[j] = backwards[j], backwards[i]
	}
	second, err := generate(t, requirements, backwards)
	if err != nil {
		t.Fatal(err)
	}
	if diff := cmp.Diff(first, second); diff != "" {
		t.Errorf("another order gives another document:\n%s", diff)
	}
}

func TestNoDocument(t *testing.T) {
	t.Parallel()
	without := func(drop func(event) bool) []event {
		var kept []event
		for _, e := range results() {
			if !drop(e) {
				kept = append(kept, e)
			}
		}
		return kept
	}
	of := func(test, action string) func(event) bool {
		return func(e event) bool { return e.Test == test && e.Action == action }
	}
	ending := func(result string) []event {
		return append(without(of("TestPath", "pass")), event{Action: result, Package: "m/pkg/b", Test: "TestPath"})
	}
	also := func(holds string) []event {
		return append(results(), event{Action: "attr", Package: "m/pkg/b", Test: "TestPath", Key: "spiffe.requirement", Value: holds})
	}
	for _, c := range []struct {
		name         string
		requirements string
		events       []event
		want         string
	}{
		{"a requirement without a test", requirements, without(of("TestPath", "attr")), `"X509-SVID §5.1 path" has no test`},
		{"a test that failed", requirements, ending("fail"), "TestPath did not pass: fail\nwhat it said"},
		{"a test that was skipped", requirements, ending("skip"), "TestPath did not pass: skip"},
		{"a test that never ended", requirements, without(of("TestPath", "pass")), "TestPath did not pass: it has no result"},
		{"a package that does not build", requirements, []event{{Action: "build-output", Output: "undefined: x\n"}, {Action: "build-fail"}}, "do not build:\nundefined: x"},
		{"no results at all", requirements, nil, `"House lifetime" has no test`},
		{"a test of what is no requirement", requirements, also("X509-SVID §9 other"), `TestPath is a test of "X509-SVID §9 other", which is no requirement`},
		{"a test of what falls on others", requirements, also("X509-SVID §6.1 kid"), `"X509-SVID §6.1 kid" is said to fall on others, and TestPath is a test of it`},
		{"a requirement that stands twice", requirements + `      - {key: lifetime, text: "Again."}` + "\n", results(), `"House lifetime" stands twice`},
		{"a requirement without a text", requirements + `      - {key: other}` + "\n", results(), "lacks a name, a key or a text"},
		{"an unknown field", requirements + `      - {key: other, txt: "x"}` + "\n", results(), "txt"},
		{"no requirements", "standards: []", results(), "there are no requirements"},
	} {
		t.Run(c.name, func(t *testing.T) {
			t.Parallel()
			if _, err := generate(t, c.requirements, c.events); err == nil || !strings.Contains(err.Error(), c.want) {
				t.Errorf("error %v lacks %q", err, c.want)
			}
		})
	}
	if err := run(nil, nil, nil); err == nil {
		t.Error("no argument is taken for one")
	}
}
