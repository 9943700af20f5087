package authz_test

import (
	"bytes"
	"context"
	"log/slog"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/spiffe/go-spiffe/v2/spiffeid"
	"google.golang.org/grpc"

	"github.com/countersign-mesh/countersign/pkg/authz"
)

const (
	post    = "/bank.ledger.v1.LedgerService/PostTransfer"
	inForce = time.Second // the promise: a change is in force within a second
)

var (
	payments = spiffeid.RequireFromString("spiffe://bank.test/payments")
	risk     = spiffeid.RequireFromString("spiffe://bank.test/risk")
)

// log is a buffer that a logger and a test can share.
type log struct {
	mu  sync.Mutex
	buf bytes.Buffer
}

func (l *log) Write(p []byte) (int, error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.buf.Write(p)
}

func (l *log) String() string {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.buf.String()
}

// watched opens a policy file with the given text and watches it until the test ends.
func watched(t *testing.T, text string) (path string, file *authz.File, out *log) {
	t.Helper()
	path = filepath.Join(t.TempDir(), "p.yaml")
	write(t, path, text)
	out = &log{}
	file, err := authz.Open(path, authz.WithFileLogger(slog.New(slog.NewTextHandler(out, nil))))
	if err != nil {
		t.Fatal(err)
	}
	watch(t, file)
	return path, file, out
}

func watch(t *testing.T, file *authz.File) {
	t.Helper()
	ctx, cancel := context.WithCancel(context.Background())
	done := make(chan error, 1)
	go func() { done <- file.Watch(ctx) }()
	t.Cleanup(func() {
		cancel()
		if err := <-done; err != nil {
			t.Errorf("Watch: %v", err)
		}
	})
}

func write(t *testing.T, path, text string) {
	t.Helper()
	if err := os.WriteFile(path, []byte(text), 0o600); err != nil {
		t.Fatal(err)
	}
}

// eventually waits until condition holds, at most for bound.
func eventually(t *testing.T, bound time.Duration, what string, condition func() bool) {
	t.Helper()
	timeout := time.After(bound)
	tick := time.NewTicker(5 * time.Millisecond)
	defer tick.Stop()
	for !condition() {
		select {
		case <-timeout:
			t.Fatalf("not within %v: %s", bound, what)
		case <-tick.C:
		}
	}
}

func allows(file *authz.File, peer spiffeid.ID) bool {
	return file.Policy().Decide(callOf(post, peer)).Allowed
}

func TestOpenRefusesAFileThatIsWrong(t *testing.T) {
	t.Parallel()
	dir := t.TempDir()
	if _, err := authz.Open(filepath.Join(dir, "missing.yaml")); err == nil || !strings.Contains(err.Error(), "missing.yaml") {
		t.Errorf("a missing file: %v", err)
	}
	path := filepath.Join(dir, "p.yaml")
	write(t, path, "services: 1\n")
	if _, err := authz.Open(path); err == nil || !strings.Contains(err.Error(), path+":1:") {
		t.Errorf("a wrong file: %v", err)
	}
}

func TestAChangeComesIntoForceWithinASecond(t *testing.T) {
	t.Parallel()
	replaced := strings.Replace(policyText, "/payments", "/risk", 1)
	for name, change := range map[string]func(t *testing.T, path string){
		"written in place": func(t *testing.T, path string) { write(t, path, replaced) },
		"renamed into place": func(t *testing.T, path string) {
			write(t, path+".new", replaced)
			if err := os.Rename(path+".new", path); err != nil {
				t.Fatal(err)
			}
		},
		"removed and made again": func(t *testing.T, path string) {
			if err := os.Remove(path); err != nil {
				t.Fatal(err)
			}
			write(t, path, replaced)
		},
		"written by halves": func(t *testing.T, path string) {
			write(t, path, replaced[:len(replaced)/2])
			write(t, path, replaced)
		},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			path, file, _ := watched(t, policyText)
			changed := file.Changed()
			change(t, path)
			eventually(t, inForce, "the new policy is in force", func() bool {
				return allows(file, risk) && !allows(file, payments)
			})
			<-changed
			if status := file.Status(); status.Version != file.Policy().Version() || status.Failure != nil {
				t.Errorf("Status = %+v", status)
			}
		})
	}
}

