package attest

import (
	"bufio"
	"errors"
	"fmt"
	"io"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"syscall"
	"testing"

	"go.uber.org/goleak"
)

// childEnv makes the test binary play another process: what it holds is the child's part.
const childEnv = "ATTEST_TEST_CHILD"

// quickExit spares a second at the end of each child under the race detector.
const quickExit = "GORACE=atexit_sleep_ms=0"

func TestMain(m *testing.M) {
	if part := os.Getenv(childEnv); part != "" {
		if err := play(part); err != nil {
			fmt.Fprintln(os.Stderr, "child:", err)
			os.Exit(1)
		}
		os.Exit(0)
	}
	goleak.VerifyTestMain(m)
}

// play is the child's side.
func play(part string) error {
	part, rest, _ := strings.Cut(part, " ")
	switch part {
	case "connect": // to a socket, then do as told
		conn, err := net.DialUnix("unix", nil, &net.UnixAddr{Name: rest, Net: "unix"})
		if err != nil {
			return err
		}
		return obey(conn)
	case "hold": // the connection that came over an exec, until told to end
		fmt.Fprintln(os.Stdout, "holding")
		_, err := io.Copy(io.Discard, os.Stdin)
		return err
	default:
		return playOS(part, rest)
	}
}

// obey reads orders from stdin, one a line, and answers each with "done".
func obey(conn *net.UnixConn) error {
	orders := bufio.NewScanner(os.Stdin)
	for orders.Scan() {
		order, rest, _ := strings.Cut(orders.Text(), " ")
		switch order {
		case "exec": // another program, which keeps the connection
			file, err := conn.File()
			if err != nil {
				return err
			}
			if _, _, errno := syscall.Syscall(syscall.SYS_FCNTL, file.Fd(), syscall.F_SETFD, 0); errno != 0 {
				return errno
			}
			return syscall.Exec(rest, []string{rest}, []string{childEnv + "=hold", quickExit})
		case "leave": // the connection to a child, and exit
			file, err := conn.File()
			if err != nil {
				return err
			}
			heir := exec.Command(rest)
			heir.Env, heir.ExtraFiles, heir.Stdout = []string{childEnv + "=hold", quickExit}, []*os.File{file}, os.Stdout
			stdin, err := heir.StdinPipe()
			if err != nil {
				return err
			}
			_ = stdin // closed by the exit of this process
			return heir.Start()
		case "setuid":
			if err := syscall.Setuid(65534); err != nil {
				return err
			}
		}
		fmt.Fprintln(os.Stdout, "done")
	}
	return orders.Err()
}

// child is a process that plays a part.
type child struct {
	t      *testing.T
	cmd    *exec.Cmd
	stdin  io.WriteCloser
	stdout *bufio.Reader
}

// start starts program as a child with a part. It ends with the test.
func start(t *testing.T, program, part string, change ...func(*exec.Cmd)) *child {
	t.Helper()
	cmd := exec.Command(program)
	cmd.Env = append(os.Environ(), childEnv+"="+part, quickExit)
	cmd.Stderr = os.Stderr
	for _, f := range change {
		f(cmd)
	}
	stdin, err := cmd.StdinPipe()
	if err != nil {
		t.Fatal(err)
	}
	stdout, err := cmd.StdoutPipe()
	if err != nil {
		t.Fatal(err)
	}
	if err := cmd.Start(); err != nil {
		if len(change) > 0 {
			t.Skipf("this system does not start such a child: %v", err)
		}
		t.Fatal(err)
	}
	c := &child{t: t, cmd: cmd, stdin: stdin, stdout: bufio.NewReader(stdout)}
	t.Cleanup(c.end)
	return c
}

// say sends an order and returns the answer.
func (c *child) say(order string) string {
	c.t.Helper()
	if _, err := fmt.Fprintln(c.stdin, order); err != nil {
		c.t.Fatal(err)
	}
	return c.hear()
}

func (c *child) hear() string {
	c.t.Helper()
	line, err := c.stdout.ReadString('\n')
	if err != nil && !errors.Is(err, io.EOF) {
		c.t.Fatal(err)
	}
	return strings.TrimSpace(line)
}

func (c *child) end() {
	_ = c.stdin.Close()
	_ = c.cmd.Wait() // tests look at what matters of it
}

// program returns a copy of the test binary: an executable of its own at a path of its own.
func program(t *testing.T, name string) string {
	t.Helper()
	self, err := os.Executable()
	if err != nil {
		t.Fatal(err)
	}
	dir, err := filepath.EvalSymlinks(t.TempDir())
	if err != nil {
		t.Fatal(err)
	}
	path := filepath.Join(dir, name)
	// A fork of a parallel test may hold the file open for writing for a moment, and then it cannot be executed: the copy is made by
	// a process of its own.
	cp := exec.Command("cp", self, path)
	if out, err := cp.CombinedOutput(); err != nil {
		t.Fatalf("copy: %v: %s", err, out)
	}
	return path
}

// listen returns a listener on a socket and its path.
func listen(t *testing.T) (*net.UnixListener, string) {
	t.Helper()
	dir, err := os.MkdirTemp("/tmp", "attest") //nolint:usetesting // a socket's path must be short
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = os.RemoveAll(dir) })
	path := filepath.Join(dir, "s")
	l, err := net.ListenUnix("unix", &net.UnixAddr{Name: path, Net: "unix"})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = l.Close() })
	return l, path
}

// accept returns a handle on the next caller.
func accept(t *testing.T, l *net.UnixListener) *Caller {
	t.Helper()
	conn, err := l.Accept()
	if err != nil {
		t.Fatal(err)
	}
	secured, info, err := New().Credentials().ServerHandshake(conn)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = secured.Close() })
	caller, ok := info.(*Caller)
	if !ok {
		t.Fatalf("the handshake gave a %T", info)
	}
	return caller
}
