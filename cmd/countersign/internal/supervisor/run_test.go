package supervisor

import (
	"context"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/countersign-mesh/countersign/cmd/countersign/internal/rundir"
)

// running runs a mesh in the background until it is ready. The function that is returned stops it and returns what Run did.
func running(t *testing.T, m *Mesh, hurry <-chan struct{}) (*onlooker, func() error) {
	t.Helper()
	ctx, cancel := context.WithCancel(t.Context())
	look, result := &onlooker{}, make(chan error, 1)
	go func() { result <- m.Run(ctx, hurry, look.events()) }()
	eventually(t, "ready", func() bool { return look.ready.Load() != nil || len(result) > 0 })
	return look, func() error { cancel(); return <-result }
}

// nothingLeft fails the test when a mesh left a process, its socket or its record behind.
func nothingLeft(t *testing.T, dir rundir.Dir, r rundir.Record) {
	t.Helper()
	for _, p := range r.Programs {
		if p.Alive() {
			t.Errorf("%s still runs", p.Name)
		}
	}
	if _, err := os.Lstat(r.Socket()); !errors.Is(err, os.ErrNotExist) {
		t.Errorf("the socket is still there: %v", err)
	}
	if _, err := dir.Read(); !errors.Is(err, rundir.ErrNoMesh) {
		t.Errorf("the record is still there: %v", err)
	}
	lock, err := dir.Lock()
	if err != nil {
		t.Fatal(err)
	}
	if err := lock.Release(); err != nil {
		t.Error(err)
	}
}

func TestAMeshStartsAndStopsWithNothingLeft(t *testing.T) {
	t.Parallel()
	dir := tempDir(t)
	m := fakeMesh(t, dir, map[string][]string{"back": {"say=hello"}})
	look, stop := running(t, m, nil)
	record, err := dir.Running()
	if err != nil {
		t.Fatal(err)
	}
	for _, s := range *look.ready.Load() {
		if s.State != StateReady || s.ReadyAfter <= 0 || !s.Alive() {
			t.Errorf("%s: state %s, ready after %v", s.Name, s.State, s.ReadyAfter)
		}
		if s.SPIFFEID != "" && s.SVIDExpires.Unix() != 1_800_000_000 {
			t.Errorf("%s: SVID expires %v", s.Name, s.SVIDExpires)
		}
		if runtime.GOOS == "linux" && s.Resident < 1<<20 {
			t.Errorf("%s: resident memory of %d bytes", s.Name, s.Resident)
		}
	}
	if !record.Ready || len(record.Programs) != 3 {
		t.Errorf("the record says ready: %v, with %d programs", record.Ready, len(record.Programs))
	}
	if err := stop(); err != nil {
		t.Errorf("stop: %v", err)
	}
	nothingLeft(t, dir, record)
	stopped, err := os.ReadFile(filepath.Join(dir.String(), "stopped"))
	if diff := cmp.Diff("front\nback\nauthority\n", string(stopped)); err != nil || diff != "" {
		t.Errorf("stopped in another order (-want +got):\n%s%v", diff, err)
	}
	if diff := cmp.Diff([]string{"back: hello"}, look.lines); diff != "" {
		t.Errorf("other lines were shown (-want +got):\n%s", diff)
	}
	if log, err := os.ReadFile(dir.Log("back")); string(log) != "hello\n" {
		t.Errorf("the log has %q, %v", log, err)
	}
}

func TestAProgramThatCrashesEndsTheMesh(t *testing.T) {
	t.Parallel()
	t.Run("before it was ready", func(t *testing.T) {
		t.Parallel()
		dir := tempDir(t)
		m := fakeMesh(t, dir, map[string][]string{"back": {"say=no such table", "exit=7"}})
		err := m.Run(t.Context(), nil, (&onlooker{}).events())
		want := "back ended (exit status 7); its last lines, all of them in " + dir.Log("back") + ":\n    no such table"
		if err == nil || err.Error() != want {
			t.Errorf("the error is\n%v\nwant\n%s", err, want)
		}
		nothingLeft(t, dir, m.record)
	})
	t.Run("afterwards", func(t *testing.T) {
		t.Parallel()
		dir := tempDir(t)
		trigger := filepath.Join(dir.String(), "now")
		m := fakeMesh(t, dir, map[string][]string{"front": {"exit-on=" + trigger}})
		ctx, cancel := context.WithCancel(t.Context())
		defer cancel()
		look, result := &onlooker{}, make(chan error, 1)
		go func() { result <- m.Run(ctx, nil, look.events()) }()
		eventually(t, "ready", func() bool { return look.ready.Load() != nil })
		if err := os.WriteFile(trigger, nil, 0o600); err != nil {
			t.Fatal(err)
		}
		crash, ok := errors.AsType[*CrashError](<-result)
		if !ok || crash.Program != "front" || !strings.Contains(crash.Error(), "the sky is falling") {
			t.Errorf("the error is %v", crash)
		}
		nothingLeft(t, dir, m.record)
	})
}

