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
	// presented is when the own SVID expires that this end showed, if it was asked for one: the peer cuts the connection then.
	presented time.Time
	frames    frameWriter

	// These are the registry's, under its lock.
	seq   uint64
	index int // in the queue; negative when not there
	// verified is the peer as it verified last: it may be by way of another authority than at the handshake.
	verified *identity.Peer
	// next is the stage that comes next, and due when. retireAt is when an inbound connection retires.
	next     stage
	due      time.Time
	retireAt time.Time
}

// stage is a step in the life of a connection.
type stage int

const (
	// renew asks the client to come again, while there is time for calls in flight to end. Inbound connections only.
	renew stage = iota
	// retire ends the calls that are left, shortly before they would be cut. Inbound connections only.
	retire
	// expire cuts the connection: its peer's SVID has expired.
	expire
)

// shortLife is how much must be left of both SVIDs for a connection to be renewed. A peer whose SVID nobody renews comes again and again while it
// can, each time with half as much left; this ends that.
const shortLife = 250 * time.Millisecond

// newConn returns a connection whose peer was verified. own is when the own SVID expires that it was made with.
func newConn(r *Registry, direction Direction, raw net.Conn, tlsConn *tls.Conn, peer *identity.Peer, own time.Time) *conn {
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
		presented: own,
		frames:    frameWriter{to: tlsConn},
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
func (c *conn) plan(now time.Time) {
	now = now.Round(0) // by the wall clock, which goes on while a machine sleeps
	left := c.expires().Sub(now)
	if c.direction == Outbound || left < c.registry.opts.shortLife {
		c.next, c.due = expire, c.verified.NotAfter
		return
	}
	c.next, c.due = renew, now.Add(left/100*45+rand.N(left/10)) //nolint:gosec // it spreads load, it hides nothing
	c.retireAt = now.Add(left / 10 * 9)
}

// expires is when one end or the other cuts the connection at the latest.
func (c *conn) expires() time.Time {
	if c.presented.IsZero() || c.verified.NotAfter.Before(c.presented) {
		return c.verified.NotAfter
	}
	return c.presented
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
