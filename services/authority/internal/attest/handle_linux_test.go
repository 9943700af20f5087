package attest

import (
	"errors"
	"fmt"
	"net"
	"os"
	"os/exec"
	"strings"
	"syscall"
	"testing"

	"golang.org/x/sys/unix"
)

// playOS is the child's side of what only Linux has.
func playOS(part, rest string) error {
	switch part {
	case "serve": // in a PID namespace of its own: say how the next caller is attested
		l, err := net.Listen("unix", rest)
		if err != nil {
			return err
		}
		defer l.Close()
		fmt.Fprintln(os.Stdout, "listening")
		conn, err := l.Accept()
		if err != nil {
			return err
		}
		_, err = New().Attest(conn).Process()
		fmt.Fprintln(os.Stdout, err)
		return conn.Close()
	case "serve-named": // likewise, over a socket with a name
		return serveNamed(rest)
	case "mask": // in a mount namespace of its own: run a program that looks as if it were another
		fields := strings.Fields(rest)
		evil, good, socket := fields[0], fields[1], fields[2]
		if err := unix.Mount("", "/", "", unix.MS_REC|unix.MS_PRIVATE, ""); err != nil {
			return err
		}
		if err := unix.Mount(evil, good, "", unix.MS_BIND, ""); err != nil {
			return err
		}
		return syscall.Exec(good, []string{good}, []string{childEnv + "=connect " + socket, quickExit})
	}
	return errors.New("no such part: " + part)
}

// ATTACKS 30: PID 0 is what the kernel gives for a process that the authority cannot see.
func TestACallerOutsideThePIDNamespaceIsRefused(t *testing.T) {
	t.Parallel()
	if os.Getuid() != 0 {
		t.Skip("making a PID namespace needs root")
	}
	l, socket := listen(t)
	if err := l.Close(); err != nil {
		t.Fatal(err)
	}
	self, err := os.Executable()
	if err != nil {
		t.Fatal(err)
	}
	server := start(t, self, "serve "+socket, func(cmd *exec.Cmd) {
		cmd.SysProcAttr = &syscall.SysProcAttr{Cloneflags: syscall.CLONE_NEWPID}
	})
	if said := server.hear(); said != "listening" {
		t.Fatal(said)
	}
	conn, err := net.Dial("unix", socket)
	if err != nil {
		t.Fatal(err)
	}
	defer conn.Close()
	if said := server.hear(); !strings.Contains(said, "no PID") {
		t.Errorf("it is attested as %q", said)
	}
}

// The authority and its workloads in containers: each in a PID namespace of its own.
func TestACallerOverASocketWithANameIsKnownAcrossPIDNamespaces(t *testing.T) {
	t.Parallel()
	if os.Getuid() != 0 {
		t.Skip("making a PID namespace needs root")
	}
	l, socket := listen(t)
	if err := l.Close(); err != nil {
		t.Fatal(err)
	}
	self, err := os.Executable()
	if err != nil {
		t.Fatal(err)
	}
	server := start(t, self, "serve-named "+socket, func(cmd *exec.Cmd) {
		cmd.SysProcAttr = &syscall.SysProcAttr{Cloneflags: syscall.CLONE_NEWPID}
	})
	if said := server.hear(); said != "listening" {
		t.Fatal(said)
	}
	conn, err := net.Dial("unix", socket)
	if err != nil {
		t.Fatal(err)
	}
	defer conn.Close()
	if said := server.hear(); said != "0 [unix:uid:0 socket:ledger] <nil>" {
		t.Errorf("it is attested as %q", said)
	}
}

