package rules_test

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

	"github.com/prometheus/client_golang/prometheus/testutil"
	"go.uber.org/goleak"

	"github.com/countersign-mesh/countersign/services/risk/internal/rules"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

const bound = 20 * time.Second // the promise is a second; a machine that does ten things at once takes longer

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

// watched opens a file with the good rules and watches it until the test ends.
func watched(t *testing.T) (string, *rules.File, *log) {
	t.Helper()
	path := filepath.Join(t.TempDir(), "rules.yaml")
	write(t, path, good)
	file, err := rules.Open(path)
	if err != nil {
		t.Fatal(err)
	}
	out := &log{}
	ctx, cancel := context.WithCancel(context.Background())
	done := make(chan error, 1)
	go func() { done <- file.Watch(ctx, slog.New(slog.NewTextHandler(out, nil))) }()
	t.Cleanup(func() {
		cancel()
		if err := <-done; err != nil {
			t.Errorf("Watch: %v", err)
		}
	})
	return path, file, out
}

func write(t *testing.T, path, text string) {
	t.Helper()
	if err := os.WriteFile(path, []byte(text), 0o600); err != nil {
		t.Fatal(err)
	}
}

func eventually(t *testing.T, what string, condition func() bool) {
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

func holdAbove(f *rules.File) int64 { return f.Rules().Ceilings["EUR"].HoldAbove }

func TestAChangeComesIntoForce(t *testing.T) {
	t.Parallel()
	changed := strings.Replace(good, "500000", "400000", 1)
	for name, change := range map[string]func(t *testing.T, path string){
		"written in place": func(t *testing.T, path string) {
			t.Helper()
			write(t, path, changed)
		},
		"renamed into place": func(t *testing.T, path string) {
			t.Helper()
			write(t, path+".new", changed)
			if err := os.Rename(path+".new", path); err != nil {
				t.Fatal(err)
			}
		},
		"written by halves": func(t *testing.T, path string) {
			t.Helper()
			write(t, path, changed[:len(changed)/2])
			write(t, path, changed)
		},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			path, file, out := watched(t)
			before := file.Status()
			start := time.Now()
			change(t, path)
			eventually(t, "the new rules are in force", func() bool { return holdAbove(file) == 400000 })
			t.Logf("in force after %v", time.Since(start))
			eventually(t, "it is logged", func() bool {
				return strings.Contains(out.String(), "new rules are in force") && strings.Contains(out.String(), "replaced="+before.Version)
			})
			after := file.Status()
			if after.Failure != nil || after.Version == before.Version || after.Version != file.Rules().Version || after.Loaded.Before(before.Loaded) {
				t.Errorf("Status = %+v, before %+v", after, before)
			}
		})
	}
}

func TestAFileThatIsNotUsableChangesNothing(t *testing.T) {
	t.Parallel()
	for name, test := range map[string]struct {
		change func(path string) error
		want   []string
	}{
		"cut short": {
			func(path string) error {
				half, _, _ := strings.Cut(good, "blocked_payees")
				return os.WriteFile(path, []byte(half), 0o600)
			},
			[]string{`rules.yaml:2:1: the file lacks the field \"blocked_payees\"`},
		},
		"cut within a line": {
			func(path string) error { return os.WriteFile(path, []byte(good[:len(good)*2/3]), 0o600) },
			[]string{"rules.yaml: yaml: line 7"},
		},
		"empty": {
			func(path string) error { return os.WriteFile(path, nil, 0o600) }, []string{"rules.yaml:1:1: the file is empty"},
		},
		"away": {os.Remove, []string{"no such file"}},
		"a folder in its place": {
			func(path string) error {
				if err := os.Remove(path); err != nil {
					return err
				}
				return os.Mkdir(path, 0o700)
			},
			[]string{"is a directory"},
		},
		"wrong in two places": {
			func(path string) error {
				text := strings.NewReplacer("hold_above: 500000", "hold_above: 5000.00", "window: 1m", "window: soon").Replace(good)
				return os.WriteFile(path, []byte(text), 0o600)
			},
			[]string{"rules.yaml:3:21: ", "rules.yaml:5:28: "},
		},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			path, file, out := watched(t)
			before := file.Status().Version
			if err := test.change(path); err != nil {
				t.Fatal(err)
			}
			eventually(t, "the failure is known", func() bool { return file.Status().Failure != nil })
			for _, want := range append(test.want, "the last good rules stay in force", "version="+before, path) {
				if !strings.Contains(out.String(), want) {
					t.Errorf("the log does not say %q:\n%s", want, out)
				}
			}
			if s := file.Status(); s.Version != before || holdAbove(file) != 500000 || s.Failures == 0 {
				t.Errorf("Status = %+v", s)
			}
			if err := os.RemoveAll(path); err != nil {
				t.Fatal(err)
			}
			write(t, path, good)
			eventually(t, "the file is back", func() bool { return file.Status().Failure == nil })
			if s := file.Status(); s.Version != before || s.Failures == 0 {
				t.Errorf("Status = %+v", s)
			}
		})
	}
}

// An assessment sees one version: what Rules has returned does not change when the file does.
func TestRulesThatWereTakenDoNotChange(t *testing.T) {
	t.Parallel()
	path, file, _ := watched(t)
	taken := file.Rules()
	write(t, path, strings.NewReplacer("500000", "400000", "1m", "2m").Replace(good))
	eventually(t, "the new rules are in force", func() bool { return holdAbove(file) == 400000 })
	if taken.Ceilings["EUR"].HoldAbove != 500000 || taken.Limits[0].Window != time.Minute || taken.Version == file.Rules().Version {
		t.Errorf("what was taken before is now %+v", taken)
	}
}

func TestMetricsTellHowTheFileStands(t *testing.T) {
	t.Parallel()
	path, file, _ := watched(t)
	write(t, path, "")
	eventually(t, "the failure is known", func() bool { return file.Status().Failure != nil })
	want := `
# HELP risk_rules_failures_total Rules files that were not usable; the last good rules stayed in force.
# TYPE risk_rules_failures_total counter
risk_rules_failures_total 1
# HELP risk_rules_info 1, with the version of the rules in force.
# TYPE risk_rules_info gauge
risk_rules_info{version="` + file.Rules().Version + `"} 1
# HELP risk_rules_stale 1 while the rules file as it is now is not the one in force.
# TYPE risk_rules_stale gauge
risk_rules_stale 1
`
	metrics := rules.NewMetrics(file)
	if err := testutil.CollectAndCompare(metrics, strings.NewReader(want), "risk_rules_failures_total", "risk_rules_info", "risk_rules_stale"); err != nil {
		t.Error(err)
	}
	if n := testutil.CollectAndCount(metrics); n != 4 {
		t.Errorf("%d series, want 4", n)
	}
}
