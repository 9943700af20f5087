package rundir_test

import (
	"errors"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/countersign-mesh/countersign/cmd/countersign/internal/rundir"
)

func at(t *testing.T, path string) rundir.Dir {
	t.Helper()
	dir, err := rundir.At(path)
	if err != nil {
		t.Fatal(err)
	}
	if err := dir.Create(); err != nil {
		t.Fatal(err)
	}
	return dir
}

// fresh is a directory that is not there yet: one of t.TempDir is open to others.
func fresh(t *testing.T) string {
	t.Helper()
	return filepath.Join(t.TempDir(), "run")
}

func TestADirectoryThatWasThereKeepsItsMode(t *testing.T) {
	t.Parallel()
	for name, test := range map[string]struct {
		mode os.FileMode
		want error
	}{
		"its owner's alone":     {0o700, nil},
		"others may enter":      {0o755, rundir.ErrNotPrivate},
		"its group may enter":   {0o710, rundir.ErrNotPrivate},
		"others may leave mail": {0o733, rundir.ErrNotPrivate},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			path := fresh(t)
			if err := os.Mkdir(path, 0o700); err != nil {
				t.Fatal(err)
			}
			if err := os.Chmod(path, test.mode); err != nil { // whatever the umask is
				t.Fatal(err)
			}
			dir, err := rundir.At(path)
			if err != nil {
				t.Fatal(err)
			}
			if err := dir.Create(); !errors.Is(err, test.want) || (err != nil && !strings.Contains(err.Error(), "chmod 700 "+path)) {
				t.Errorf("the error is %v, want %v", err, test.want)
			}
			if info, err := os.Stat(path); err != nil || info.Mode().Perm() != test.mode {
				t.Errorf("the mode is now %v, %v", info.Mode(), err)
			}
			entries, err := os.ReadDir(path)
			if err != nil || (len(entries) > 0) != (test.want == nil) {
				t.Errorf("in there are %v, %v", entries, err)
			}
		})
	}
}

func TestADirectoryThatIsMadeIsItsOwnersAlone(t *testing.T) {
	t.Parallel()
	dir := at(t, fresh(t))
	for _, path := range []string{dir.String(), dir.Data(), dir.Logs(), dir.Authority()} {
		if info, err := os.Stat(path); err != nil || info.Mode().Perm() != 0o700 {
			t.Errorf("%s: %v, %v", path, info, err)
		}
	}
}

func TestARecordIsReadAsItWasWritten(t *testing.T) {
	t.Parallel()
	dir := at(t, fresh(t))
	if _, err := dir.Read(); !errors.Is(err, rundir.ErrNoMesh) {
		t.Errorf("without a record: %v", err)
	}
	self, err := rundir.Identify(os.Getpid())
	if err != nil {
		t.Fatal(err)
	}
	want := rundir.Record{
		TrustDomain: "bank.test", WorkloadAPI: "unix:///run/api.sock", SVIDTTL: 2 * time.Minute, Supervisor: self,
		Programs: []rundir.Program{{Name: "ledger", SPIFFEID: "spiffe://bank.test/ledger", Started: time.Now().UTC().Round(0), Process: self}},
	}
	if err := dir.Write(want); err != nil {
		t.Fatal(err)
	}
	got, err := dir.Running()
	if err != nil {
		t.Fatal(err)
	}
	if diff := cmp.Diff(want, got); diff != "" {
		t.Errorf("the record differs (-want +got):\n%s", diff)
	}
	if p, ok := got.Find("ledger"); !ok || !p.Alive() {
		t.Errorf("ledger: %v, %v", p, ok)
	}
	if got.Socket() != "/run/api.sock" {
		t.Errorf("the socket is %s", got.Socket())
	}
}

func TestADamagedRecordIsAClearError(t *testing.T) {
	t.Parallel()
	dir := at(t, fresh(t))
	path := filepath.Join(dir.String(), "mesh.json")
	if err := os.WriteFile(path, []byte(`{"trust_domain":`), 0o600); err != nil {
		t.Fatal(err)
	}
	if _, err := dir.Read(); err == nil || !strings.Contains(err.Error(), path) {
		t.Errorf("the error is %v", err)
	}
}

func TestAMeshWithoutItsSupervisorIsNotRunning(t *testing.T) {
	t.Parallel()
	dir := at(t, fresh(t))
	if err := dir.Write(rundir.Record{Supervisor: rundir.Process{PID: os.Getpid(), StartTime: 1}}); err != nil {
		t.Fatal(err)
	}
	_, err := dir.Running()
	if !errors.Is(err, rundir.ErrNoMesh) || !strings.Contains(err.Error(), "countersign up") {
		t.Errorf("the error is %v", err)
	}
}

