package policyfile_test

import (
	"context"
	"fmt"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"github.com/spiffe/go-spiffe/v2/spiffeid"
	"go.uber.org/goleak"

	"github.com/countersign-mesh/countersign/cmd/countersign/internal/policyfile"
	"github.com/countersign-mesh/countersign/pkg/authz"
	"github.com/countersign-mesh/countersign/pkg/identity"
	"github.com/countersign-mesh/countersign/pkg/policy"
	policyv1 "github.com/countersign-mesh/countersign/proto/gen/mesh/policy/v1"
)

// TestMain has the test binary play the writer that a test kills.
func TestMain(m *testing.M) {
	if len(os.Args) == 4 && os.Args[1] == "revoke" {
		first, err := strconv.Atoi(os.Args[3])
		if err == nil {
			err = writer(os.Args[2], first)
		}
		fmt.Fprintln(os.Stderr, err)
		os.Exit(1)
	}
	goleak.VerifyTestMain(m)
}

const rules = `# Who may call what.
trust_domain: bank.test # and no other

services:
  a.v1.A:
    methods:
      Get: {allow: [{peer: /b, why: "reads, and no more"}]}
`

func byID(id, why string) *policyv1.Revocation {
	return &policyv1.Revocation{Subject: &policyv1.Revocation_Id{Id: id}, Why: why}
}

func bySerial(serial string) *policyv1.Revocation {
	return &policyv1.Revocation{Subject: &policyv1.Revocation_Serial{Serial: serial}}
}

func byAuthority(authority string) *policyv1.Revocation {
	return &policyv1.Revocation{Subject: &policyv1.Revocation_Authority{Authority: authority}}
}

func fileOf(t *testing.T, text string) string {
	t.Helper()
	path := filepath.Join(t.TempDir(), "p.yaml")
	if err := os.WriteFile(path, []byte(text), 0o600); err != nil {
		t.Fatal(err)
	}
	return path
}

func read(t *testing.T, path string) string {
	t.Helper()
	data, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	return string(data)
}

func TestAnEntryIsAddedAndTheRestOfTheFileStaysByteForByte(t *testing.T) {
	t.Parallel()
	for name, test := range map[string]struct {
		before string
		entry  *policyv1.Revocation
		after  string
		at     string
	}{
		"to a file without a list": {
			rules, byID("/risk", "was broken into"),
			rules + "\nrevoked:\n  - id: /risk\n    why: was broken into\n", "p.yaml:10",
		},
		"to a file whose last line has no end": {
			strings.TrimSuffix(rules, "\n"), byID("/risk", ""),
			rules + "\nrevoked:\n  - id: /risk\n", "p.yaml:10",
		},
		"to a file with a margin": {
			"  trust_domain: a.test\n  services: {A: {methods: {B: {}}}}\n", byID("spiffe://b.test/x", ""),
			"  trust_domain: a.test\n  services: {A: {methods: {B: {}}}}\n\n  revoked:\n    - id: spiffe://b.test/x\n", "p.yaml:5",
		},
		"behind the last entry": {
			rules + "revoked:\n- id: /x\n  why: |\n    # no comment\n    at all\n", byID("/risk", ""),
			rules + "revoked:\n- id: /x\n  why: |\n    # no comment\n    at all\n- id: /risk\n", "p.yaml:13",
		},
		"behind the last entry and its comment, before what follows": {
			"revoked: # few\n    - id: /x # lost\n      # until May\n\n# The rules.\n" + rules, bySerial("123"),
			"revoked: # few\n    - id: /x # lost\n      # until May\n    - serial: \"123\"\n\n# The rules.\n" + rules, "p.yaml:4",
		},
		"behind the last entry of a file whose last line has no end": {
			rules + "revoked:\n  - id: /x", byID("/risk", ""),
			rules + "revoked:\n  - id: /x\n  - id: /risk\n", "p.yaml:10",
		},
		"to an empty list in brackets": {
			"revoked: [] # nobody yet\n" + rules, byID("/risk", "a: b, c"),
			"revoked: [{id: /risk, why: 'a: b, c'}] # nobody yet\n" + rules, "p.yaml:1",
		},
		"to a list in brackets, behind letters of two bytes": {
			rules + "revoked: [ {why: größer, id: /x},\n {id: /y} ]", byAuthority("0e12"),
			rules + "revoked: [{authority: \"0e12\"},  {why: größer, id: /x},\n {id: /y} ]", "p.yaml:8",
		},
		"to a file with the line ends of Windows": {
			strings.ReplaceAll(rules, "\n", "\r\n") + "revoked:\r\n  - id: /x\r\n", byID("/risk", "two\nlines"),
			strings.ReplaceAll(rules, "\n", "\r\n") + "revoked:\r\n  - id: /x\r\n  - id: /risk\r\n    why: |-\r\n      two\r\n      lines\r\n", "p.yaml:10",
		},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			path := fileOf(t, test.before)
			begin := time.Now()
			change, err := policyfile.Revoke(t.Context(), path, test.entry)
			if err != nil {
				t.Fatal(err)
			}
			if diff := cmp.Diff(test.after, read(t, path)); diff != "" {
				t.Errorf("the file, want (-) and got (+):\n%s", diff)
			}
			if !change.Added || change.Entry != test.at || change.Time.Before(begin) || change.Time.After(time.Now()) {
				t.Errorf("the change is %+v, want it at %s", change, test.at)
			}
			file, err := authz.Open(path)
			if err != nil || file.Policy().Version() != change.Version {
				t.Errorf("the version is %s, want %s (%v)", change.Version, file.Policy().Version(), err)
			}
			if err := policyfile.Undo(t.Context(), path, change); err != nil || read(t, path) != test.before {
				t.Errorf("after Undo (%v):\n%s", err, cmp.Diff(test.before, read(t, path)))
			}
		})
	}
}

