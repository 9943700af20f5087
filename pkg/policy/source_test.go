package policy_test

import (
	"errors"
	"io/fs"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"

	"github.com/countersign-mesh/countersign/pkg/policy"
)

func TestTheVersionIsOfAllFiles(t *testing.T) {
	t.Parallel()
	loaded := mustLoad(t, included())
	if again := mustLoad(t, included()); again.Version() != loaded.Version() {
		t.Errorf("the same files in another directory have the version %s, before %s", again.Version(), loaded.Version())
	}
	versions := map[string]string{loaded.Version(): "nothing"}
	for name, files := range map[string]tree{
		"the main file":                 included().with(t, "main.yaml", "/gateway", "/gateways"),
		"the first included file":       included().with(t, "teams/money.yaml", "/gateway", "/gateways"),
		"the last included file":        included().with(t, "risk.yaml", "/payments/**", "/payment/**"),
		"a comment in an included file": included().with(t, "risk.yaml", "trust_domain", "# x\ntrust_domain"),
		// These two are the same when one stands after the other.
		"a line at the end of the main file":               included().with(t, "main.yaml", "- peer: /gateway\n", "- peer: /gateway\n# x\n"),
		"that line at the beginning of the first included": included().with(t, "teams/money.yaml", "trust_domain", "# x\ntrust_domain"),
	} {
		version := mustLoad(t, files).Version()
		if other, ok := versions[version]; ok {
			t.Errorf("with a change of %s the version is %s, as with one of %s", name, version, other)
		}
		if len(version) != 16 || strings.Trim(version, "0123456789abcdef") != "" {
			t.Errorf("the version is %q, want 16 hexadecimal digits", version)
		}
		versions[version] = name
	}
}

func TestTheVersionOfOneFileIsTheBeginningOfItsSHA256(t *testing.T) {
	t.Parallel()
	// printf 'trust_domain: a\nservices: {A: {methods: {B: {}}}}\n' | sha256sum
	if got, want := mustParse(t, "trust_domain: a\nservices: {A: {methods: {B: {}}}}\n").Version(), "f371cc14e58b8808"; got != want {
		t.Errorf("Version = %s, want %s", got, want)
	}
}

func TestSource(t *testing.T) {
	t.Parallel()
	path := included().write(t)
	dir := filepath.Dir(path)
	source, err := policy.Read(path)
	if err != nil {
		t.Fatal(err)
	}
	names := []string{path, filepath.Join(dir, "teams", "money.yaml"), filepath.Join(dir, "risk.yaml")}
	if diff := cmp.Diff(names, source.Names()); diff != "" {
		t.Errorf("Names (-want +got)\n%s", diff)
	}
	if got := string(source.Main()); got != mainText {
		t.Errorf("Main = %s", got)
	}
	compiled, err := policy.Compile(source)
	if err != nil {
		t.Fatal(err)
	}
	if !compiled.Source().Equal(source) || compiled.Name() != path {
		t.Errorf("the policy's source is %v of %s", compiled.Source().Names(), compiled.Name())
	}
	fewer := source.WithMain([]byte(strings.Replace(mainText, "  - file: risk.yaml\n    services: [bank.risk.v1.RiskService]\n", "", 1)))
	if diff := cmp.Diff(names[:2], fewer.Names()); diff != "" {
		t.Errorf("with another main file, Names (-want +got)\n%s", diff)
	}
	if again := fewer.WithMain([]byte(mainText)); !again.Equal(source) {
		t.Errorf("with the main file as it was the source is another one: %v", again.Names())
	}
	// What is wrong includes nothing, and says so when it is compiled.
	broken := source.WithMain([]byte(mainText + "x: 1\n"))
	if diff := cmp.Diff(names[:1], broken.Names()); diff != "" {
		t.Errorf("with a broken main file, Names (-want +got)\n%s", diff)
	}
	if _, err := policy.Compile(broken); err == nil || !strings.Contains(err.Error(), `unknown field "x"`) {
		t.Errorf("the error of the broken file is %v", err)
	}
	if _, err := policy.Read(filepath.Join(dir, "none.yaml")); !errors.Is(err, fs.ErrNotExist) || !strings.HasPrefix(err.Error(), "read the policy: ") {
		t.Errorf("the error of a file that is not there is %v", err)
	}
	if _, err := policy.Load(filepath.Join(dir, "none.yaml")); !errors.Is(err, fs.ErrNotExist) {
		t.Errorf("the error of a file that is not there is %v", err)
	}
}