func TestAProcessThatEndedIsNotAlive(t *testing.T) {
	t.Parallel()
	cmd := exec.Command("cat")
	stdin, err := cmd.StdinPipe()
	if err != nil {
		t.Fatal(err)
	}
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	p, err := rundir.Identify(cmd.Process.Pid)
	if err != nil || !p.Alive() {
		t.Fatalf("the process is not alive: %v", err)
	}
	if err := stdin.Close(); err != nil {
		t.Fatal(err)
	}
	// It has ended but was not waited for: a zombie, which is not alive either.
	for deadline := time.Now().Add(20 * time.Second); p.Alive(); {
		if time.Now().After(deadline) {
			t.Fatal("a zombie counts as alive")
		}
	}
	if err := cmd.Wait(); err != nil {
		t.Error(err)
	}
	if err := p.Signal(9); err != nil {
		t.Errorf("signal to a process that ended: %v", err)
	}
}

func TestASocketFitsHoweverDeepTheDirectoryIs(t *testing.T) {
	t.Parallel()
	shallow, err := os.MkdirTemp("/tmp", "cs") //nolint:usetesting // t.TempDir is too deep for this
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = os.RemoveAll(shallow) })
	path, private, err := at(t, shallow).Socket()
	if err != nil || private != "" || !strings.HasPrefix(path, shallow) {
		t.Errorf("in a shallow directory: %s, %s, %v", path, private, err)
	}
	dir := at(t, filepath.Join(fresh(t), strings.Repeat("deep/", 20)))
	path, private, err = dir.Socket()
	if err != nil || len(path) > 103 || private == "" || filepath.Dir(path) != private {
		t.Fatalf("in a deep directory: %s, %s, %v", path, private, err)
	}
	if info, err := os.Stat(private); err != nil || info.Mode().Perm() != 0o700 {
		t.Errorf("the private directory: %v, %v", info.Mode(), err)
	}
	server := filepath.Join(private, "server.sock")
	for _, path := range []string{path, server} {
		if err := os.WriteFile(path, nil, 0o600); err != nil {
			t.Fatal(err)
		}
	}
	if err := dir.Forget(rundir.Record{WorkloadAPI: "unix://" + path, ServerSocket: server, SocketDir: private}); err != nil {
		t.Error(err)
	}
	if _, err := os.Stat(private); !errors.Is(err, os.ErrNotExist) {
		t.Errorf("the private directory is still there: %v", err)
	}
}

func TestThereIsRoomForTheSocketOfASPIREServerToo(t *testing.T) {
	t.Parallel()
	base, err := os.MkdirTemp("/tmp", "cs") //nolint:usetesting // t.TempDir is too deep for this
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = os.RemoveAll(base) })
	for n := 60; n < 90; n++ {
		path, private, err := at(t, filepath.Join(base, strings.Repeat("d", n))).Socket()
		if err != nil {
			t.Fatal(err)
		}
		if server := filepath.Join(filepath.Dir(path), "server.sock"); len(server) > 103 {
			t.Errorf("%s has %d bytes", server, len(server))
		}
		if private != "" {
			if err := os.RemoveAll(private); err != nil {
				t.Error(err)
			}
		}
	}
}

func TestOneHolderOfTheLock(t *testing.T) {
	t.Parallel()
	dir := at(t, fresh(t))
	first, err := dir.Lock()
	if err != nil {
		t.Fatal(err)
	}
	if _, err := dir.Lock(); !errors.Is(err, rundir.ErrLocked) {
		t.Errorf("a second holder: %v", err)
	}
	if err := first.Release(); err != nil {
		t.Fatal(err)
	}
	second, err := dir.Lock()
	if err != nil {
		t.Fatal(err)
	}
	if err := second.Release(); err != nil {
		t.Error(err)
	}
}

func TestAReaderSeesAFileWhole(t *testing.T) {
	t.Parallel()
	path := filepath.Join(t.TempDir(), "file")
	contents := []string{strings.Repeat("a", 1<<16), strings.Repeat("b", 1<<10)}
	if err := rundir.WriteFile(path, []byte(contents[0])); err != nil {
		t.Fatal(err)
	}
	var writer sync.WaitGroup
	writer.Go(func() {
		for i := range 200 {
			if err := rundir.WriteFile(path, []byte(contents[i%2])); err != nil {
				t.Error(err)
			}
		}
	})
	for range 200 {
		data, err := os.ReadFile(path)
		if err != nil || (string(data) != contents[0] && string(data) != contents[1]) {
			t.Errorf("read %d bytes of neither content: %v", len(data), err)
		}
	}
	writer.Wait()
	if info, err := os.Stat(path); err != nil || info.Mode().Perm() != 0o600 {
		t.Errorf("the mode is %v, %v", info.Mode(), err)
	}
}