func TestTheServersHeedWhatWasAdded(t *testing.T) {
	t.Parallel()
	path := fileOf(t, rules)
	for _, entry := range []*policyv1.Revocation{byID("/risk", ""), byID("spiffe://other.test/risk", ""), bySerial("00:4F:3A")} {
		if _, err := policyfile.Revoke(t.Context(), path, entry); err != nil {
			t.Fatal(err)
		}
	}
	file, err := authz.Open(path)
	if err != nil {
		t.Fatal(err)
	}
	for peer, revoked := range map[*identity.Peer]bool{
		{ID: spiffeid.RequireFromString("spiffe://bank.test/risk")}:                  true,
		{ID: spiffeid.RequireFromString("spiffe://other.test/risk")}:                 true,
		{ID: spiffeid.RequireFromString("spiffe://bank.test/b"), Serial: "4f3a"}:     true,
		{ID: spiffeid.RequireFromString("spiffe://bank.test/b"), Serial: "4f3b"}:     false,
		{ID: spiffeid.RequireFromString("spiffe://other.test/risk/x"), Serial: "4f"}: false,
	} {
		if err := file.Revocations().Check(peer); (err != nil) != revoked {
			t.Errorf("%s with serial %q: %v", peer.ID, peer.Serial, err)
		}
	}
}

func TestAnEntryThatIsThereAlreadyChangesNothing(t *testing.T) {
	t.Parallel()
	text := rules + "revoked:\n  - id: /risk\n  - serial: \"4f3a\"\n  - authority: \"9c1d07\"\n"
	for name, test := range map[string]struct {
		entry *policyv1.Revocation
		at    string
	}{
		"the same ID":                   {byID("/risk", ""), "p.yaml:9"},
		"the same ID for another cause": {byID("/risk", "again"), "p.yaml:9"},
		"the same ID, whole":            {byID("spiffe://bank.test/risk", ""), "p.yaml:9"},
		"the same serial, otherwise":    {bySerial("00:4F:3A"), "p.yaml:10"},
		"the same authority, otherwise": {byAuthority("9C:1D:07"), "p.yaml:11"},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			path := fileOf(t, text)
			before, err := os.Stat(path)
			if err != nil {
				t.Fatal(err)
			}
			change, err := policyfile.Revoke(t.Context(), path, test.entry)
			if err != nil || change.Added || change.Entry != test.at {
				t.Errorf("Revoke = %+v, %v; want it to be found at %s", change, err, test.at)
			}
			if err := policyfile.Undo(t.Context(), path, change); err != nil {
				t.Error(err)
			}
			after, err := os.Stat(path)
			if err != nil || !os.SameFile(before, after) || read(t, path) != text {
				t.Errorf("the file was written (%v)", err)
			}
		})
	}
}

func TestWhatCannotBeAddedLeavesTheFileAsItIs(t *testing.T) {
	t.Parallel()
	for name, test := range map[string]struct {
		text  string
		entry *policyv1.Revocation
		want  string
	}{
		"a file that is no policy":      {"services: 1\n", byID("/risk", ""), "p.yaml:1"},
		"a file in braces":              {"{trust_domain: a.test, services: {A: {methods: {B: {}}}}}\n", byID("/risk", ""), "by hand"},
		"a file that ends its document": {rules + "...\n", byID("/risk", ""), "by hand"},
		"a key with nothing behind it":  {rules + "revoked:\n", byID("/risk", ""), "p.yaml:8:9 expected sequence"},
		"a list with an anchor":         {rules + "revoked: &a\n  - id: /x\n", byID("/risk", ""), "by hand"},
		"a text whose empty lines at the end count": {
			strings.Replace(rules, `{allow: [{peer: /b, why: "reads, and no more"}]}`, "\n        allow:\n          - peer: /b\n            why: |+\n              x\n", 1),
			byID("/risk", ""), "by hand",
		},
		"an ID that is none":          {rules, byID("risk", ""), "does not match regex"},
		"a trust domain":              {rules, byID("spiffe://bank.test", ""), "names a trust domain"},
		"a serial number that is 0":   {rules, bySerial("0:0"), "is no serial number"},
		"half a byte of an authority": {rules, byAuthority("9c1"), "is no subject key ID"},
		"nothing":                     {rules, &policyv1.Revocation{}, "subject"},
		"a cause as long as a book":   {rules, byID("/risk", strings.Repeat("x", 501)), "why"},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			path := fileOf(t, test.text)
			_, err := policyfile.Revoke(t.Context(), path, test.entry)
			if err == nil || !strings.Contains(err.Error(), test.want) {
				t.Errorf("Revoke = %v, want it to say %q", err, test.want)
			}
			if got := read(t, path); got != test.text {
				t.Errorf("the file is now\n%s", got)
			}
			leftovers(t, path)
		})
	}
}

