package main

import (
	"os"
	"path/filepath"
	"strings"
	"testing"
)

// bankPolicyWith is the bank's policy in a file of its own, after a change.
func bankPolicyWith(t *testing.T, change func(string) string) (path string) {
	t.Helper()
	text, err := os.ReadFile(filepath.Join("..", "..", "deploy", "policy", "bank.yaml"))
	if err != nil {
		t.Fatal(err)
	}
	path = filepath.Join(t.TempDir(), "bank.yaml")
	if err := os.WriteFile(path, []byte(change(string(text))), 0o600); err != nil {
		t.Fatal(err)
	}
	return path
}

func TestPolicyInstallLeavesAPolicyThatIsThereAlone(t *testing.T) {
	t.Parallel()
	same := bankPolicyWith(t, func(text string) string { return text })
	revoking := bankPolicyWith(t, func(text string) string { return text + "revoked:\n  - id: /risk\n    why: test\n" })
	broken := bankPolicyWith(t, func(text string) string { return strings.Replace(text, "peer: /gateway", "peer: gateway", 1) })
	uncovered := bankPolicyWith(t, func(text string) string { return strings.Replace(text, "      CloseAccount:", "      CloseAcount:", 1) })
	for name, test := range map[string]struct {
		there, from string
		want        string
		fails       bool
	}{
		"where there is none":                  {"", same, "has the policy of " + same + " now, version ", false},
		"where it is already":                  {same, same, "has this policy already, version ", false},
		"where revocations are":                {revoking, same, "to see what, and put it in force: countersign policy apply " + same, false},
		"one that is not good":                 {"", broken, "nothing was installed: " + broken + " is not good:", true},
		"one that does not fit":                {"", uncovered, "CloseAcount", true},
		"one that is not good, beside another": {same, broken, "says something else, and is not good:", false},
		"beside one that is not good":          {broken, same, "policy apply --offline " + same, false},
		"beside one of before an upgrade":      {uncovered, same, "IS NOT GOOD", false},
		"and neither is good":                  {uncovered, broken, "is not good either, so mend that first:", false},
		"and both are the same":                {broken, broken, "IS NOT GOOD", false},
		"one that is not":                      {"", "nowhere.yaml", "read the policy: open nowhere.yaml", true},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			to := filepath.Join(t.TempDir(), "policy.yaml")
			before := ""
			if test.there != "" {
				before = readFile(t, test.there)
				if err := os.WriteFile(to, []byte(before), 0o600); err != nil {
					t.Fatal(err)
				}
			}
			out, err := countersign(t, "policy", "install", test.from, "--to", to)
			said := out
			if err != nil {
				said += err.Error()
			}
			if (err != nil) != test.fails || !strings.Contains(said, test.want) {
				t.Errorf("got %q, %v; want %q", out, err, test.want)
			}
			want := before
			if before == "" && !test.fails {
				want = readFile(t, test.from)
			}
			if got, err := os.ReadFile(to); string(got) != want {
				t.Errorf("there is now (%v)\n%s", err, got)
			}
		})
	}
}

func readFile(t *testing.T, path string) string {
	t.Helper()
	data, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	return string(data)
}
