package supervisor

import (
	"context"
	"errors"
	"net"
	"os"
	"path/filepath"
	"runtime"
	"slices"
	"strconv"
	"strings"
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

func TestWhatServesTheWorkloadAPIStartsOneAfterAnother(t *testing.T) {
	t.Parallel()
	dir := tempDir(t)
	m := fakeMesh(t, dir, nil)
	server := m.programs[0]
	server.Name, server.Args = "server", append(slices.Clip(server.Args), "name=server", "socket=", "ops=127.0.0.1:"+portOf(t, m, 3))
	server.OpsAddress = "127.0.0.1:" + portOf(t, m, 3)
	m.programs = append([]Program{server}, m.programs...)
	var before []string
	m.programs[1].Before = func(ctx context.Context) (string, error) {
		r, err := dir.Read()
		for _, p := range r.Programs {
			before = append(before, p.Name)
		}
		for _, address := range []string{m.programs[1].OpsAddress, m.programs[2].OpsAddress} {
			l, taken := (&net.ListenConfig{}).Listen(ctx, "tcp4", address)
			if taken == nil {
				t.Errorf("%s could be taken before its program started", address)
				err = errors.Join(err, l.Close())
			}
		}
		return "three entries are somebody else's", err
	}
	_, stop := running(t, m, nil)
	log, err := os.ReadFile(dir.Log("authority"))
	if err != nil {
		t.Error(err)
	}
	if first, _, _ := strings.Cut(string(log), "\n"); first != "three entries are somebody else's" {
		t.Errorf("the log of what starts second begins with %q, and not with what was done before", first)
	}
	if err := stop(); err != nil {
		t.Error(err)
	}
	if diff := cmp.Diff([]string{"server"}, before); diff != "" {
		t.Errorf("others ran before the authority started (-want +got):\n%s", diff)
	}
}

func TestWhatFailsBeforeAProgramStartsEndsTheMesh(t *testing.T) {
	t.Parallel()
	dir := tempDir(t)
	m := fakeMesh(t, dir, nil)
	fault := errors.New("no entry was accepted")
	m.programs[0].Before = func(context.Context) (string, error) { return "", fault }
	err := m.Run(t.Context(), nil, (&onlooker{}).events())
	if !errors.Is(err, fault) || !strings.Contains(err.Error(), "before authority starts") {
		t.Errorf("the error is %v", err)
	}
	nothingLeft(t, dir, m.record)
}

func portOf(t *testing.T, m *Mesh, service int) string {
	t.Helper()
	return strconv.Itoa(m.ports.ports[opsOffset+service])
}