// A Kubernetes ConfigMap is a symlink to a symlink in the same directory, which is turned by a rename.
func TestAConfigMapIsWatched(t *testing.T) {
	t.Parallel()
	dir := t.TempDir()
	for version, text := range map[string]string{"v1": policyText, "v2": strings.Replace(policyText, "/payments", "/risk", 1)} {
		if err := os.Mkdir(filepath.Join(dir, version), 0o700); err != nil {
			t.Fatal(err)
		}
		write(t, filepath.Join(dir, version, "p.yaml"), text)
	}
	link := func(target, name string) {
		if err := os.Symlink(target, filepath.Join(dir, name)); err != nil {
			t.Fatal(err)
		}
	}
	link("v1", "..data")
	link(filepath.Join("..data", "p.yaml"), "p.yaml")
	file, err := authz.Open(filepath.Join(dir, "p.yaml"))
	if err != nil {
		t.Fatal(err)
	}
	watch(t, file)
	link("v2", "..tmp")
	if err := os.Rename(filepath.Join(dir, "..tmp"), filepath.Join(dir, "..data")); err != nil {
		t.Fatal(err)
	}
	eventually(t, inForce, "the new policy is in force", func() bool { return allows(file, risk) })
}

// ATTACKS 50: whatever becomes of the file, the last good policy stays.
func TestABrokenFileChangesNothing(t *testing.T) {
	t.Parallel()
	for name, test := range map[string]struct {
		breakIt func(t *testing.T, path string)
		logged  string
	}{
		"truncated": {func(t *testing.T, path string) { write(t, path, policyText[:60]) }, "p.yaml"},
		"empty":     {func(t *testing.T, path string) { write(t, path, "") }, "the file is empty"},
		"with a key twice": {
			func(t *testing.T, path string) { write(t, path, policyText+"trust_domain: evil.test\n") },
			"stands already in line 1",
		},
		"with an unknown field": {func(t *testing.T, path string) { write(t, path, policyText+"allow_all: true\n") }, "unknown field"},
		"missing": {func(t *testing.T, path string) {
			if err := os.Remove(path); err != nil {
				t.Fatal(err)
			}
		}, "no such file"},
		"a directory": {func(t *testing.T, path string) {
			if err := os.Remove(path); err != nil {
				t.Fatal(err)
			}
			if err := os.Mkdir(path, 0o700); err != nil {
				t.Fatal(err)
			}
		}, "is a directory"},
		"without rules for a method of this server": {func(t *testing.T, path string) {
			write(t, path, strings.Replace(policyText, "      Burn:\n        allow: []\n", "", 1))
		}, "the method Burn of bank.ledger.v1.LedgerService has no rules"},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			path, file, out := watched(t, policyText)
			services := map[string]grpc.ServiceInfo{"bank.ledger.v1.LedgerService": {Methods: []grpc.MethodInfo{
				{Name: "PostTransfer"}, {Name: "GetBalance"}, {Name: "Burn"},
			}}}
			if err := file.Require(services, true); err != nil {
				t.Fatal(err)
			}
			before := file.Policy()
			test.breakIt(t, path)
			eventually(t, 5*time.Second, "the failure is reported", func() bool { return file.Status().Failure != nil })
			if file.Policy() != before {
				t.Error("another policy is in force")
			}
			if got := file.Status().Failure.Error(); !strings.Contains(got, test.logged) {
				t.Errorf("the failure is %q, want it to say %q", got, test.logged)
			}
			if got := out.String(); strings.Count(got, "level=ERROR") != 1 || !strings.Contains(got, "stays in force") {
				t.Errorf("the log should have one error:\n%s", got)
			}

			if err := os.RemoveAll(path); err != nil {
				t.Fatal(err)
			}
			write(t, path, policyText)
			eventually(t, 5*time.Second, "the file that is mended is accepted", func() bool { return file.Status().Failure == nil })
		})
	}
}

func TestRequireRefusesAPolicyThatDoesNotCover(t *testing.T) {
	t.Parallel()
	_, file, _ := watched(t, policyText)
	err := file.Require(map[string]grpc.ServiceInfo{"bank.x.v1.X": {}}, true)
	if err == nil || !strings.Contains(err.Error(), "bank.x.v1.X") {
		t.Errorf("Require = %v", err)
	}
}

// One call sees one policy: whoever takes the policy once gets verdicts of one version, however often the file changes.
func TestDecisionsNeverMixVersions(t *testing.T) {
	t.Parallel()
	swapped := strings.Replace(policyText, "/payments", "/risk", 1)
	path, file, _ := watched(t, policyText)
	stop := make(chan struct{})
	var readers sync.WaitGroup
	for range 4 {
		readers.Go(func() {
			for {
				select {
				case <-stop:
					return
				default:
				}
				policy := file.Policy()
				if policy.Decide(callOf(post, payments)).Allowed == policy.Decide(callOf(post, risk)).Allowed {
					t.Error("one policy allowed both or neither")
					return
				}
			}
		})
	}
	for i := range 5 {
		text, now := swapped, risk
		if i%2 == 1 {
			text, now = policyText, payments
		}
		write(t, path, text)
		eventually(t, 5*time.Second, "the change is in force", func() bool { return allows(file, now) })
	}
	close(stop)
	readers.Wait()
}
