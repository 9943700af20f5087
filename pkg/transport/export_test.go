package transport

import (
	"crypto/tls"
	"crypto/x509"
	"io"
	"net"
	"time"

	"github.com/countersign-mesh/countersign/pkg/identity"
)

// Adopt takes a connection in as if a handshake had verified peer on it.
func (r *Registry) Adopt(peer *identity.Peer, raw net.Conn) error {
	return r.add(newConn(r, Inbound, raw, tls.Server(raw, &tls.Config{}), peer, shown{until: peer.NotAfter}), r.sweeps.Load())
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
		r.tasks.Go(func() { _ = c.renew() })
	}
}

// WithHandshakes sets how many inbound handshakes go on at once and how long each may take once it has begun.
func WithHandshakes(n int, each time.Duration) Option {
	return func(o *options) { o.handshakes, o.handshakeTime = n, each }
}

// WithMove sets how long after a change of the own authority the last connection is renewed, and how long calls in flight have then.
func WithMove(within, grace time.Duration) Option {
	return func(o *options) { o.moveTime, o.moveGrace = within, grace }
}

// SameAuthority reports whether two chains were signed by the same authorities.
func SameAuthority(a, b []*x509.Certificate) bool { return sameAuthority(a, b) }

// WithClock sets the clock by which connections are renewed and cut.
func WithClock(now func() time.Time) Option { return func(o *options) { o.now = now } }

// FrameWriter writes HTTP/2 frames and can put a GOAWAY between them.
type FrameWriter struct{ frameWriter }

// NewFrameWriter returns a FrameWriter that writes to w.
func NewFrameWriter(w io.Writer) *FrameWriter { return &FrameWriter{frameWriter{to: w}} }

// GoAway writes a GOAWAY when the frame that is being written has ended.
func (w *FrameWriter) GoAway() error { return w.goAway() }

// Source is what a FrameReader reads from.
type Source interface {
	io.Reader
	SetReadDeadline(t time.Time) error
}

// FrameReader reads HTTP/2 frames and can put a GOAWAY between them.
type FrameReader struct{ frameReader }

// NewFrameReader returns a FrameReader that reads from source.
func NewFrameReader(source Source) *FrameReader { return &FrameReader{frameReader{from: source}} }

// GoAway puts a GOAWAY where the frame ends that is being read.
func (r *FrameReader) GoAway() error { return r.goAway() }

// SetReadDeadline is gRPC's.
func (r *FrameReader) SetReadDeadline(t time.Time) error { return r.setDeadline(t) }

// Patient returns conn as crypto/tls gets it.
func Patient(conn net.Conn) net.Conn { return patient{conn} }
