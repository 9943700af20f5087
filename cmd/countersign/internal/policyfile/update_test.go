package policyfile

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
	"time"
)

// An editor takes no lock. What it saves while a change is prepared is the text that the change is made of in the end, also when the lock
// is not to be had.
func TestWhatAnEditorSavesMeanwhileIsKept(t *testing.T) {
	t.Parallel()
	inPlace := func(path, text string) error { return os.WriteFile(path, []byte(text), 0o600) }
	renamed := func(path, text string) error {
		return errors.Join(os.WriteFile(path+".new", []byte(text), 0o600), os.Rename(path+".new", path))
	}
	for name, test := range map[string]struct {
		write  func(path, text string) error
		locked bool
	}{
		"in place":           {inPlace, false},
		"renamed into place": {renamed, false},
		"in place, while somebody keeps it locked": {inPlace, true},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			path := filepath.Join(t.TempDir(), "p.yaml")
			if err := test.write(path, "one\n"); err != nil {
				t.Fatal(err)
			}
			if test.locked {
				hold(t, path)
			}
			attempts, begin := 0, time.Now()
			done, err := update(t.Context(), path, func(text string) (string, error) {
				if attempts++; attempts <= 2 {
					if err := test.write(path, fmt.Sprintf("%ssave %d\n", text, attempts)); err != nil {
						t.Fatal(err)
					}
				}
				return text + "ours\n", nil
			})
			got, readErr := os.ReadFile(path)
			if err != nil || readErr != nil || string(got) != "one\nsave 1\nsave 2\nours\n" {
				t.Errorf("after %d attempts the file is %q (%v, %v)", attempts, got, err, readErr)
			}
			if took := time.Since(begin); done.unlocked != test.locked || took >= 3*lockBound { // not one wait an attempt
				t.Errorf("it took %v; without the lock: %v, want %v", took, done.unlocked, test.locked)
			}
		})
	}
}

// hold locks a file until the test ends, as anybody can who may read it.
func hold(t *testing.T, path string) {
	t.Helper()
	file, err := os.Open(path)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = file.Close() })
	if err := syscall.Flock(int(file.Fd()), syscall.LOCK_SH); err != nil {
		t.Fatal(err)
	}
}

// A link may be turned while a change is prepared, also to a file that says the same.
func TestALinkThatIsTurnedMeanwhileIsFollowed(t *testing.T) {
	t.Parallel()
	dir := t.TempDir()
	link, was, is := filepath.Join(dir, "p.yaml"), filepath.Join(dir, "was.yaml"), filepath.Join(dir, "is.yaml")
	if err := errors.Join(os.WriteFile(was, []byte("one\n"), 0o600), os.WriteFile(is, []byte("one\n"), 0o600), os.Symlink("was.yaml", link)); err != nil {
		t.Fatal(err)
	}
	attempts := 0
	_, err := update(t.Context(), link, func(text string) (string, error) {
		if attempts++; attempts == 1 {
			if err := errors.Join(os.Symlink("is.yaml", link+".new"), os.Rename(link+".new", link)); err != nil {
				t.Fatal(err)
			}
		}
		return text + "ours\n", nil
	})
	if err != nil || attempts != 2 {
		t.Errorf("after %d attempts: %v", attempts, err)
	}
	for path, want := range map[string]string{was: "one\n", is: "one\nours\n"} {
		if got, err := os.ReadFile(path); err != nil || string(got) != want {
			t.Errorf("%s is %q, want %q (%v)", path, got, want, err)
		}
	}
	if target, err := os.Readlink(link); err != nil || target != "is.yaml" {
		t.Errorf("the link leads to %q (%v)", target, err)
	}
}

// What writers leave behind that are killed is removed once it is surely nobody's, and nothing else is.
func TestLeftoversOfKilledWritersAreRemoved(t *testing.T) {
	t.Parallel()
	for name, test := range map[string]struct {
		file   string
		age    time.Duration
		locked bool
		stays  bool
	}{
		"an old one":                            {".p.yaml.countersign-123", 2 * staleAge, false, false},
		"that of a writer that may live":        {".p.yaml.countersign-123", staleAge / 2, false, true},
		"an old one, while the lock is not had": {".p.yaml.countersign-123", 2 * staleAge, true, true},
		"another file's":                        {".q.yaml.countersign-123", 2 * staleAge, false, true},
		"what is named almost like one":         {".p.yaml.countersign-123.bak", 2 * staleAge, false, true},
		"what has no number":                    {".p.yaml.countersign-", 2 * staleAge, false, true},
		"what is no temporary file":             {"p.yaml.bak", 2 * staleAge, false, true},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			dir := t.TempDir()
			path, other := filepath.Join(dir, "p.yaml"), filepath.Join(dir, test.file)
			then := time.Now().Add(-test.age)
			if err := errors.Join(os.WriteFile(path, nil, 0o600), os.WriteFile(other, nil, 0o600), os.Chtimes(other, then, then)); err != nil {
				t.Fatal(err)
			}
			if test.locked {
				hold(t, path)
			}
			if _, err := update(t.Context(), path, func(text string) (string, error) { return text + "ours\n", nil }); err != nil {
				t.Fatal(err)
			}
			if _, err := os.Stat(other); (err == nil) != test.stays {
				t.Errorf("it is %v afterwards, want it to stay: %v", err, test.stays)
			}
		})
	}
}

func TestAFileThatNeverRestsIsGivenUp(t *testing.T) {
	t.Parallel()
	path := filepath.Join(t.TempDir(), "p.yaml")
	if err := os.WriteFile(path, nil, 0o600); err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(t.Context())
	attempts := 0
	_, err := update(ctx, path, func(text string) (string, error) {
		if attempts++; attempts == 3 {
			cancel()
		}
		return text + "ours\n", os.WriteFile(path, []byte(text+"x"), 0o600)
	})
	if !errors.Is(err, context.Canceled) || attempts != 3 || !strings.Contains(err.Error(), "keeps changing") {
		t.Errorf("after %d attempts: %v", attempts, err)
	}
	entries, err := os.ReadDir(filepath.Dir(path))
	if err != nil || len(entries) != 1 {
		t.Errorf("beside the file there is more: %v (%v)", entries, err)
	}
}
