package mesh

import (
	"context"
	"net"
	"sync"

	"google.golang.org/grpc/credentials"
)

// handshakes knows which handshakes of an edge are under way, so that a drain need not wait for strangers who connect and say nothing: gRPC waits for
// handshakes before it tells anybody to go. It is safe for concurrent use.
type handshakes struct {
	credentials.TransportCredentials
	all *pending
}

type pending struct {
	mu     sync.Mutex
	conns  map[net.Conn]struct{}
	closed bool
}

func newHandshakes(creds credentials.TransportCredentials) handshakes {
	return handshakes{creds, &pending{conns: make(map[net.Conn]struct{})}}
}

// ServerHandshake implements credentials.TransportCredentials.
func (h handshakes) ServerHandshake(raw net.Conn) (net.Conn, credentials.AuthInfo, error) {
	if !h.all.begin(raw) {
		return nil, nil, errStopping
	}
	defer h.all.end(raw)
	return h.TransportCredentials.ServerHandshake(raw)
}

// ClientHandshake implements credentials.TransportCredentials.
func (h handshakes) ClientHandshake(ctx context.Context, authority string, raw net.Conn) (net.Conn, credentials.AuthInfo, error) {
	return h.TransportCredentials.ClientHandshake(ctx, authority, raw)
}

// Clone implements credentials.TransportCredentials.
func (h handshakes) Clone() credentials.TransportCredentials {
	return handshakes{h.TransportCredentials.Clone(), h.all}
}

func (p *pending) begin(raw net.Conn) bool {
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.closed {
		return false
	}
	p.conns[raw] = struct{}{}
	return true
}

func (p *pending) end(raw net.Conn) {
	p.mu.Lock()
	defer p.mu.Unlock()
	delete(p.conns, raw)
}

// abort ends all handshakes that are under way, and those that begin later.
func (p *pending) abort() {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.closed = true
	for raw := range p.conns {
		_ = raw.Close() // it is not needed any more
	}
}
