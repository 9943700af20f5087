package main

import (
	"os"
	"path/filepath"
	"strings"
	"testing"
)

// No service runs, so that none could have the old policy in force, and nobody gives this process an identity.
func TestApplyOfflineReplacesAPolicyThatNoServiceCanRunWith(t *testing.T) {
	t.Setenv("SPIFFE_ENDPOINT_SOCKET", "")
	const revoking = "revoked:\n  - id: /risk\n    why: test\n"
	const unread = "trust_domain: bank.test\nservices: {a.v1.A: {methods: {Get: {}}}}\n  broken: ["
	uncovered := func(text string) string { return strings.Replace(text, "      CloseAccount:", "      CloseAcount:", 1) }
	uncompiled := func(text string) string { return strings.Replace(text, "peer: /gateway", "peer: gateway", 1) }
	unread2 := func(string) string { return unread }
	revoked := func(text string) string { return text + revoking }
	same := func(text string) string { return text }
	for name, test := range map[string]struct {
		old, changed func(string) string
		args         []string
		want         string // of the error; empty when the new policy is in place
	}{
		"that lacks a method":               {uncovered, same, nil, ""},
		"that does not compile":             {uncompiled, same, nil, ""},
		"whose revocations are kept":        {func(text string) string { return revoked(uncovered(text)) }, revoked, nil, ""},
		"and those of one that is broken":   {func(text string) string { return revoked(uncompiled(text)) }, revoked, nil, ""},
		"but not if they are lost":          {func(text string) string { return revoked(uncovered(text)) }, same, nil, "lacks 1 of the revocations of"},
		"or lost with one that is broken":   {func(text string) string { return revoked(uncompiled(text)) }, same, nil, "\n  - id: /risk\n"},
		"unless that is meant":              {func(text string) string { return revoked(uncompiled(text)) }, same, []string{"--unrevoke"}, ""},
		"nor if they cannot be read":        {unread2, same, nil, "it is not known whom the policy in place revokes"},
		"unless somebody has looked":        {unread2, same, []string{"--unrevoke"}, ""},
		"nor by one that lacks a method":    {same, uncovered, nil, "CloseAcount"},
		"nor a broken one by such":          {uncompiled, uncovered, nil, "CloseAcount"},
		"nor a broken one by a broken one":  {uncovered, uncompiled, nil, "as if it stood in the place of"},
		"nor when nobody says yes":          {uncompiled, same, []string{"--no-yes"}, "it was not confirmed"},
		"nor without a look at what may be": {uncompiled, same, []string{"--offline=false"}, "mend it by hand first, or replace it with --offline"},
	} {
		t.Run(name, func(t *testing.T) {
			in, changed := bankPolicyWith(t, test.old), bankPolicyWith(t, test.changed)
			before, after := readFile(t, in), readFile(t, changed)
			file := filepath.Join(t.TempDir(), "mesh.yaml")
			text := "trust_domain: bank.test\npolicy: " + in + "\nservices: {ledger: 'ledger.invalid:8443'}\n"
			if err := os.WriteFile(file, []byte(text), 0o600); err != nil {
				t.Fatal(err)
			}
			args := []string{"--mesh", file, "policy", "apply", changed, "--offline"}
			if len(test.args) == 0 || test.args[0] != "--no-yes" {
				args = append(append(args, "--yes"), test.args...)
			}
			out, err := countersign(t, args...)
			if test.want != "" {
				if err == nil || !strings.Contains(err.Error(), test.want) || readFile(t, in) != before {
					t.Errorf("%v, want %q:\n%s", err, test.want, out)
				}
				return
			}
			if err != nil || readFile(t, in) != after || !strings.Contains(out, "No service was asked: --offline") {
				t.Fatalf("%v:\n%s", err, out)
			}
			if kept, err := filepath.Glob(in + ".before-*"); err != nil || len(kept) != 1 || readFile(t, kept[0]) != before {
				t.Errorf("kept are %v (%v)", kept, err)
			}
		})
	}
}
