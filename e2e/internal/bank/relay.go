package bank

import (
	"io"
	"net"
	"sync"
	"testing"
)

// Relay passes TCP connections on to an address, as a network between two machines does, until it cuts them. It knows nothing of what it
// carries. It is safe for concurrent use.
type Relay struct {
	to       string
	listener net.Listener
	carrying sync.WaitGroup

	mu    sync.Mutex
	conns map[net.Conn]bool
}

// NewRelay returns a Relay that ends with the test.
func NewRelay(t testing.TB, to string) *Relay {
	t.Helper()
	listener, err := (&net.ListenConfig{}).Listen(t.Context(), "tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	r := &Relay{to: to, listener: listener, conns: make(map[net.Conn]bool)}
	r.carrying.Go(r.accept)
	t.Cleanup(func() {
		if err := listener.Close(); err != nil {
			t.Error(err)
		}
		r.Cut()
		r.carrying.Wait()
	})
	return r
}

// Address returns where the Relay takes connections.
func (r *Relay) Address() string { return r.listener.Addr().String() }

// Cut resets every connection, in the middle of whatever it carries. New ones are taken.
func (r *Relay) Cut() {
	r.mu.Lock()
	defer r.mu.Unlock()
	for conn := range r.conns {
		if tcp, ok := conn.(*net.TCPConn); ok {
			_ = tcp.SetLinger(0) // what is on its way is lost, as with a cable
		}
		_ = conn.Close()
		delete(r.conns, conn)
	}
}

func (r *Relay) accept() {
	for {
		from, err := r.listener.Accept()
		if err != nil {
			return
		}
		to, err := net.Dial("tcp", r.to)
		if err != nil {
			_ = from.Close()
			continue
		}
		r.mu.Lock()
		r.conns[from], r.conns[to] = true, true
		r.mu.Unlock()
		r.carrying.Go(func() { r.carry(from, to) })
		r.carrying.Go(func() { r.carry(to, from) })
	}
}

// carry copies one direction. Where it ends, both do: gRPC closes no half of a connection.
func (r *Relay) carry(from, to net.Conn) {
	_, _ = io.Copy(to, from)
	r.mu.Lock()
	defer r.mu.Unlock()
	for _, conn := range []net.Conn{from, to} {
		_ = conn.Close()
		delete(r.conns, conn)
	}
}
