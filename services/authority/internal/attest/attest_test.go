package attest

import (
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"net"
	"os"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
)

func TestAProcessIsWhatTheKernelSaysOfIt(t *testing.T) {
	t.Parallel()
	l, socket := listen(t)
	path := program(t, "ledger")
	c := start(t, path, "connect "+socket)
	process, err := accept(t, l).Measured(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	text, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	sum := sha256.Sum256(text)
	want := Process{PID: c.cmd.Process.Pid, UID: uint32(os.Getuid()), Path: path, SHA256: hex.EncodeToString(sum[:])}
	if diff := cmp.Diff(want, process); diff != "" {
		t.Error(diff)
	}
	selectors := []string{"unix:uid:" + strconv.Itoa(os.Getuid()), "unix:path:" + path, "unix:sha256:" + want.SHA256}
	if diff := cmp.Diff(selectors, process.Selectors()); diff != "" {
		t.Error(diff)
	}
}

// refused expects that a caller has no identity any more, within a bound: a process does not end at once.
func refused(t *testing.T, c *Caller, why string) {
	t.Helper()
	var err error
	for end := time.Now().Add(5 * time.Second); time.Now().Before(end); {
		if _, err = c.Measured(t.Context()); err != nil {
			break
		}
	}
	if !errors.Is(err, ErrNoProcess) || !strings.Contains(err.Error(), why) {
		t.Errorf("%v, want ErrNoProcess because %s", err, why)
	}
}

// ATTACKS 30: the process exits, and whoever holds the connection then, or gets the PID, is not it.
func TestAProcessThatExitsHasNoIdentityAnyMore(t *testing.T) {
	t.Parallel()
	l, socket := listen(t)
	path := program(t, "ledger")
	c := start(t, path, "connect "+socket)
	caller := accept(t, l)
	if _, err := caller.Process(); err != nil {
		t.Fatal(err)
	}
	if answer := c.say("leave " + path); answer != "holding" {
		t.Fatalf("the heir says %q", answer)
	}
	refused(t, caller, "it has exited")
}

// ATTACKS 30: it has exited before the connection is accepted.
func TestAProcessThatExitedBeforeAcceptHasNoIdentity(t *testing.T) {
	t.Parallel()
	l, socket := listen(t)
	path := program(t, "ledger")
	c := start(t, path, "connect "+socket)
	if answer := c.say("leave " + path); answer != "holding" {
		t.Fatalf("the heir says %q", answer)
	}
	if _, err := c.cmd.Process.Wait(); err != nil {
		t.Fatal(err)
	}
	refused(t, accept(t, l), "it has exited")
}

// ATTACKS 30, 31: the same process runs another program on the connection.
func TestAProcessThatExecsAnotherProgramHasNoIdentityAnyMore(t *testing.T) {
	t.Parallel()
	l, socket := listen(t)
	c := start(t, program(t, "ledger"), "connect "+socket)
	caller := accept(t, l)
	if _, err := caller.Process(); err != nil {
		t.Fatal(err)
	}
	if answer := c.say("exec " + program(t, "evil")); answer != "holding" {
		t.Fatalf("the other program says %q", answer)
	}
	refused(t, caller, "another program")
}

// The file of a program that runs was exchanged: the path does not lead to what runs.
func TestAnExecutableThatWasReplacedIsRefused(t *testing.T) {
	t.Parallel()
	l, socket := listen(t)
	path, other := program(t, "ledger"), program(t, "other")
	c := start(t, path, "connect "+socket)
	before := accept(t, l)
	if answer := c.say("ping"); answer != "done" {
		t.Fatal(answer)
	}
	if err := os.Rename(other, path); err != nil {
		t.Fatal(err)
	}
	if _, err := before.Process(); err != nil {
		t.Errorf("a process that was known before its file was replaced is the same still: %v", err)
	}
	second := start(t, "/proc/"+strconv.Itoa(c.cmd.Process.Pid)+"/exe", "connect "+socket)
	after := accept(t, l)
	if answer := second.say("ping"); answer != "done" {
		t.Fatal(answer)
	}
	refused(t, after, "removed or replaced")
}

func TestAClosedConnectionHasNoProcess(t *testing.T) {
	t.Parallel()
	l, socket := listen(t)
	start(t, program(t, "ledger"), "connect "+socket)
	caller := accept(t, l)
	if err := caller.Close(); err != nil {
		t.Fatal(err)
	}
	refused(t, caller, "closed")
	if err := caller.Close(); err != nil {
		t.Errorf("closing twice: %v", err)
	}
}

// ATTACKS 25, 31: what does not come over a unix socket is nobody.
func TestAConnectionOverTCPHasNoProcess(t *testing.T) {
	t.Parallel()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer l.Close()
	client, err := net.Dial("tcp", l.Addr().String())
	if err != nil {
		t.Fatal(err)
	}
	defer client.Close()
	conn, err := l.Accept()
	if err != nil {
		t.Fatal(err)
	}
	defer conn.Close()
	refused(t, New().Attest(conn), "not over a unix socket")
}

func TestACallWithoutAnAttestorHasNoProcess(t *testing.T) {
	t.Parallel()
	if _, err := FromContext(t.Context()); !errors.Is(err, ErrNoProcess) {
		t.Errorf("%v, want ErrNoProcess", err)
	}
}

func TestSumsAreRememberedByContentAndTimes(t *testing.T) {
	t.Parallel()
	path := t.TempDir() + "/program"
	write := func(text string) string {
		if err := os.WriteFile(path, []byte(text), 0o600); err != nil {
			t.Fatal(err)
		}
		sum := sha256.Sum256([]byte(text))
		return hex.EncodeToString(sum[:])
	}
	s := newSums()
	for _, text := range []string{"one", "two", "one"} { // at once one after another, with the same size
		want := write(text)
		file, err := os.Open(path)
		if err != nil {
			t.Fatal(err)
		}
		got, err := s.of(t.Context(), file)
		if err != nil || got != want {
			t.Errorf("%s: sum %s, %v; want %s", text, got, err, want)
		}
		if err := file.Close(); err != nil {
			t.Fatal(err)
		}
	}
	if len(s.known) != 0 {
		t.Error("a file that was written a moment ago was remembered")
	}
	self, err := os.Open("/proc/self/exe")
	if err != nil {
		t.Skip(err)
	}
	defer self.Close()
	id, err := identify(self)
	if err != nil {
		t.Fatal(err)
	}
	s.remember(id, "remembered")
	if got, err := s.of(t.Context(), self); err != nil || got != "remembered" {
		t.Errorf("%s, %v", got, err)
	}
}
