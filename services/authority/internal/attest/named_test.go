package attest

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"os"
	"slices"
	"strconv"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
)

// dialed connects this process to a listener and returns the authority's end.
func dialed(t *testing.T, l net.Listener) net.Conn {
	t.Helper()
	client, err := net.Dial("unix", l.Addr().String())
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = client.Close() })
	conn, err := l.Accept()
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = conn.Close() })
	return conn
}

// ATTACKS 67: the same process over three sockets is each time what that socket says, and nothing of what the others say. Its uid
// and its executable are the same each time.
func TestASocketWithANameAttestsByThatNameAlone(t *testing.T) {
	t.Parallel()
	uid := "unix:uid:" + strconv.Itoa(os.Getuid())
	for _, name := range []string{"ledger", "payments"} {
		l, _ := listen(t)
		caller := New().Attest(dialed(t, Named(l, name)))
		for what, known := range map[string]func() (Process, error){
			"Process":  caller.Process,
			"Measured": func() (Process, error) { return caller.Measured(t.Context()) },
		} {
			process, err := known()
			if err != nil {
				t.Fatal(err)
			}
			if diff := cmp.Diff([]string{uid, "socket:" + name}, process.Selectors()); diff != "" {
				t.Errorf("%s over the socket %s: %s", what, name, diff)
			}
		}
		if err := caller.Close(); err != nil {
			t.Error(err)
		}
		refused(t, caller, "closed")
	}
	l, _ := listen(t)
	caller := New().Attest(dialed(t, l))
	t.Cleanup(func() { _ = caller.Close() })
	process, err := caller.Measured(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	if process.Path == "" || process.SHA256 == "" {
		t.Errorf("over the plain socket it is %+v", process)
	}
	if slices.ContainsFunc(process.Selectors(), func(s string) bool { return strings.HasPrefix(s, "socket:") }) {
		t.Errorf("over the plain socket it has %v", process.Selectors())
	}
}

// Even a process that were known by both ways has one of them.
func TestAProcessWithASocketHasNoSelectorOfItsProgram(t *testing.T) {
	t.Parallel()
	p := Process{UID: 1, Socket: "ledger", Path: "/srv/payments", SHA256: "00"}
	if diff := cmp.Diff([]string{"unix:uid:1", "socket:ledger"}, p.Selectors()); diff != "" {
		t.Error(diff)
	}
}

// serveNamed is the child's side of a test: it says how the next caller over a socket with a name is attested.
func serveNamed(path string) error {
	l, err := net.Listen("unix", path)
	if err != nil {
		return err
	}
	defer l.Close()
	fmt.Fprintln(os.Stdout, "listening")
	conn, err := Named(l, "ledger").Accept()
	if err != nil {
		return err
	}
	process, err := New().Attest(conn).Measured(context.Background())
	fmt.Fprintln(os.Stdout, process.PID, process.Selectors(), err)
	return conn.Close()
}

// ATTACKS 31: only what the kernel says of a unix socket counts, also where the socket has a name.
func TestASocketWithANameIsAUnixSocket(t *testing.T) {
	t.Parallel()
	one, other := net.Pipe()
	t.Cleanup(func() { _, _ = one.Close(), other.Close() })
	refused(t, New().Attest(&namedConn{Conn: one, name: "ledger"}), "not over a unix socket")
}

// All containers may run as one user: that one of them makes many connections must not shut out the others.
func TestConnectionsAreBoundedForEachSocketWithAName(t *testing.T) {
	t.Parallel()
	credentials := New(WithLogger(slog.New(slog.DiscardHandler))).Credentials()
	enter := func(l net.Listener) error {
		t.Helper()
		conn, _, err := credentials.ServerHandshake(dialed(t, l))
		if err == nil {
			t.Cleanup(func() { _ = conn.Close() })
		}
		return err
	}
	plain, _ := listen(t)
	first, _ := listen(t)
	second, _ := listen(t)
	ledger, payments := Named(first, "ledger"), Named(second, "payments")
	for range maxPerParty {
		if err := enter(ledger); err != nil {
			t.Fatal(err)
		}
	}
	if err := enter(ledger); !errors.Is(err, errTooManyOfAParty) {
		t.Errorf("one more than a socket may have: %v", err)
	}
	for name, l := range map[string]net.Listener{"another socket with a name": payments, "the plain socket": plain} {
		if err := enter(l); err != nil {
			t.Errorf("%s, of the same user: %v", name, err)
		}
	}
}
