package supervisor

import (
	"context"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"slices"
	"strings"
	"syscall"
	"time"

	"github.com/countersign-mesh/countersign/cmd/countersign/internal/rundir"
)

// pipeDelay is how long a child's output may stay open after it ended; something that it started could hold it.
const pipeDelay = 2 * time.Second

// child is a program that was started. done is closed once it has ended and all that it wrote was taken.
type child struct {
	program Program
	process rundir.Process
	started time.Time
	log     string
	out     *output
	done    chan struct{}
	err     error // how it ended; to be read after done
	closed  chan struct{}
	logErr  error // how its log was closed; to be read after closed
}

// startChild starts a program and waits for its end in the background. What was said before it started is its log's first line.
func startChild(ctx context.Context, s *spawner, p Program, said string, dir rundir.Dir, line func(program, line string)) (*child, error) {
	out, err := newOutput(dir.Log(p.Name), func(text string) { line(p.Name, text) })
	if err != nil {
		return nil, fmt.Errorf("start %s: %w", p.Name, err)
	}
	if said != "" {
		_, _ = out.Write([]byte(said + "\n")) // it does not fail
	}
	// The end of ctx must not kill it: stop asks it to end, in its turn.
	cmd := exec.CommandContext(context.WithoutCancel(ctx), p.Path, p.Args...) //nolint:gosec // what to start is this command's to say
	cmd.Dir = dir.String()
	cmd.Env = append(environment(), p.Env...)
	cmd.Stdout, cmd.Stderr = out, out
	cmd.WaitDelay = pipeDelay
	c := &child{program: p, started: time.Now(), log: dir.Log(p.Name), out: out, done: make(chan struct{}), closed: make(chan struct{})}
	if err := s.start(cmd); err != nil {
		return nil, errors.Join(fmt.Errorf("start %s: %w", p.Name, err), out.close())
	}
	// Until Wait the process ID is the child's, dead or alive, so this cannot name another process. One that has ended already has
	// no start time any more; the zero one matches nothing.
	if c.process, err = rundir.Identify(cmd.Process.Pid); err != nil {
		c.process = rundir.Process{PID: cmd.Process.Pid}
	}
	go func() {
		defer close(c.closed)
		c.err = cmd.Wait()
		close(c.done) // whoever stops the mesh waits for the process, not for its log
		c.logErr = out.close()
	}()
	return c, nil
}

func (c *child) ended() bool {
	select {
	case <-c.done:
		return true
	default:
		return false
	}
}

// signal sends sig to the child's process group, which also has whatever the child started.
func (c *child) signal(sig syscall.Signal) error {
	if c.ended() {
		return nil
	}
	if err := syscall.Kill(-c.process.PID, sig); err != nil && !errors.Is(err, syscall.ESRCH) {
		return fmt.Errorf("send %v to %s: %w", sig, c.program.Name, err)
	}
	return nil
}

// CrashError says that a program ended that should run, and what it wrote last.
type CrashError struct {
	Program string
	Cause   error
	Last    []string
	Log     string
}

// Error implements error.
func (e *CrashError) Error() string {
	cause := "exit status 0"
	if e.Cause != nil {
		cause = e.Cause.Error()
	}
	if len(e.Last) == 0 {
		return fmt.Sprintf("%s ended (%s) and wrote nothing", e.Program, cause)
	}
	return fmt.Sprintf("%s ended (%s); its last lines, all of them in %s:\n    %s",
		e.Program, cause, e.Log, strings.Join(e.Last, "\n    "))
}

// Unwrap returns how the program ended.
func (e *CrashError) Unwrap() error { return e.Cause }

// crash is the error of a child that ended.
func (c *child) crash() error {
	return &CrashError{Program: c.program.Name, Cause: c.err, Last: c.out.lastLines(), Log: c.log}
}

// environment is what every program inherits: all but the DSN of the bank, whose password is for those that keep state, each of which
// gets its own, and what a customer knows.
func environment() []string {
	return slices.DeleteFunc(os.Environ(), func(variable string) bool {
		name, _, _ := strings.Cut(variable, "=")
		return slices.Contains([]string{"COUNTERSIGN_DSN", "COUNTERSIGN_PASSWORD", "COUNTERSIGN_OTP_SECRET"}, name)
	})
}
