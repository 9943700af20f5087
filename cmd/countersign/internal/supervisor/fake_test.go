package supervisor

import (
	"context"
	"errors"
	"fmt"
	"net"
	"net/http"
	"os"
	"os/signal"
	"path/filepath"
	"strings"
	"sync"
	"sync/atomic"
	"syscall"
	"testing"
	"time"

	"go.uber.org/goleak"

	"github.com/countersign-mesh/countersign/cmd/countersign/internal/rundir"
)

// The test binary plays the programs of a mesh too: TestMain looks at its first argument.
const (
	roleProgram    = "role:program"
	roleSupervisor = "role:supervisor"
	roleDetached   = "role:detached"
)

func TestMain(m *testing.M) {
	role := ""
	if len(os.Args) > 1 {
		role = os.Args[1]
	}
	switch role {
	case roleProgram:
		os.Exit(playProgram(os.Args[2:]))
	case roleSupervisor:
		os.Exit(playSupervisor(os.Args[2]))
	case roleDetached:
		os.Exit(playDetached(os.Args[2:]))
	default:
		goleak.VerifyTestMain(m)
	}
}

// playProgram is a program that does what its arguments say: ops=ADDRESS serves /readyz and /metrics, socket=PATH a unix socket,
// stopped=FILE has it note its name when it is told to stop, say=TEXT writes a line, exit=CODE ends it at once, exit-on=FILE when
// the file appears, unready=REASON never is ready, deaf does not hear SIGTERM,
// slow takes its time to stop.
func playProgram(args []string) int {
	ctx, stop := signal.NotifyContext(context.Background(), syscall.SIGTERM)
	defer stop()
	options := make(map[string]string)
	for _, arg := range args {
		key, value, _ := strings.Cut(arg, "=")
		options[key] = value
	}
	if text, ok := options["say"]; ok {
		fmt.Println(text)
	}
	if options["exit"] != "" {
		return 7
	}
	if path := options["socket"]; path != "" {
		if _, err := net.Listen("unix", path); err != nil {
			fmt.Println(err)
			return 1
		}
	}
	go serveOps(options)
	for ctx.Err() == nil {
		if path := options["exit-on"]; path != "" {
			if _, err := os.Stat(path); err == nil {
				fmt.Println("the sky is falling")
				return 9
			}
		}
		select {
		case <-ctx.Done():
		case <-time.After(5 * time.Millisecond):
		}
	}
	if _, deaf := options["deaf"]; deaf {
		select {}
	}
	if _, slow := options["slow"]; slow {
		<-time.After(100 * time.Millisecond)
	}
	if path := options["stopped"]; path != "" {
		file, err := os.OpenFile(path, os.O_CREATE|os.O_APPEND|os.O_WRONLY, 0o600)
		if err == nil {
			_, _ = fmt.Fprintln(file, options["name"])
			_ = file.Close()
		}
	}
	return 0
}

func serveOps(options map[string]string) {
	err := http.ListenAndServe(options["ops"], http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		switch {
		case r.URL.Path == "/metrics":
			_, _ = fmt.Fprintf(w, "# TYPE %s gauge\n%s 1.8e+09\n", expiryMetric, expiryMetric)
		case options["unready"] != "":
			w.WriteHeader(http.StatusServiceUnavailable)
			_, _ = fmt.Fprintf(w, `{"database":%q,"identity":"ok"}`, options["unready"])
		default:
			_, _ = fmt.Fprint(w, `{"identity":"ok"}`)
		}
	}))
	fmt.Println(err)
}

// fakeMesh is a mesh of fake programs in a directory of its own: an authority, a back and a front. extra are arguments for
// single programs.
func fakeMesh(t testing.TB, dir rundir.Dir, extra map[string][]string) *Mesh {
	t.Helper()
	m, err := newFakeMesh(dir, extra)
	if err != nil {
		t.Fatal(err)
	}
	return m
}