// leftovers fails when there is anything beside the file.
func leftovers(t *testing.T, path string) {
	t.Helper()
	entries, err := os.ReadDir(filepath.Dir(path))
	if err != nil || len(entries) != 1 {
		t.Errorf("beside %s there is more: %v (%v)", path, entries, err)
	}
}

func TestUndoLeavesWhatOthersWrote(t *testing.T) {
	t.Parallel()
	for name, test := range map[string]struct {
		before string
		others func(t *testing.T, path string)
		want   string
		err    string
	}{
		"a list that began with the entry goes on": {
			rules,
			func(t *testing.T, path string) { revoke(t, path, byID("/other", "")) },
			rules + "\nrevoked:\n  - id: /other\n", "",
		},
		"a list in brackets": {
			rules + "revoked: []\n",
			func(t *testing.T, path string) { revoke(t, path, byID("/other", "")) },
			rules + "revoked: [{id: /other}, ]\n", "",
		},
		"a rule is changed meanwhile": {
			rules,
			func(t *testing.T, path string) { rewrite(t, path, "peer: /b", "peer: /c") },
			strings.Replace(rules, "peer: /b", "peer: /c", 1), "",
		},
		"the entry is taken out meanwhile": {
			rules,
			func(t *testing.T, path string) {
				rewrite(t, path, "\nrevoked:\n  - id: /risk\n    why: x\n", "# gone\n")
			},
			rules + "# gone\n", "",
		},
		"the entry is written otherwise": {
			rules,
			func(t *testing.T, path string) { rewrite(t, path, "why: x", "why: y") },
			rules + "\nrevoked:\n  - id: /risk\n    why: y\n", "p.yaml:10: the entry is not as it was added",
		},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			path := fileOf(t, test.before)
			change := revoke(t, path, byID("/risk", "x"))
			test.others(t, path)
			err := policyfile.Undo(t.Context(), path, change)
			if (err == nil) != (test.err == "") || err != nil && !strings.Contains(err.Error(), test.err) {
				t.Errorf("Undo = %v, want %q", err, test.err)
			}
			if diff := cmp.Diff(test.want, read(t, path)); diff != "" {
				t.Errorf("the file, want (-) and got (+):\n%s", diff)
			}
		})
	}
}

func revoke(t *testing.T, path string, entry *policyv1.Revocation) policyfile.Change {
	t.Helper()
	change, err := policyfile.Revoke(t.Context(), path, entry)
	if err != nil {
		t.Fatal(err)
	}
	return change
}

func rewrite(t *testing.T, path, before, after string) {
	t.Helper()
	text := strings.Replace(read(t, path), before, after, 1)
	if err := os.WriteFile(path, []byte(text), 0o600); err != nil {
		t.Fatal(err)
	}
}

func TestTheBanksOwnPolicyIsEdited(t *testing.T) {
	t.Parallel()
	bank, err := os.ReadFile(filepath.FromSlash("../../../../deploy/policy/bank.yaml"))
	if err != nil {
		t.Fatal(err)
	}
	path := fileOf(t, string(bank))
	change := revoke(t, path, byID("/risk", "was broken into"))
	after := read(t, path)
	if !strings.HasPrefix(after, strings.TrimRight(string(bank), "\n")) || !strings.Contains(after, "- id: /risk") {
		t.Errorf("the file is now\n%s", after)
	}
	if err := policyfile.Undo(context.Background(), path, change); err != nil || read(t, path) != string(bank) {
		t.Errorf("Undo: %v", err)
	}
}

// Whatever the file looks like, the edit adds the one entry and changes nothing, or does not happen.
func FuzzRevoke(f *testing.F) {
	f.Add(rules, "/risk", "why: not")
	f.Add(rules+"revoked: []\n", "/risk", "[")
	f.Add("revoked:\n- id: /x\n"+rules, "spiffe://a.test/b", "#\r\n\t")
	f.Add("\ufeff"+rules+"revoked: # ü\n  -   serial: \"1\"\n...", "/risk", "")
	f.Fuzz(func(t *testing.T, text, id, why string) {
		path := fileOf(t, text)
		change, err := policyfile.Revoke(t.Context(), path, byID(id, why))
		after := read(t, path)
		if err != nil || !change.Added {
			if after != text {
				t.Fatalf("the file was changed from %q to %q (%v)", text, after, err)
			}
			return
		}
		if _, err := policy.Parse("p.yaml", []byte(after)); err != nil {
			t.Fatalf("%q became %q: %v", text, after, err)
		}
		if err := policyfile.Undo(t.Context(), path, change); err != nil || read(t, path) != text {
			t.Fatalf("%q became %q after Undo (%v)", text, read(t, path), err)
		}
	})
}
