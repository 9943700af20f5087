package policyfile_test

import (
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"sync/atomic"
	"testing"

	"github.com/countersign-mesh/countersign/cmd/countersign/internal/policyfile"
)

// alone fails unless a directory has nothing but one file.
func alone(t *testing.T, path string) {
	t.Helper()
	if entries, err := os.ReadDir(filepath.Dir(path)); err != nil || len(entries) != 1 {
		t.Errorf("beside %s there is more: %v (%v)", path, entries, err)
	}
}

func TestAPolicyIsInstalledWhereThereIsNone(t *testing.T) {
	t.Parallel()
	path := filepath.Join(t.TempDir(), "bank.yaml")
	installed, err := policyfile.Install(path, "one")
	if err != nil || !installed || read(t, path) != "one" {
		t.Errorf("%t, %v: %q", installed, err, read(t, path))
	}
	if info, err := os.Stat(path); err != nil || info.Mode().Perm() != 0o644 {
		t.Errorf("it has mode %v, %v", info.Mode(), err)
	}
	if installed, err = policyfile.Install(path, "two"); err != nil || installed || read(t, path) != "one" {
		t.Errorf("where there is one: %t, %v: %q", installed, err, read(t, path))
	}
	alone(t, path)
	if _, err := policyfile.Install(filepath.Join(t.TempDir(), "no", "bank.yaml"), "one"); err == nil || !strings.Contains(err.Error(), "install the policy") {
		t.Errorf("without a directory: %v", err)
	}
}

func TestOfManyAtOnceOneInstallsItsPolicyWhole(t *testing.T) {
	t.Parallel()
	path := filepath.Join(t.TempDir(), "bank.yaml")
	texts := make([]string, 8)
	var winner atomic.Int32
	var wins atomic.Int32
	var writing, reading sync.WaitGroup
	done := make(chan struct{})
	for i := range texts {
		texts[i] = strings.Repeat(fmt.Sprintf("%d\n", i), 100_000)
	}
	reading.Go(func() {
		for {
			data, err := os.ReadFile(path)
			if err == nil && len(data) != len(texts[0]) {
				t.Errorf("a reader saw %d bytes", len(data))
				return
			}
			select {
			case <-done:
				return
			default:
			}
		}
	})
	for i, text := range texts {
		writing.Go(func() {
			installed, err := policyfile.Install(path, text)
			if err != nil {
				t.Error(err)
			}
			if installed {
				wins.Add(1)
				winner.Store(int32(i))
			}
		})
	}
	writing.Wait()
	close(done)
	reading.Wait()
	if wins.Load() != 1 || read(t, path) != texts[winner.Load()] {
		t.Errorf("%d have installed theirs", wins.Load())
	}
	alone(t, path)
}
