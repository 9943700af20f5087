package transport

import (
	"crypto/tls"
	"io"
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

// Held counts the connections that the registry knows, those included that were cut and whose sockets are not closed yet.
func (r *Registry) Held() int {
	r.mu.Lock()
	defer r.mu.Unlock()
	return len(r.queue) + len(r.dead)
}

// Failures lists every reason that a handshake can fail for.
func Failures() []string { return failures() }

// VerifyState judges the state of a connection as a handshake does.
func (r *Registry) VerifyState(state tls.ConnectionState) error {
	return (&handshake{registry: r}).verify(state)
}

// GoAway asks the peer of every connection to come again, as is done to those that are due.
func (r *Registry) GoAway() {
	for _, c := range r.live() {
		r.tasks.Go(func() { _ = c.frames.goAway() })
	}
}

// WithHandshakes sets how many inbound handshakes go on at once and how long each may take once it has begun.
func WithHandshakes(n int, each time.Duration) Option {
	return func(o *options) { o.handshakes, o.handshakeTime = n, each }
}

// WithClock sets the clock by which connections are renewed and cut.
func WithClock(now func() time.Time) Option { return func(o *options) { o.now = now } }

// FrameWriter writes HTTP/2 frames and can put a GOAWAY between them.
type FrameWriter struct{ frameWriter }

// NewFrameWriter returns a FrameWriter that writes to w.
func NewFrameWriter(w io.Writer) *FrameWriter { return &FrameWriter{frameWriter{to: w}} }

// GoAway writes a GOAWAY when the frame that is being written has ended.
func (w *FrameWriter) GoAway() error { return w.goAway() }
