package registration

import (
	"log/slog"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"github.com/spiffe/go-spiffe/v2/spiffeid"
	"go.uber.org/goleak"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

var bankTD = spiffeid.RequireTrustDomainFromString("bank.test")

const sum = "0123456789abcdef0123456789abcdef0123456789abcdef0123456789abcdef"

const good = `trust_domain: bank.test
entries:
  - spiffe_id: /ledger
    selectors: ["unix:path:/srv/ledger", "unix:uid:1000"]
    dns_names: [ledger, localhost]
    svid_ttl: 90s
  - spiffe_id: spiffe://bank.test/risk
    selectors: ["unix:sha256:` + sum + `"]
    hint: internal
`

func parse(t *testing.T, text string) *Registry {
	t.Helper()
	r, err := Parse("r.yaml", []byte(text), bankTD)
	if err != nil {
		t.Fatal(err)
	}
	return r
}

func ids(entries []*Entry) (list []string) {
	for _, e := range entries {
		list = append(list, e.ID.String())
	}
	return list
}

func TestParse(t *testing.T) {
	t.Parallel()
	r := parse(t, good)
	if r.Len() != 2 {
		t.Fatalf("%d entries", r.Len())
	}
	want := &Entry{
		ID:        spiffeid.RequireFromPath(bankTD, "/ledger"),
		Selectors: []string{"unix:path:/srv/ledger", "unix:uid:1000"},
		DNSNames:  []string{"ledger", "localhost"}, TTL: 90 * time.Second,
	}
	if !r.entries[0].Equal(want) {
		t.Errorf("%+v, want %+v", r.entries[0], want)
	}
	if e := r.entries[1]; e.ID.String() != "spiffe://bank.test/risk" || e.Hint != "internal" || e.TTL != 0 {
		t.Errorf("%+v", e)
	}
}

func TestAProcessMatchesWithAllSelectorsOfAnEntry(t *testing.T) {
	t.Parallel()
	r := parse(t, good+`  - spiffe_id: /ledger/admin
    selectors: ["unix:path:/srv/ledger"]
`)
	for name, test := range map[string]struct{ has, want []string }{
		"nothing":       {nil, nil},
		"the uid alone": {[]string{"unix:uid:1000"}, nil},
		"another uid":   {[]string{"unix:uid:1001", "unix:path:/srv/ledger"}, []string{"spiffe://bank.test/ledger/admin"}},
		"a longer path": {[]string{"unix:uid:1000", "unix:path:/srv/ledger2"}, nil},
		"all, in another order": {
			[]string{"unix:sha256:ff", "unix:path:/srv/ledger", "unix:uid:1000"},
			[]string{"spiffe://bank.test/ledger", "spiffe://bank.test/ledger/admin"},
		},
		"the sum": {[]string{"unix:sha256:" + sum, "unix:uid:0"}, []string{"spiffe://bank.test/risk"}},
	} {
		if diff := cmp.Diff(test.want, ids(r.Match(test.has))); diff != "" {
			t.Errorf("%s: %s", name, diff)
		}
	}
}

func TestParseRefuses(t *testing.T) {
	t.Parallel()
	entry := func(text string) string { return "trust_domain: bank.test\nentries:\n" + text }
	for name, test := range map[string]struct {
		text string
		want []string
	}{
		"an empty file":        {"", []string{"r.yaml: the file is empty"}},
		"another trust domain": {strings.Replace(good, "trust_domain: bank.test", "trust_domain: evil.test", 1), []string{"r.yaml:1:1", `"evil.test"`, `"bank.test"`}},
		"no entries":           {"trust_domain: bank.test\n", []string{"entries"}},
		"an ID of another trust domain": {
			strings.Replace(good, "spiffe://bank.test/risk", "spiffe://evil.test/risk", 1),
			[]string{"r.yaml:7:5", `not in the trust domain "bank.test"`},
		},
		"an ID without a path":    {strings.Replace(good, "bank.test/risk", "bank.test", 1), []string{"r.yaml:7:5", "names the trust domain and no workload"}},
		"dots in a path":          {strings.Replace(good, "/ledger\n", "/../ledger\n", 1), []string{"r.yaml:3:5", "dot segments"}},
		"a trailing slash":        {strings.Replace(good, "/ledger\n", "/ledger/\n", 1), []string{"r.yaml:3:5", "trailing slash"}},
		"a uid alone":             {entry("  - {spiffe_id: /a, selectors: ['unix:uid:0']}\n"), []string{"r.yaml:3:21", "add unix:path, unix:sha256 or socket"}},
		"two paths":               {entry("  - {spiffe_id: /a, selectors: ['unix:path:/a', 'unix:path:/b']}\n"), []string{"no process has both"}},
		"a relative path":         {entry("  - {spiffe_id: /a, selectors: ['unix:path:bin/a']}\n"), []string{"r.yaml:3:33", "must be absolute"}},
		"dots in a file path":     {entry("  - {spiffe_id: /a, selectors: ['unix:path:/bin/../a']}\n"), []string{"must be absolute"}},
		"a uid too large":         {entry("  - {spiffe_id: /a, selectors: ['unix:path:/a', 'unix:uid:4294967296']}\n"), []string{"no uid"}},
		"a uid with a zero":       {entry("  - {spiffe_id: /a, selectors: ['unix:path:/a', 'unix:uid:01']}\n"), []string{"no uid"}},
		"an unknown selector":     {entry("  - {spiffe_id: /a, selectors: ['gcp:zone:a']}\n"), []string{"r.yaml:3:"}},
		"two sockets":             {entry("  - {spiffe_id: /a, selectors: ['socket:a', 'socket:b']}\n"), []string{"r.yaml:3:", "no process has both"}},
		"a socket up a directory": {entry("  - {spiffe_id: /a, selectors: ['socket:../a']}\n"), []string{"r.yaml:3:"}},
		"a socket's path":         {entry("  - {spiffe_id: /a, selectors: ['socket:/run/a']}\n"), []string{"r.yaml:3:"}},
		"a socket without a name": {entry("  - {spiffe_id: /a, selectors: ['socket:']}\n"), []string{"r.yaml:3:"}},
		"a socket and a program": {
			entry("  - {spiffe_id: /a, selectors: ['socket:a', 'unix:path:/a']}\n"),
			[]string{"r.yaml:3:21", `nobody has both "socket:a" and "unix:path:/a"`, "an entry for each"},
		},
		"a socket and a program's sum": {
			entry("  - {spiffe_id: /a, selectors: ['unix:sha256:" + sum + "', 'socket:a']}\n"),
			[]string{"r.yaml:3:21", `nobody has both "socket:a" and "unix:sha256:`},
		},
		"a socket and a label": {
			entry("  - {spiffe_id: /a, selectors: ['docker:label:a:b', 'socket:a']}\n"),
			[]string{"r.yaml:3:21", `nobody has both "socket:a" and "docker:label:a:b"`, "SPIRE"},
		},
		"a short sum":      {entry("  - {spiffe_id: /a, selectors: ['unix:sha256:00']}\n"), []string{"r.yaml:3:"}},
		"a bad DNS name":   {entry("  - {spiffe_id: /a, selectors: ['unix:path:/a'], dns_names: ['*']}\n"), []string{"r.yaml:3:"}},
		"a life too long":  {entry("  - {spiffe_id: /a, selectors: ['unix:path:/a'], svid_ttl: 25h}\n"), []string{"r.yaml:3:"}},
		"an unknown field": {strings.Replace(good, "hint:", "hints:", 1), []string{"r.yaml:9:5"}},
		"the same entry twice": {
			entry("  - {spiffe_id: /a, selectors: ['unix:path:/a', 'unix:uid:0']}\n  - {spiffe_id: /a, selectors: ['unix:uid:0', 'unix:path:/a']}\n"),
			[]string{"r.yaml:4:5", "the entry at r.yaml:3:5"},
		},
		// ATTACKS 24
		"one process, one hint, two identities": {
			entry("  - {spiffe_id: /a, hint: x, selectors: ['unix:path:/a']}\n  - {spiffe_id: /b, hint: x, selectors: ['unix:uid:0', 'unix:path:/a']}\n"),
			[]string{"r.yaml:4:21", `hint "x"`, "r.yaml:3:5"},
		},
		"one socket, one hint, two identities": {
			entry("  - {spiffe_id: /a, hint: x, selectors: ['socket:a']}\n  - {spiffe_id: /b, hint: x, selectors: ['unix:uid:0', 'socket:a']}\n"),
			[]string{"r.yaml:4:21", `hint "x"`, "r.yaml:3:5"},
		},
		"several mistakes at once": {
			"trust_domain: evil.test\nentries:\n  - {spiffe_id: spiffe://a.test/a, selectors: ['unix:uid:0']}\n",
			[]string{"r.yaml:1:1", "r.yaml:3:6", "r.yaml:3:36"},
		},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			_, err := Parse("r.yaml", []byte(test.text), bankTD)
			if err == nil {
				t.Fatal("it was accepted")
			}
			for _, want := range test.want {
				if !strings.Contains(err.Error(), want) {
					t.Errorf("the error is\n%v\nand does not contain\n%s", err, want)
				}
			}
		})
	}
}