// Each step changes the files; what is read again must be what is read anew.
func TestReadAgainASourceIsAsReadAnew(t *testing.T) {
	t.Parallel()
	path := included().write(t)
	risk := filepath.Join(filepath.Dir(path), "risk.yaml")
	source, err := policy.Read(path)
	if err != nil {
		t.Fatal(err)
	}
	without := strings.Replace(mainText, "  - file: risk.yaml\n    services: [bank.risk.v1.RiskService]\n", "", 1)
	write := func(path, text string) func() error {
		return func() error { return os.WriteFile(path, []byte(text), 0o600) }
	}
	for _, step := range []struct {
		what   string
		change func() error
	}{
		{"nothing changed", func() error { return nil }},
		{"an included file changed", write(risk, riskText+"# x\n")},
		{"an included file is shorter", write(risk, riskText[:len(riskText)-1])},
		{"an included file is empty", write(risk, "")},
		{"an included file is away", func() error { return os.Remove(risk) }},
		{"an included file is back", write(risk, riskText)},
		{"the main file includes fewer", write(path, without)},
		{"the main file is broken", write(path, mainText+"x: 1\n")},
		{"the main file is broken still", func() error { return nil }},
		{"the main file includes all again", write(path, mainText)},
	} {
		if err := step.change(); err != nil {
			t.Fatal(err)
		}
		anew, err := policy.Read(path)
		if err != nil {
			t.Fatal(err)
		}
		if source, err = source.Again(); err != nil {
			t.Fatal(err)
		}
		if !source.Equal(anew) {
			t.Errorf("when %s, there is %v again and %v anew", step.what, source.Names(), anew.Names())
		}
	}
	if err := os.Remove(path); err != nil {
		t.Fatal(err)
	}
	if _, err := source.Again(); !errors.Is(err, fs.ErrNotExist) || !strings.HasPrefix(err.Error(), "read the policy: ") {
		t.Errorf("the error of a main file that is away is %v", err)
	}
}

// A process looks at its policy twice a second all its life. Parsing YAML for that would be most of what it allocates at rest, so that it would grow to
// twice its size before the collector comes.
func TestAPolicyThatIsAsItWasIsReadAgainWithoutParsing(t *testing.T) { //nolint:paralleltest // AllocsPerRun counts those of all goroutines
	source, err := policy.Read(included().write(t))
	if err != nil {
		t.Fatal(err)
	}
	allocations := testing.AllocsPerRun(20, func() {
		if source, err = source.Again(); err != nil {
			t.Fatal(err)
		}
	})
	if allocations > 50 { // to parse them takes hundreds
		t.Errorf("%v allocations for three files that have not changed", allocations)
	}
}

func TestSourcesAreEqualWhenAllTheirFilesAre(t *testing.T) {
	t.Parallel()
	path := included().write(t)
	risk := filepath.Join(filepath.Dir(path), "risk.yaml")
	read := func() policy.Source {
		t.Helper()
		source, err := policy.Read(path)
		if err != nil {
			t.Fatal(err)
		}
		return source
	}
	set := func(text string) {
		t.Helper()
		if err := os.WriteFile(risk, []byte(text), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	before := read()
	if !before.Equal(read()) {
		t.Error("the same files are not equal")
	}
	set(riskText + "# x\n")
	if changed := read(); before.Equal(changed) || changed.Equal(before) {
		t.Error("with another included file it is equal")
	}
	set("")
	empty := read()
	if err := os.Remove(risk); err != nil {
		t.Fatal(err)
	}
	if gone := read(); gone.Equal(empty) || empty.Equal(gone) || !gone.Equal(read()) {
		t.Error("a file that is gone is not told from one that is empty, or not known again")
	}
	if policy.Text("a", nil).Equal(policy.Text("b", nil)) || policy.Text("a", []byte("x")).Equal(policy.Text("a", nil)) {
		t.Error("another name or another text is equal")
	}
}
