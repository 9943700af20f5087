package bank

import (
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
)

// Home is a directory with bin/ and deploy/, as after `make build`, for one test to change as it likes.
type Home struct {
	Dir string
	// RunDir is where the mesh keeps its traces.
	RunDir string
	dist   *Dist
	// owner is the test that the Home ends with; a subtest of it may start what its next subtest needs.
	owner testing.TB
}

// NewHome lays out a Home that ends with the test. Everybody in actors can be had as an Identity.
func (d *Dist) NewHome(t testing.TB, actors ...string) *Home {
	t.Helper()
	// Not t.TempDir: with the test's name in it the Workload API's socket would not fit in.
	dir, err := os.MkdirTemp("", "cs-") //nolint:usetesting // see above
	if err != nil {
		t.Fatal(err)
	}
	if dir, err = filepath.EvalSymlinks(dir); err != nil {
		t.Fatal(err)
	}
	h := &Home{Dir: dir, RunDir: filepath.Join(dir, "run"), dist: d, owner: t}
	t.Cleanup(func() {
		if err := os.RemoveAll(dir); err != nil {
			t.Error(err)
		}
	})
	for _, program := range append(Services(), "authority", "countersign") {
		h.Install(t, program, program)
	}
	if err := os.CopyFS(h.Path("deploy"), os.DirFS(filepath.Join(d.Source, "deploy"))); err != nil {
		t.Fatal(err)
	}
	for _, actor := range []string{"burglar", "accounts-burglar", "gateway-burglar"} {
		h.Install(t, "countersign", filepath.Join("actors", actor))
	}
	for _, actor := range actors {
		h.Register(t, actor)
	}
	return h
}

// Path returns a path in the Home.
func (h *Home) Path(parts ...string) string {
	return filepath.Join(append([]string{h.Dir}, parts...)...)
}

// Policy returns the policy file.
func (h *Home) Policy() string { return h.Path("deploy", "policy", "bank.yaml") }

// Registration returns the file of registration entries.
func (h *Home) Registration() string { return h.Path("deploy", "registration", "bank.yaml") }

// Register gives a copy of the CLI the identity of that name, so that a test can act as it. Risk and the operator have theirs in
// the bank's own file already.
func (h *Home) Register(t testing.TB, actor string) {
	t.Helper()
	if actor == "risk" || actor == "operator" {
		return
	}
	h.Install(t, "countersign", filepath.Join("actors", actor))
	h.Edit(t, h.Registration(), func(text string) string {
		return text + fmt.Sprintf("  - spiffe_id: /%s\n    selectors: [\"unix:path:bin/actors/%s\"]\n", actor, actor)
	})
}

// LongLived gives an actor of the bank's own file SVIDs of an hour, whatever those of the others live.
func (h *Home) LongLived(t testing.TB, actor string) {
	t.Helper()
	line := fmt.Sprintf("    selectors: [%q]\n", "unix:path:bin/"+filepath.ToSlash(program(actor)))
	h.Edit(t, h.Registration(), Replace(t, line, line+"    svid_ttl: 1h\n"))
}

// Edit changes a file in place.
func (h *Home) Edit(t testing.TB, path string, change func(string) string) {
	t.Helper()
	before, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	after := change(string(before))
	if after == string(before) {
		t.Fatalf("the edit of %s changes nothing", path)
	}
	if err := os.WriteFile(path, []byte(after), 0o600); err != nil {
		t.Fatal(err)
	}
}

// Replace is a change for Edit: the one place that reads before reads after then.
func Replace(t testing.TB, before, after string) func(string) string {
	t.Helper()
	return func(text string) string {
		t.Helper()
		if n := strings.Count(text, before); n != 1 {
			t.Fatalf("found %d times, want once:\n%s", n, before)
		}
		return strings.Replace(text, before, after, 1)
	}
}

// Install makes the binary that was built as program available as bin/name: as a hard link, which the kernel tells apart by
// its path, or as a copy where the file system knows none.
func (h *Home) Install(t testing.TB, program, name string) {
	t.Helper()
	from, to := filepath.Join(h.dist.dir, "bin", program), h.Path("bin", name)
	if err := os.MkdirAll(filepath.Dir(to), 0o700); err != nil {
		t.Fatal(err)
	}
	err := os.Link(from, to)
	if errors.Is(err, syscall.EXDEV) || errors.Is(err, syscall.EPERM) {
		err = copyFile(from, to)
	}
	if err != nil && !errors.Is(err, os.ErrExist) {
		t.Fatal(err)
	}
}

func copyFile(from, to string) error {
	in, err := os.Open(from)
	if err != nil {
		return err
	}
	defer in.Close()
	out, err := os.OpenFile(to, os.O_CREATE|os.O_EXCL|os.O_WRONLY, 0o700)
	if err != nil {
		return err
	}
	_, err = io.Copy(out, in)
	return errors.Join(err, out.Close())
}