func TestOneHintForProcessesThatAreNeverTheSameIsRight(t *testing.T) {
	t.Parallel()
	parse(t, `trust_domain: bank.test
entries:
  - {spiffe_id: /risk, hint: x, selectors: ['unix:path:/a']}
  - {spiffe_id: /risk, hint: x, selectors: ['unix:path:/b']}
  - {spiffe_id: /risk, hint: x, selectors: ['socket:a']}
  - {spiffe_id: /risk, hint: x, selectors: ['docker:label:a:b']}
`)
}

// watch opens a file with the good text and watches it until the test ends.
func watch(t *testing.T) (*File, string, *record) {
	t.Helper()
	path := filepath.Join(t.TempDir(), "r.yaml")
	replace(t, path, good)
	logged := &record{}
	f, err := Open(path, bankTD, slog.New(slog.NewTextHandler(logged, nil)))
	if err != nil {
		t.Fatal(err)
	}
	done := make(chan error, 1)
	ctx := t.Context()
	go func() { done <- f.Watch(ctx) }()
	t.Cleanup(func() {
		if err := <-done; err != nil {
			t.Error(err)
		}
	})
	return f, path, logged
}

func replace(t *testing.T, path, text string) {
	t.Helper()
	if err := os.WriteFile(path+".new", []byte(text), 0o600); err != nil {
		t.Fatal(err)
	}
	if err := os.Rename(path+".new", path); err != nil {
		t.Fatal(err)
	}
}

