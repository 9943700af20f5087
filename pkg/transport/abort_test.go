package transport_test

import (
	"net"
	"sync"
	"testing"
	"time"

	"google.golang.org/grpc"
)

// reading is a connection that tells when it is read for the first time.
type reading struct {
	net.Conn
	once    sync.Once
	started chan struct{}
}

func (r *reading) Read(p []byte) (int, error) {
	r.once.Do(func() { close(r.started) })
	return r.Conn.Read(p)
}

// A stranger that connects and says nothing does not hold up the drain of a server.
func TestAbortHandshakesLetsAServerStop(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	server := grpc.NewServer(grpc.Creds(w.inbound.Server()), grpc.ConnectionTimeout(time.Minute))
	listener := &announcing{Listener: listen(t), accepted: make(chan *reading, 1)}
	var serving sync.WaitGroup
	serving.Go(func() { _ = server.Serve(listener) })
	stranger, err := net.Dial("tcp", listener.Addr().String())
	if err != nil {
		t.Fatal(err)
	}
	defer stranger.Close()
	<-(<-listener.accepted).started

	w.inbound.AbortHandshakes()
	stopped := make(chan struct{})
	go func() {
		defer close(stopped)
		server.GracefulStop()
	}()
	select {
	case <-stopped:
	case <-time.After(15 * time.Second):
		t.Error("the server waits for a connection that says nothing")
		_ = stranger.Close()
		<-stopped
	}
	serving.Wait()
}

// announcing is a listener that tells what it accepts.
type announcing struct {
	net.Listener
	accepted chan *reading
}

func (a *announcing) Accept() (net.Conn, error) {
	raw, err := a.Listener.Accept()
	if err != nil {
		return nil, err
	}
	conn := &reading{Conn: raw, started: make(chan struct{})}
	a.accepted <- conn
	return conn, nil
}

func TestAbortHandshakes(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	addr := serve(t, w.inbound.Server())
	made := dial(t, addr, w.outbound.Client(w.id("/ledger")))
	if err := check(t.Context(), made); err != nil {
		t.Fatal(err)
	}
	w.inbound.AbortHandshakes()
	w.inbound.AbortHandshakes()

	if err := check(t.Context(), made); err != nil {
		t.Errorf("a call on a connection made before: %v", err)
	}
	// The peer says nothing: only a handshake that fails by itself ends.
	near, far := net.Pipe()
	defer far.Close()
	if _, _, err := w.inbound.Server().ServerHandshake(near); err == nil {
		t.Error("a handshake is made after they were aborted")
	}
	if _, err := far.Write([]byte{22}); err == nil {
		t.Error("the connection is left open")
	}
	// What is dialled goes on.
	other := newWorld(t)
	other.inbound.AbortHandshakes()
	stub := dial(t, serve(t, other.outbound.Server()), other.inbound.Client(other.id("/payments")))
	if err := check(t.Context(), stub); err != nil {
		t.Errorf("an outbound handshake: %v", err)
	}
}