// ATTACKS 31: in a mount namespace of its own a process can put any program at any path. The path is then not believed; the
// sum is that of what runs.
func TestAPathInAnotherMountNamespaceIsNotBelieved(t *testing.T) {
	t.Parallel()
	if os.Getuid() != 0 {
		t.Skip("making a mount namespace needs root")
	}
	l, socket := listen(t)
	good, evil := program(t, "ledger"), program(t, "evil")
	if err := appendTo(evil, "makes its sum another"); err != nil {
		t.Fatal(err)
	}
	self, err := os.Executable()
	if err != nil {
		t.Fatal(err)
	}
	c := start(t, self, "mask "+evil+" "+good+" "+socket, func(cmd *exec.Cmd) {
		cmd.SysProcAttr = &syscall.SysProcAttr{Unshareflags: syscall.CLONE_NEWNS}
	})
	caller := accept(t, l)
	link, err := os.Readlink(fmt.Sprintf("/proc/%d/exe", c.cmd.Process.Pid))
	if err != nil || link != good {
		t.Fatalf("the trick does not work here, so that the test shows nothing: %s, %v", link, err)
	}
	process, err := caller.Measured(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	if process.Path != "" || !strings.Contains(process.PathProblem, "not the one that the process runs") {
		t.Errorf("path %q, problem %q", process.Path, process.PathProblem)
	}
	file, err := os.Open(evil)
	if err != nil {
		t.Fatal(err)
	}
	defer file.Close()
	if want, err := newSums().of(t.Context(), file); err != nil || process.SHA256 != want {
		t.Errorf("sum %s, want that of what runs, %s, %v", process.SHA256, want, err)
	}
}

func appendTo(path, text string) error {
	file, err := os.OpenFile(path, os.O_APPEND|os.O_WRONLY, 0)
	if err != nil {
		return err
	}
	_, err = file.WriteString(text)
	return errors.Join(err, file.Close())
}

// ATTACKS 31: the uid is the one of the connect, and only as long as it is the process's.
func TestAProcessThatChangesItsUserHasNoIdentityAnyMore(t *testing.T) {
	t.Parallel()
	if os.Getuid() != 0 {
		t.Skip("only root can change its uid")
	}
	l, socket := listen(t)
	c := start(t, program(t, "ledger"), "connect "+socket)
	caller := accept(t, l)
	if _, err := caller.Process(); err != nil {
		t.Fatal(err)
	}
	if answer := c.say("setuid"); answer != "done" {
		t.Fatal(answer)
	}
	refused(t, caller, "another user")
}

// Kernels before 6.5 have no SO_PEERPIDFD, those before 5.3 no pidfd: directory and start time do the work then.
func TestAHandleWithoutAPidfdSeesTheEnd(t *testing.T) {
	t.Parallel()
	l, socket := listen(t)
	path := program(t, "ledger")
	c := start(t, path, "connect "+socket)
	caller := accept(t, l)
	if err := unix.Close(caller.handle.pidfd); err != nil {
		t.Fatal(err)
	}
	caller.handle.pidfd = -1
	if _, err := caller.Process(); err != nil {
		t.Fatal(err)
	}
	if answer := c.say("leave " + path); answer != "holding" {
		t.Fatal(answer)
	}
	refused(t, caller, "it has exited")
}

func TestAReusedPIDIsNoticedByItsStartTime(t *testing.T) {
	t.Parallel()
	l, socket := listen(t)
	start(t, program(t, "ledger"), "connect "+socket)
	caller := accept(t, l)
	caller.handle.start += "1"
	refused(t, caller, "another process")
}

func TestNoFileStaysOpenAfterAConnection(t *testing.T) {
	l, socket := listen(t)
	path := program(t, "ledger")
	count := func() int {
		entries, err := os.ReadDir("/proc/self/fd")
		if err != nil {
			t.Fatal(err)
		}
		return len(entries)
	}
	before := count()
	for range 5 {
		c := start(t, path, "connect "+socket)
		conn, err := l.Accept()
		if err != nil {
			t.Fatal(err)
		}
		secured, _, err := New().Credentials().ServerHandshake(conn)
		if err != nil {
			t.Fatal(err)
		}
		if err := secured.Close(); err != nil {
			t.Fatal(err)
		}
		c.end()
	}
	if after := count(); after > before {
		t.Errorf("%d files are open, %d were before", after, before)
	}
}
