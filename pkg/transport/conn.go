package transport

import (
	"context"
	"crypto/tls"
	"errors"
	"math/rand/v2"
	"net"
	"syscall"
	"time"

	"google.golang.org/grpc/credentials"

	"github.com/countersign-mesh/countersign/pkg/identity"
)

// conn is a live connection.
type conn struct {
	*tls.Conn
	raw       net.Conn
	registry  *Registry
	info      *authInfo
	direction Direction
	opened    time.Time
	// shown is the own SVID that this end showed, if it was asked for one.
	shown  shown
	frames frameWriter
	// arrivals is what gRPC reads of a connection that was dialled here.
	arrivals frameReader

	// These are the registry's, under its lock.
	seq   uint64
	index int // in the queue; negative when not there
	// verified is the peer as it verified last: it may be by way of another authority than at the handshake.
	verified *identity.Peer
	// next is the stage that comes next, and due when. retireAt is when a connection that is renewed retires.
	next     stage
	due      time.Time
	retireAt time.Time
	// moveBy is when the connection is renewed at the latest because the own SVID is signed by another authority by now; zero while it is not.
	moveBy time.Time
	// renewed says that the connection was renewed and counted.
	renewed bool
}

// stage is a step in the life of a connection.
type stage int

const (
	// renew asks the client to come again, or is the client that does so, while there is time for calls in flight to end.
	renew stage = iota
	// retire ends the calls that are left, shortly before they would be cut.
	retire
	// expire cuts the connection: its peer's SVID has expired.
	expire
)

// shortLife is how much must be left of both SVIDs for a connection to be renewed. A peer whose SVID nobody renews comes again and again while it
// can, each time with half as much left; this ends that.
const shortLife = 250 * time.Millisecond

// newConn returns a connection whose peer was verified and that was made with own.
func newConn(r *Registry, direction Direction, raw net.Conn, tlsConn *tls.Conn, peer *identity.Peer, own shown) *conn {
	info := &authInfo{
		CommonAuthInfo: credentials.CommonAuthInfo{SecurityLevel: credentials.PrivacyAndIntegrity},
		peer:           peer,
	}
	info.ctx, info.end = context.WithCancelCause(context.Background())
	c := &conn{
		Conn:      tlsConn,
		raw:       raw,
		registry:  r,
		info:      info,
		direction: direction,
		opened:    r.opts.now(),
		shown:     own,
		frames:    frameWriter{to: tlsConn},
		arrivals:  frameReader{from: tlsConn},
		index:     -1,
		verified:  peer,
	}
	c.plan(c.opened)
	return c
}

// plan sets what comes next for a connection that is good now. The caller holds the registry's lock, or has the connection for itself.
//
// A connection is bound to the certificates of its handshake and cannot outlive them, however fresh its peer's SVID is by then. Calls
// in flight would be lost. So the client is asked to come again, with GOAWAY, when half of what was left has gone by, give or take a tenth so
// that clients do not come all at once; what has not ended then shortly before the expiry ends with a status that tells it to
// come again. gRPC has one MaxConnectionAge for a whole server, where the SVIDs of its clients may live for minutes or days.
//
// An outbound connection leaves that to its server. It is renewed here when the own authority has changed, which its server cannot know (see move).
func (c *conn) plan(now time.Time) {
	now = now.Round(0) // by the wall clock, which goes on while a machine sleeps
	left := c.expires().Sub(now)
	c.next, c.due = expire, c.verified.NotAfter
	if left < c.registry.opts.shortLife {
		return
	}
	c.retireAt = now.Add(left / 10 * 9)
	if c.direction == Inbound {
		c.next, c.due = renew, now.Add(left/100*45+rand.N(left/10)) //nolint:gosec // it spreads load, it hides nothing
	}
	if !c.moveBy.IsZero() {
		c.planMove(left)
	}
}

// expires is when one end or the other cuts the connection at the latest.
func (c *conn) expires() time.Time {
	if c.shown.until.IsZero() || c.verified.NotAfter.Before(c.shown.until) {
		return c.verified.NotAfter
	}
	return c.shown.until
}

// renew asks the client of the connection to come again, or has gRPC at this end make another one.
func (c *conn) renew() error {
	if c.direction == Outbound {
		return c.arrivals.goAway()
	}
	return c.frames.goAway()
}

// Read implements net.Conn.
func (c *conn) Read(p []byte) (int, error) {
	if c.direction == Outbound {
		return c.arrivals.Read(p)
	}
	return c.Conn.Read(p)
}

// SetReadDeadline implements net.Conn.
func (c *conn) SetReadDeadline(t time.Time) error { return c.arrivals.setDeadline(t) }

// SetDeadline implements net.Conn.
func (c *conn) SetDeadline(t time.Time) error {
	return errors.Join(c.SetReadDeadline(t), c.SetWriteDeadline(t))
}

// Write implements net.Conn.
func (c *conn) Write(p []byte) (int, error) { return c.frames.Write(p) }

// Close implements net.Conn. It also forgets the connection.
func (c *conn) Close() error {
	c.registry.remove(c)
	c.info.end(net.ErrClosed)
	return c.Conn.Close()
}

// SyscallConn implements syscall.Conn, by which gRPC and its channelz reach the socket.
func (c *conn) SyscallConn() (syscall.RawConn, error) {
	if raw, ok := c.raw.(syscall.Conn); ok {
		return raw.SyscallConn()
	}
	return nil, errors.New("the connection has no socket")
}
