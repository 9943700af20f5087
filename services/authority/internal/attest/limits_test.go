package attest

import (
	"context"
	"errors"
	"log/slog"
	"net"
	"testing"
)

func TestConnectionsOfOneUserAreBounded(t *testing.T) {
	t.Parallel()
	l, socket := listen(t)
	credentials := New(WithLogger(slog.New(slog.DiscardHandler))).Credentials()
	connect := func() (net.Conn, error) {
		client, err := net.Dial("unix", socket)
		if err != nil {
			t.Fatal(err)
		}
		t.Cleanup(func() { _ = client.Close() })
		conn, err := l.Accept()
		if err != nil {
			t.Fatal(err)
		}
		t.Cleanup(func() { _ = conn.Close() })
		secured, _, err := credentials.ServerHandshake(conn)
		return secured, err
	}
	var last net.Conn
	for range maxPerParty {
		conn, err := connect()
		if err != nil {
			t.Fatal(err)
		}
		t.Cleanup(func() { _ = conn.Close() })
		last = conn
	}
	if _, err := connect(); !errors.Is(err, errTooManyOfAParty) {
		t.Errorf("one more than a user may have: %v", err)
	}
	// Closing twice gives back one place.
	_, _ = last.Close(), last.Close()
	conn, err := connect()
	if err != nil {
		t.Fatalf("after one was closed: %v", err)
	}
	t.Cleanup(func() { _ = conn.Close() })
	if _, err := connect(); !errors.Is(err, errTooManyOfAParty) {
		t.Errorf("one more than a user may have: %v", err)
	}
}

func TestOtherUsersAndAllTogetherAreBounded(t *testing.T) {
	t.Parallel()
	l := newLimits(slog.New(slog.DiscardHandler))
	for i := range maxConnections {
		if err := l.enter(party{uid: int64(i / maxPerParty)}); err != nil {
			t.Fatalf("connection %d: %v", i, err)
		}
	}
	if err := l.enter(party{uid: maxConnections}); !errors.Is(err, errTooMany) {
		t.Errorf("one more than all may have: %v", err)
	}
	l.leave(party{})
	if err := l.enter(party{uid: maxConnections}); err != nil {
		t.Errorf("after one left: %v", err)
	}
}

// Who waits for a file to be read stops when the call ends, and the connection can be closed meanwhile.
func TestTheWaitForASumEndsWithTheCall(t *testing.T) {
	t.Parallel()
	l, socket := listen(t)
	start(t, program(t, "ledger"), "connect "+socket)
	caller := accept(t, l)
	for range maxHashing {
		caller.sums.hashing <- struct{}{}
	}
	ctx, cancel := context.WithCancel(t.Context())
	ended := make(chan error, 1)
	go func() {
		_, err := caller.Measured(ctx)
		ended <- err
	}()
	if _, err := caller.Process(); err != nil {
		t.Errorf("what needs no sum: %v", err)
	}
	if err := caller.Close(); err != nil {
		t.Error(err)
	}
	cancel()
	if err := <-ended; err == nil {
		t.Error("a sum of a file that was not read")
	}
}
