package main

import (
	"encoding/json"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"
)

// theBanksPolicy is the bank's policy file.
func theBanksPolicy(t *testing.T) string {
	t.Helper()
	text, err := os.ReadFile(filepath.Join("..", "..", "deploy", "policy", "bank.yaml"))
	if err != nil {
		t.Fatal(err)
	}
	return string(text)
}

// diffInput writes a file and returns its path.
func diffInput(t *testing.T, name, text string) string {
	t.Helper()
	path := filepath.Join(t.TempDir(), name)
	if err := os.WriteFile(path, []byte(text), 0o600); err != nil {
		t.Fatal(err)
	}
	return path
}

func TestPolicyDiff(t *testing.T) {
	t.Parallel()
	bank := theBanksPolicy(t)
	const post, risk = "      PostTransfer:\n        allow:\n", "          - peer: /risk\n"
	if !strings.Contains(bank, post) {
		t.Fatal("has the bank's policy another form?")
	}
	old, same := diffInput(t, "old.yaml", bank), diffInput(t, "same.yaml", "# another comment\n"+bank)
	wider := diffInput(t, "wider.yaml", strings.Replace(bank, post, post+risk, 1))
	broken := diffInput(t, "broken.yaml", "trust_domain: bank.test\n")
	for name, test := range map[string]struct {
		args []string
		want string
		code int // 0 for no error
	}{
		"what changes":                            {[]string{old, wider}, "+ /risk gains PostTransfer\n", 0},
		"the other way round":                     {[]string{wider, old}, "- /risk loses PostTransfer\n", 0},
		"nothing":                                 {[]string{old, same, "--exit-code"}, "no peer gains or loses anything\n", 0},
		"an exit code, when something changes":    {[]string{old, wider, "--exit-code"}, "+ /risk gains PostTransfer\n", 1},
		"a file that is broken":                   {[]string{old, broken}, "", 1},
		"one that is broken, and an exit code":    {[]string{old, broken, "--exit-code"}, "", 2},
		"a file that is not there":                {[]string{old + ".gone", old, "--exit-code"}, "", 2},
		"descriptors that are none":               {[]string{old, wider, "--descriptors", broken}, "", 1},
		"Markdown":                                {[]string{old, wider, "--format=markdown"}, "- `/risk` gains `PostTransfer`\n", 0},
		"a format that there is not":              {[]string{old, wider, "--format=xml"}, "", codeUsage},
		"a comparison of one file with no other":  {[]string{old}, "", codeUsage},
		"JSON for programs, in English and whole": {[]string{old, wider, "--format=json"}, `"peer": "spiffe://bank.test/risk"`, 0},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			out, err := countersign(t, append([]string{"policy", "diff"}, test.args...)...)
			code := 0
			if err != nil {
				code = exitCode(err)
			}
			if code != test.code || !strings.Contains(out, test.want) {
				t.Errorf("the code is %d with the error %v, want %d, and the output\n%s\nwant in it\n%s", code, err, test.code, out, test.want)
			}
		})
	}
}

// A change of kind, state or field that the help does not name is one that programs do not know.
func TestTheHelpOfDiffNamesEachFieldOfItsJSON(t *testing.T) {
	t.Parallel()
	old := diffInput(t, "old.yaml", "trust_domain: a\nservices: {a.A: {served_by: [/x], methods: {M: {allow: [{peer: /**, when: 1 < 2}, {peer: /y}]}}}}\n")
	current := diffInput(t, "new.yaml", `{trust_domain: a, revoked: [{serial: 4f}, {authority: 9c}, {id: /r}],
		services: {a.A: {served_by: [/y], methods: {M: {allow: [{peer: /y}], deny: [{peer: /q, when: 1 < 2, shadow: true}]}}}}}`)
	out, err := countersign(t, "policy", "diff", old, current, "--format=json")
	if err != nil {
		t.Fatal(err)
	}
	help, err := countersign(t, "policy", "diff", "--help")
	if err != nil {
		t.Fatal(err)
	}
	var document struct {
		Changes []map[string]any `json:"changes"`
	}
	if err := json.Unmarshal([]byte(out), &document); err != nil {
		t.Fatal(err)
	}
	var words []string
	for _, change := range document.Changes {
		for field, value := range change {
			words = append(words, field)
			if field == "kind" {
				words = append(words, fmt.Sprint(value))
			}
			if access, ok := value.(map[string]any); ok {
				words = append(words, fmt.Sprint(access["state"]))
			}
		}
	}
	if len(words) < 20 {
		t.Errorf("the example has only the fields %v:\n%s", words, out)
	}
	for _, word := range words {
		if !strings.Contains(help, word) {
			t.Errorf("the help does not name %s", word)
		}
	}
}
