package transport_test

import (
	"context"
	"crypto/tls"
	"errors"
	"log/slog"
	"net"
	"strings"
	"sync"
	"testing"
	"time"

	"google.golang.org/grpc/credentials"

	"github.com/countersign-mesh/countersign/pkg/transport"
)

// stopHalfway dials addr, sends the first message of a handshake, and leaves it at that until the returned function is called.
func stopHalfway(t *testing.T, addr string) (leave func()) {
	t.Helper()
	raw, err := net.Dial("tcp", addr)
	if err != nil {
		t.Fatal(err)
	}
	mute := &muted{Conn: raw, answered: make(chan struct{}), left: make(chan struct{})}
	var shaking sync.WaitGroup
	shaking.Go(func() {
		_ = tls.Client(mute, &tls.Config{InsecureSkipVerify: true, NextProtos: []string{"h2"}}).HandshakeContext(context.Background())
	})
	leave = sync.OnceFunc(func() {
		close(mute.left)
		_ = raw.Close()
		shaking.Wait()
	})
	t.Cleanup(leave)
	select {
	case <-mute.answered: // so the server has begun it
	case <-time.After(15 * time.Second):
		t.Fatal("the server does not answer")
	}
	return leave
}

// muted is a connection that tells when the peer answers, and passes the answer on only when it is left.
type muted struct {
	net.Conn
	answered, left chan struct{}
	once           sync.Once
}

func (m *muted) Read(p []byte) (int, error) {
	n, err := m.Conn.Read(p)
	m.once.Do(func() { close(m.answered) })
	<-m.left
	return n, err
}

// connect makes one handshake with a server, within so long.
func connect(t *testing.T, addr string, creds credentials.TransportCredentials, within time.Duration) error {
	t.Helper()
	raw, err := net.Dial("tcp", addr)
	if err != nil {
		t.Fatal(err)
	}
	defer raw.Close()
	ctx, cancel := context.WithTimeout(t.Context(), within)
	defer cancel()
	conn, _, err := creds.ClientHandshake(ctx, "ledger", raw)
	if err == nil {
		_ = conn.Close()
	}
	return err
}

func TestInboundHandshakesAreBounded(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	addr := serve(t, newRegistry(t, w.server, transport.WithHandshakes(1, time.Minute)).Server())
	client := w.outbound.Client(w.id("/ledger"))
	leave := stopHalfway(t, addr)
	if err := connect(t, addr, client, 200*time.Millisecond); !errors.Is(err, context.DeadlineExceeded) {
		t.Errorf("a second handshake beside the one that is allowed: %v, want it to wait", err)
	}
	leave()
	if err := connect(t, addr, client, 15*time.Second); err != nil {
		t.Errorf("after the first one ended: %v", err)
	}
}

// Who says nothing takes nobody's place, and who stops half-way does not keep it.
func TestStrangersDoNotKeepOthersOut(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	addr := serve(t, newRegistry(t, w.server, transport.WithHandshakes(1, 100*time.Millisecond)).Server())
	silent, err := net.Dial("tcp", addr)
	if err != nil {
		t.Fatal(err)
	}
	defer silent.Close()
	stopHalfway(t, addr)
	if err := connect(t, addr, w.outbound.Client(w.id("/ledger")), 5*time.Second); err != nil {
		t.Error(err)
	}
}

// A flood of strangers at the process's own server does not hide that a server it dials is not the one it expects.
func TestAFloodOfStrangersDoesNotHideAWrongServer(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	log := &journal{}
	r := newRegistry(t, w.server, transport.WithLogger(slog.New(slog.NewTextHandler(log, nil))))
	for range 100 {
		near, far := net.Pipe()
		go func() {
			_, _ = far.Write([]byte("GET / HTTP/1.1\r\n"))
			_ = far.Close()
		}()
		if _, _, err := r.Server().ServerHandshake(near); err == nil {
			t.Fatal("a stranger got in")
		}
	}
	addr := serve(t, w.outbound.Server())
	if err := connect(t, addr, r.Client(w.id("/risk")), 15*time.Second); err == nil {
		t.Fatal("another server than the expected one is taken")
	}
	if want := "expected the server spiffe://bank.test/risk, got spiffe://bank.test/payments"; !strings.Contains(log.String(), want) {
		t.Errorf("the log lacks %q", want)
	}
}