func newFakeMesh(dir rundir.Dir, extra map[string][]string) (*Mesh, error) {
	if err := dir.Create(); err != nil {
		return nil, err
	}
	lock, err := take(dir)
	if err != nil {
		return nil, err
	}
	self, err := rundir.Identify(os.Getpid())
	if err != nil {
		return nil, err
	}
	socket, private, err := dir.Socket()
	if err != nil {
		return nil, err
	}
	ports, err := reserve(context.Background(), 0, offsets(embedded{}))
	if err != nil {
		return nil, err
	}
	m := &Mesh{
		begin: time.Now(), lock: lock, ports: ports,
		settings: Settings{Dir: dir, StartTimeout: 20 * time.Second, StopTimeout: 20 * time.Second},
		record:   rundir.Record{WorkloadAPI: "unix://" + socket, SocketDir: private, Supervisor: self},
	}
	for tier, name := range []string{"authority", "back", "front"} {
		ops := fmt.Sprintf("127.0.0.1:%d", ports.ports[opsOffset+tier])
		args := []string{roleProgram, "name=" + name, "ops=" + ops, "stopped=" + filepath.Join(dir.String(), "stopped")}
		p := Program{Name: name, OpsAddress: ops, Path: os.Args[0], Args: append(args, extra[name]...), Tier: tier}
		if tier == 0 {
			p.Args = append(p.Args, "socket="+socket)
		} else {
			p.SPIFFEID = "spiffe://bank.test/" + name
		}
		m.programs = append(m.programs, p)
	}
	return m, errors.Join(dir.Write(m.record))
}

// playSupervisor runs a fake mesh until it is killed.
func playSupervisor(path string) int {
	dir, err := rundir.At(path)
	if err != nil {
		return 1
	}
	m, err := newFakeMesh(dir, map[string][]string{"front": {"deaf"}})
	if err != nil {
		fmt.Println(err)
		return 1
	}
	err = m.Run(context.Background(), nil, Events{Line: func(string, string) {}, Ready: func([]Status) {}})
	fmt.Println(err)
	return 1
}

// playDetached is the background side of Detach; its arguments are the run directory and those of the program front.
func playDetached(args []string) int {
	ctx, stop := signal.NotifyContext(context.Background(), syscall.SIGTERM)
	defer stop()
	report := OpenReport()
	dir, err := rundir.At(args[0])
	if err != nil {
		return 1
	}
	if len(args) > 1 && args[1] == "die" {
		fmt.Println("out of luck")
		return 3
	}
	m, err := newFakeMesh(dir, map[string][]string{"front": args[1:]})
	if err == nil {
		err = m.Run(ctx, nil, Events{Line: func(string, string) {}, Ready: func([]Status) { _ = report.Send(nil) }})
	}
	_ = report.Send(err)
	return 0
}

// onlooker notes what a mesh tells.
type onlooker struct {
	ready atomic.Pointer[[]Status]
	mu    sync.Mutex
	lines []string
}

func (o *onlooker) events() Events {
	return Events{
		Line: func(program, line string) {
			o.mu.Lock()
			defer o.mu.Unlock()
			o.lines = append(o.lines, program+": "+line)
		},
		Ready: func(list []Status) { o.ready.Store(&list) },
	}
}

// eventually fails the test when f does not report true within a generous bound.
func eventually(t testing.TB, what string, f func() bool) {
	t.Helper()
	ctx, cancel := context.WithTimeout(context.Background(), 30*time.Second)
	defer cancel()
	if err := poll(ctx, 5*time.Millisecond, f); err != nil {
		t.Fatalf("it never came: %s", what)
	}
}

func tempDir(t testing.TB) rundir.Dir {
	t.Helper()
	dir, err := rundir.At(filepath.Join(t.TempDir(), "run")) // t.TempDir is open to others
	if err != nil {
		t.Fatal(err)
	}
	return dir
}