func TestAMeshThatDoesNotGetReadySaysWhy(t *testing.T) {
	t.Parallel()
	dir := tempDir(t)
	m := fakeMesh(t, dir, map[string][]string{"back": {"unready=locked by another process"}})
	m.settings.StartTimeout = 3 * time.Second
	err := m.Run(t.Context(), nil, (&onlooker{}).events())
	if err == nil || err.Error() != "back is not ready after 3s: database: locked by another process" {
		t.Errorf("the error is %v", err)
	}
	nothingLeft(t, dir, m.record)
}

func TestAMeshIsStoppedBeforeItIsReady(t *testing.T) {
	t.Parallel()
	dir := tempDir(t)
	m := fakeMesh(t, dir, map[string][]string{"front": {"unready=for ever"}})
	ctx, cancel := context.WithCancelCause(t.Context())
	result := make(chan error, 1)
	go func() { result <- m.Run(ctx, nil, (&onlooker{}).events()) }()
	eventually(t, "all started", func() bool { r, err := dir.Read(); return err == nil && len(r.Programs) == 3 })
	cancel(errors.New("interrupt"))
	if err := <-result; !errors.Is(err, ErrInterrupted) {
		t.Errorf("the error is %v", err)
	}
	nothingLeft(t, dir, m.record)
}

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

func TestAReaderThatStallsStopsNobody(t *testing.T) {
	t.Parallel()
	dir, release := tempDir(t), make(chan struct{})
	defer close(release)
	m := fakeMesh(t, dir, map[string][]string{"back": {"say=" + strings.Repeat("x\n", 60_000)}}) // more than pipe and queue hold
	ctx, cancel := context.WithCancel(t.Context())
	defer cancel()
	result := make(chan error, 1)
	go func() {
		result <- m.Run(ctx, nil, Events{Line: func(string, string) { <-release }, Ready: func([]Status) {}})
	}()
	eventually(t, "ready", func() bool { r, err := dir.Running(); return err == nil && r.Ready })
	cancel()
	eventually(t, "the end", func() bool { return len(result) > 0 })
	if err := <-result; err != nil {
		t.Error(err)
	}
}

func TestLinesThatWereDroppedAreCounted(t *testing.T) {
	t.Parallel()
	release, last := make(chan struct{}), ""
	f := newFeed(func(_, line string) { <-release; last = line })
	for range 3 * feedLength {
		f.add("back", "line")
	}
	f.mu.Lock()
	dropped := f.dropped
	f.mu.Unlock()
	close(release)
	f.close()
	if want := fmt.Sprintf("%d lines were dropped", dropped); dropped < feedLength || !strings.Contains(last, want) {
		t.Errorf("the last line is %q, want %q in it", last, want)
	}
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

func TestARunDirectoryHasOneMesh(t *testing.T) {
	t.Parallel()
	dir := tempDir(t)
	_, stop := running(t, fakeMesh(t, dir, nil), nil)
	_, err := take(dir)
	if !errors.Is(err, rundir.ErrLocked) || !strings.Contains(err.Error(), "countersign down") {
		t.Errorf("a second mesh got: %v", err)
	}
	if err := stop(); err != nil {
		t.Error(err)
	}
}

func TestDetachReturnsWhenTheMeshIsReadyOrFailed(t *testing.T) {
	t.Parallel()
	t.Run("ready", func(t *testing.T) {
		t.Parallel()
		dir := tempDir(t)
		if err := Detach(t.Context(), dir, []string{roleDetached, dir.String()}); err != nil {
			t.Fatal(err)
		}
		record, err := dir.Running()
		if err != nil || !record.Ready {
			t.Fatalf("the mesh is not ready: %v", err)
		}
		if was, err := Down(t.Context(), dir, 20*time.Second); !was || err != nil {
			t.Errorf("down: %v, %v", was, err)
		}
		nothingLeft(t, dir, record)
	})
	t.Run("failed", func(t *testing.T) {
		t.Parallel()
		dir := tempDir(t)
		err := Detach(t.Context(), dir, []string{roleDetached, dir.String(), "say=disk full", "exit=7"})
		if err == nil || !strings.Contains(err.Error(), "front ended (exit status 7)") || !strings.Contains(err.Error(), "disk full") {
			t.Errorf("the error is %v", err)
		}
		nothingLeft(t, dir, rundir.Record{WorkloadAPI: "unix://" + filepath.Join(dir.String(), "api", "api.sock")})
	})
	t.Run("died without a word", func(t *testing.T) {
		t.Parallel()
		dir := tempDir(t)
		err := Detach(t.Context(), dir, []string{roleDetached, dir.String(), "die"})
		if err == nil || !strings.Contains(err.Error(), "exit status 3") || !strings.Contains(err.Error(), "out of luck") {
			t.Errorf("the error is %v", err)
		}
	})
}
