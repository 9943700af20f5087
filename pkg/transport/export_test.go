package transport

import (
	"crypto/tls"
	"net"
	"time"

	"github.com/countersign-mesh/countersign/pkg/identity"
)

// Adopt takes a connection in as if a handshake had verified peer on it.
func (r *Registry) Adopt(peer *identity.Peer, raw net.Conn) error {
	return r.add(newConn(r, Inbound, raw, tls.Server(raw, &tls.Config{}), peer, peer.NotAfter), r.sweeps.Load())
}

// Sweeps counts how often all connections were verified anew.
func (r *Registry) Sweeps() uint64 { return r.sweeps.Load() }

// Live counts the connections.
func (r *Registry) Live() int { return len(r.live()) }

// VerifyState judges the state of a connection as a handshake does.
func (r *Registry) VerifyState(state tls.ConnectionState) error {
	return (&handshake{registry: r}).verify(state)
}

// WithHandshakes sets how many inbound handshakes go on at once and how long each may take once it has begun.
func WithHandshakes(n int, each time.Duration) Option {
	return func(o *options) { o.handshakes, o.handshakeTime = n, each }
}
