package bank

import (
	"bytes"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"os/exec"
	"runtime"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"
)

// Process is a program that was started. Its output is kept. It is safe for concurrent use.
type Process struct {
	cmd  *exec.Cmd
	out  output
	done chan struct{}
	err  error
}

// output is a buffer that can be read while it grows.
type output struct {
	mu  sync.Mutex
	buf bytes.Buffer
}

func (o *output) Write(p []byte) (int, error) {
	o.mu.Lock()
	defer o.mu.Unlock()
	return o.buf.Write(p)
}

func (o *output) String() string {
	o.mu.Lock()
	defer o.mu.Unlock()
	return o.buf.String()
}

// Start starts a program of the Home in the Home, with no environment but env and what every program needs. It is killed at the end of
// the Home's test if it still runs.
func (h *Home) Start(t testing.TB, env []string, program string, args ...string) *Process {
	t.Helper()
	p := &Process{cmd: exec.Command(h.Path("bin", program), args...), done: make(chan struct{})}
	p.cmd.Dir = h.Dir
	p.cmd.Env = append([]string{"PATH=" + os.Getenv("PATH"), "HOME=" + h.Dir, "NO_COLOR=1"}, env...)
	p.cmd.Stdout, p.cmd.Stderr = &p.out, &p.out
	p.cmd.WaitDelay = 5 * time.Second
	// A group of its own, as a shell makes one for each command.
	p.cmd.SysProcAttr = &syscall.SysProcAttr{Setpgid: true}
	if err := p.cmd.Start(); err != nil {
		t.Fatal(err)
	}
	go func() {
		defer close(p.done)
		p.err = p.cmd.Wait()
	}()
	h.owner.Cleanup(func() {
		if p.Running() {
			p.Signal(h.owner, syscall.SIGKILL)
		}
		<-p.done
	})
	return p
}

// Run runs a program of the Home to its end and returns its output and exit code.
func (h *Home) Run(t testing.TB, env []string, program string, args ...string) (string, int) {
	t.Helper()
	p := h.Start(t, env, program, args...)
	code := p.Wait(t, 2*time.Minute)
	return p.Output(), code
}

// CLI runs countersign on the Home's mesh.
func (h *Home) CLI(t testing.TB, command string, args ...string) (string, int) {
	t.Helper()
	return h.Run(t, nil, "countersign", append([]string{command, "--run-dir=" + h.RunDir}, args...)...)
}

// PID returns the process ID.
func (p *Process) PID() int { return p.cmd.Process.Pid }

// Output returns what the program has written so far, to both outputs.
func (p *Process) Output() string { return p.out.String() }

// Running reports whether the program has not ended yet.
func (p *Process) Running() bool {
	select {
	case <-p.done:
		return false
	default:
		return true
	}
}

// Signal sends a signal; a program that has ended already is no error.
func (p *Process) Signal(t testing.TB, sig os.Signal) {
	t.Helper()
	if err := p.cmd.Process.Signal(sig); err != nil && !errors.Is(err, os.ErrProcessDone) {
		t.Fatal(err)
	}
}

// Interrupt does what a terminal does on Ctrl-C: it interrupts the program's whole process group.
func (p *Process) Interrupt(t testing.TB) {
	t.Helper()
	if err := syscall.Kill(-p.PID(), syscall.SIGINT); err != nil && !errors.Is(err, syscall.ESRCH) {
		t.Fatal(err)
	}
}

// Wait waits for the program's end and returns its exit code; -1 when a signal ended it.
func (p *Process) Wait(t testing.TB, within time.Duration) int {
	t.Helper()
	select {
	case <-p.done:
	case <-time.After(within):
		p.Signal(t, syscall.SIGQUIT) // Go programs write their stacks
		<-p.done
		t.Fatalf("%s did not end within %v:\n%s", strings.Join(p.cmd.Args, " "), within, p.Output())
	}
	var exit *exec.ExitError
	if p.err != nil && !errors.As(p.err, &exit) {
		t.Fatalf("%s: %v", strings.Join(p.cmd.Args, " "), p.err)
	}
	return p.cmd.ProcessState.ExitCode()
}

// Alive reports whether a process runs that this one did not start. One that has ended and that nobody has waited for does not.
func Alive(t testing.TB, pid int) bool {
	t.Helper()
	if err := syscall.Kill(pid, 0); errors.Is(err, syscall.ESRCH) {
		return false
	}
	stat, err := os.ReadFile(fmt.Sprintf("/proc/%d/stat", pid))
	if err != nil {
		return !errors.Is(err, fs.ErrNotExist) || runtime.GOOS != "linux"
	}
	// The state follows the name in parentheses (proc_pid_stat(5)).
	_, state, _ := strings.Cut(string(stat), ") ")
	return !strings.HasPrefix(state, "Z") && !strings.HasPrefix(state, "X")
}

// Eventually waits until condition says nothing, and fails the test with what it said last when that takes too long.
func Eventually(t testing.TB, within time.Duration, condition func() string) {
	t.Helper()
	deadline := time.Now().Add(within)
	tick := time.NewTicker(20 * time.Millisecond)
	defer tick.Stop()
	for {
		why := condition()
		if why == "" {
			return
		}
		if time.Now().After(deadline) {
			t.Fatalf("not within %v: %s", within, why)
		}
		<-tick.C
	}
}
