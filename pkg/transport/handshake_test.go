package transport_test

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/spiffe/go-spiffe/v2/spiffegrpc/grpccredentials"
	"github.com/spiffe/go-spiffe/v2/spiffetls/tlsconfig"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/credentials"
	"google.golang.org/grpc/peer"
	"google.golang.org/grpc/status"

	"github.com/countersign-mesh/countersign/pkg/identity"
	"github.com/countersign-mesh/countersign/pkg/meshtest"
	"github.com/countersign-mesh/countersign/pkg/transport"
)

func TestCheckLive(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	info, err := handshakes(t, func(conn net.Conn) error {
		_, _, err := w.outbound.Client(w.id("/ledger")).ClientHandshake(context.Background(), "ledger", conn)
		return err
	}, w.inbound.Server().ServerHandshake)
	if err != nil {
		t.Fatal(err)
	}
	on := func(info credentials.AuthInfo) context.Context {
		return peer.NewContext(context.Background(), &peer.Peer{AuthInfo: info})
	}
	if err := transport.CheckLive(on(info)); err != nil {
		t.Errorf("a live connection: %v", err)
	}
	for name, ctx := range map[string]context.Context{
		"no peer":                      context.Background(),
		"no credentials":               on(nil),
		"credentials of another maker": on(credentials.TLSInfo{}),
	} {
		if err := transport.CheckLive(ctx); status.Code(err) != codes.Unauthenticated {
			t.Errorf("%s: %v, want UNAUTHENTICATED", name, err)
		}
	}
	if p, ok := identity.FromContext(on(info)); !ok || p.ID != w.id("/payments") {
		t.Errorf("identity.FromContext = %v, %v", p, ok)
	}
	if _, ok := identity.FromContext(on(credentials.TLSInfo{})); ok {
		t.Error("identity.FromContext believes another maker's credentials")
	}
}

// A cut connection's calls are refused even while they are still on their way in.
func TestCheckLiveAfterCut(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	listener := listen(t)
	type end struct {
		conn net.Conn
		info credentials.AuthInfo
		err  error
	}
	accepted := make(chan end, 1)
	go func() {
		raw, err := listener.Accept()
		if err != nil {
			accepted <- end{err: err}
			return
		}
		conn, info, err := w.inbound.Server().ServerHandshake(raw)
		accepted <- end{conn, info, err}
	}()
	raw, err := net.Dial("tcp", listener.Addr().String())
	if err != nil {
		t.Fatal(err)
	}
	client, _, err := w.outbound.Client(w.id("/ledger")).ClientHandshake(t.Context(), "ledger", raw)
	if err != nil {
		t.Fatal(err)
	}
	defer client.Close()
	server := <-accepted
	if server.err != nil {
		t.Fatal(server.err)
	}
	if _, ok := server.conn.(syscall.Conn); !ok {
		t.Errorf("%T gives no access to its socket", server.conn)
	}
	ctx := peer.NewContext(t.Context(), &peer.Peer{AuthInfo: server.info})
	w.server.trust()
	eventually(t, "calls are refused", func() bool { return status.Code(transport.CheckLive(ctx)) == codes.Unauthenticated })
	if _, err := server.conn.Read(make([]byte, 1)); err == nil {
		t.Error("the connection can still be read")
	}
}

// A fault in verification refuses the peer and leaves the process alive.
func TestPanicInVerification(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	w.server.mu.Lock()
	w.server.looked = func() { panic("broken") }
	w.server.mu.Unlock()
	err := check(t.Context(), dial(t, serve(t, w.inbound.Server()), w.outbound.Client(w.id("/ledger"))))
	if status.Code(err) != codes.Unavailable {
		t.Errorf("err = %v", err)
	}
}

// ATTACKS 27: a process without a valid SVID of its own makes no connection.
func TestNoHandshakeWithoutOwnIdentity(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	addr := serve(t, w.inbound.Server())
	w.client.set(func(o *owner) { o.svid, o.err = nil, fmt.Errorf("%w: yesterday", identity.ErrExpired) })
	err := check(t.Context(), dial(t, addr, w.outbound.Client(w.id("/ledger"))))
	if err == nil || !strings.Contains(err.Error(), "own SVID has expired") {
		t.Errorf("err = %v", err)
	}
}

func TestClientHandshakeEndsWithContext(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	listener := listen(t) // accepts, and says nothing
	raw, err := net.Dial("tcp", listener.Addr().String())
	if err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithTimeout(t.Context(), 50*time.Millisecond)
	defer cancel()
	if _, _, err := w.outbound.Client(w.id("/ledger")).ClientHandshake(ctx, "ledger", raw); !errors.Is(err, context.DeadlineExceeded) {
		t.Errorf("err = %v", err)
	}
}

// A refused handshake is logged with the rule and the remote address, and a flood of them does not flood the log.
func TestRefusalsAreLogged(t *testing.T) {
	t.Parallel()
	ca := meshtest.NewCA(t, "bank.test")
	log := &journal{}
	r := newRegistry(t, newOwner(ca.SVID(t, "/ledger"), ca.Bundle()), transport.WithLogger(slog.New(slog.NewTextHandler(log, nil))))
	bad := newOwner(ca.SVID(t, "/payments", uris(`spiffe://bank.test/a" level=INFO msg="forged`)), ca.Bundle())
	client := grpccredentials.MTLSClientCredentials(bad, bad, tlsconfig.AuthorizeAny())
	start := time.Now()
	for range 100 {
		_, _ = handshakes(t, func(conn net.Conn) error {
			_, _, err := client.ClientHandshake(context.Background(), "ledger", conn)
			return err
		}, r.Server().ServerHandshake)
	}
	lines := strings.Split(strings.TrimSpace(log.String()), "\n")
	// Twenty at once, then ten a second.
	if most := 21 + int(10*time.Since(start).Seconds()); len(lines) < 20 || len(lines) > most {
		t.Errorf("%d lines of log for 100 refusals, want 20 to %d", len(lines), most)
	}
	for _, line := range lines {
		for _, want := range []string{"handshake refused", "remote=127.0.0.1:", "rule=spiffe-id-grammar"} {
			if !strings.Contains(line, want) {
				t.Fatalf("line of log lacks %q: %s", want, line)
			}
		}
		// What the peer named itself stands inside quotes that it cannot close.
		if strings.Contains(line, `a" level`) {
			t.Fatalf("line of log is forged: %s", line)
		}
	}
}

func TestCredentialsAreForOneRole(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	near, far := net.Pipe()
	defer far.Close()
	defer near.Close()
	if _, _, err := w.inbound.Server().ClientHandshake(t.Context(), "x", near); err == nil {
		t.Error("a server's credentials dial without knowing whom they expect")
	}
	if _, _, err := w.outbound.Client(w.id("/ledger")).ServerHandshake(near); err == nil {
		t.Error("a client's credentials serve")
	}
}
