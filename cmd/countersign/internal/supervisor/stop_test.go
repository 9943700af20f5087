package supervisor

import (
	"context"
	"errors"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"syscall"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/countersign-mesh/countersign/cmd/countersign/internal/rundir"
)

func TestAProgramThatDoesNotStopIsKilled(t *testing.T) {
	t.Parallel()
	t.Run("when the time is over", func(t *testing.T) {
		t.Parallel()
		dir := tempDir(t)
		m := fakeMesh(t, dir, map[string][]string{"front": {"deaf"}})
		m.settings.StopTimeout = 300 * time.Millisecond
		_, stop := running(t, m, nil)
		if err := stop(); err != nil {
			t.Error(err)
		}
		nothingLeft(t, dir, m.record)
	})
	t.Run("at once in a hurry", func(t *testing.T) {
		t.Parallel()
		dir, hurry := tempDir(t), make(chan struct{})
		m := fakeMesh(t, dir, map[string][]string{"front": {"deaf"}})
		m.settings.StopTimeout = time.Hour
		_, stop := running(t, m, hurry)
		close(hurry)
		if err := stop(); err != nil {
			t.Error(err)
		}
		nothingLeft(t, dir, m.record)
	})
}

func TestATierThatHangsLeavesTheOthersTimeToStop(t *testing.T) {
	t.Parallel()
	dir := tempDir(t)
	m := fakeMesh(t, dir, map[string][]string{"front": {"deaf"}, "back": {"slow"}, "authority": {"slow"}})
	m.settings.StopTimeout = 6 * time.Second
	_, stop := running(t, m, nil)
	if err := stop(); err != nil {
		t.Error(err)
	}
	stopped, err := os.ReadFile(filepath.Join(dir.String(), "stopped"))
	if diff := cmp.Diff("back\nauthority\n", string(stopped)); err != nil || diff != "" {
		t.Errorf("others stopped by themselves (-want +got):\n%s%v", diff, err)
	}
}

func TestKillingTheSupervisorLeavesNoOrphan(t *testing.T) {
	t.Parallel()
	if runtime.GOOS != "linux" {
		t.Skip("only Linux ends a child with its parent")
	}
	dir := tempDir(t)
	record := killSupervisor(t, dir)
	for _, p := range record.Programs {
		eventually(t, "the end of "+p.Name, func() bool { return !p.Alive() })
	}
	if _, err := dir.Running(); !errors.Is(err, rundir.ErrNoMesh) {
		t.Errorf("a mesh without its supervisor counts as running: %v", err)
	}
	if was, err := Down(t.Context(), dir, time.Second); !was || err != nil {
		t.Errorf("down: %v, %v", was, err)
	}
	nothingLeft(t, dir, record)
}

// killSupervisor runs a mesh under a supervisor of its own and kills that once it is ready.
func killSupervisor(t *testing.T, dir rundir.Dir) rundir.Record {
	t.Helper()
	cmd := exec.Command(os.Args[0], roleSupervisor, dir.String())
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { // t.Context has ended by now; where the test passed there is nothing left to end
		if _, err := Down(context.Background(), dir, time.Second); err != nil {
			t.Error(err)
		}
	})
	var record rundir.Record
	eventually(t, "ready", func() (ready bool) {
		r, err := dir.Read()
		record = r
		return err == nil && r.Ready
	})
	if err := cmd.Process.Kill(); err != nil {
		t.Fatal(err)
	}
	_ = cmd.Wait() // it was killed
	return record
}

func TestDownEndsWhatIsRecordedAndNobodyElse(t *testing.T) {
	t.Parallel()
	dir := tempDir(t)
	if err := dir.Create(); err != nil {
		t.Fatal(err)
	}
	orphan, orphanDone := sleeper(t)
	stranger, strangerDone := sleeper(t)
	reused := stranger
	reused.StartTime-- // the recorded process had this ID before
	dead := rundir.Process{PID: stranger.PID, StartTime: 1}
	record := rundir.Record{Supervisor: dead, Programs: []rundir.Program{{Name: "orphan", Process: orphan}, {Name: "gone", Process: reused}}}
	if err := dir.Write(record); err != nil {
		t.Fatal(err)
	}
	if was, err := Down(t.Context(), dir, time.Second); !was || err != nil {
		t.Errorf("down: %v, %v", was, err)
	}
	orphanDone()
	if !stranger.Alive() {
		t.Error("a process was ended that only has the ID of one recorded")
	}
	if err := stranger.Signal(syscall.SIGKILL); err != nil {
		t.Error(err)
	}
	strangerDone()
	if was, err := Down(t.Context(), dir, time.Second); was || err != nil {
		t.Errorf("down of nothing: %v, %v", was, err)
	}
}

// sleeper starts a process that ends when it is told to. ended waits for its end.
func sleeper(t *testing.T) (p rundir.Process, ended func()) {
	t.Helper()
	cmd := exec.Command(os.Args[0], roleProgram, "ops=127.0.0.1:0")
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	p, err := rundir.Identify(cmd.Process.Pid)
	if err != nil {
		t.Fatal(err)
	}
	done := make(chan struct{})
	go func() { defer close(done); _ = cmd.Wait() }() // how it ended does not matter
	return p, func() { <-done }
}