func wait(t *testing.T, changed <-chan struct{}) {
	t.Helper()
	select {
	case <-changed:
	case <-time.After(10 * time.Second):
		t.Fatal("the change was not seen")
	}
}

// FuzzParse: no text makes the parser panic, and what it accepts keeps every rule.
func FuzzParse(f *testing.F) {
	f.Add([]byte(good))
	f.Add([]byte("trust_domain: bank.test\nentries:\n  - {spiffe_id: /a, hint: x, selectors: ['unix:path:/a']}\n"))
	f.Add([]byte(containers))
	f.Fuzz(func(t *testing.T, data []byte) {
		r, err := Parse("r.yaml", data, bankTD)
		if err != nil {
			return
		}
		for _, e := range r.entries {
			if e.ID.TrustDomain() != bankTD || e.ID.Path() == "" {
				t.Errorf("accepted the ID %q", e.ID)
			}
			if len(r.Match([]string{"unix:uid:0"})) > 0 {
				t.Error("accepted an entry that every process of a user matches")
			}
			if !slices.Contains(r.Match(e.Selectors), e) {
				t.Errorf("nobody matches %v", e.Selectors)
			}
		}
	})
}

// To read an executable is dear: it is needed only where it can make a difference.
func TestASumIsNeededOnlyWhereItMakesADifference(t *testing.T) {
	t.Parallel()
	r := &Registry{entries: []*Entry{
		{Selectors: []string{"unix:path:/srv/ledger", "unix:uid:1000"}},
		{Selectors: []string{"unix:sha256:aa", "unix:path:/srv/risk", "unix:uid:1000"}},
	}}
	for _, test := range []struct {
		name string
		has  []string
		want bool
	}{
		{"a stranger", []string{"unix:path:/tmp/evil", "unix:uid:1001"}, false},
		{"another program of the user", []string{"unix:path:/tmp/evil", "unix:uid:1000"}, false},
		{"an entry without a sum", []string{"unix:path:/srv/ledger", "unix:uid:1000"}, false},
		{"an entry with a sum", []string{"unix:path:/srv/risk", "unix:uid:1000"}, true},
	} {
		if got := r.NeedsSum(test.has); got != test.want {
			t.Errorf("%s: %v, want %v", test.name, got, test.want)
		}
	}
	if r := (&Registry{entries: []*Entry{{Selectors: []string{"unix:sha256:aa"}}}}); !r.NeedsSum(nil) {
		t.Error("an entry by the sum alone needs it of everybody")
	}
}
