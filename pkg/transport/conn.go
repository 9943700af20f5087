package transport

import (
	"context"
	"crypto/tls"
	"errors"
	"net"
	"sync/atomic"
	"syscall"
	"time"

	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/credentials"
	"google.golang.org/grpc/peer"
	"google.golang.org/grpc/status"

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

	// These are the registry's, under its lock.
	seq      uint64
	index    int // in the queue; negative when not there
	notAfter time.Time
	// verified is the peer as it verified last: it may be by way of another authority than at the handshake.
	verified *identity.Peer
}

// Close implements net.Conn. It also forgets the connection.
func (c *conn) Close() error {
	c.registry.remove(c)
	return c.Conn.Close()
}

// SyscallConn implements syscall.Conn, by which gRPC and its channelz reach the socket.
func (c *conn) SyscallConn() (syscall.RawConn, error) {
	if raw, ok := c.raw.(syscall.Conn); ok {
		return raw.SyscallConn()
	}
	return nil, errors.New("the connection has no socket")
}

// cut marks the connection dead, then closes it; calls that are on their way into it meanwhile are refused by CheckLive. It reports
// whether it was the first to do so.
//
// It closes the socket and not the TLS connection, which would first wait for its peer to take an alert.
func (c *conn) cut(why error) bool {
	first := c.info.dead.CompareAndSwap(nil, &why)
	c.registry.remove(c)
	_ = c.raw.Close()
	return first
}

// authInfo is what gRPC knows of a connection. It implements credentials.AuthInfo and credentials.AuthorityValidator.
type authInfo struct {
	credentials.CommonAuthInfo
	peer *identity.Peer
	dead atomic.Pointer[error] // why it was cut
}

// AuthType implements credentials.AuthInfo.
func (*authInfo) AuthType() string { return "spiffe-x509" }

// Peer returns the verified peer; package identity looks for it.
func (a *authInfo) Peer() *identity.Peer { return a.peer }

// ValidateAuthority lets a call name only an authority that is in the server's certificate.
func (a *authInfo) ValidateAuthority(authority string) error {
	host, _, err := net.SplitHostPort(authority)
	if err != nil {
		host = authority
	}
	return a.peer.Chain[0].VerifyHostname(host)
}

// CheckLive fails with an UNAUTHENTICATED status when the connection of the call that ctx belongs to was cut, or was not
// secured by this package. It is one atomic load.
func CheckLive(ctx context.Context) error {
	p, ok := peer.FromContext(ctx)
	if !ok {
		return status.Error(codes.Unauthenticated, "the call has no peer")
	}
	info, ok := p.AuthInfo.(*authInfo)
	if !ok {
		return status.Error(codes.Unauthenticated, "the connection is not secured by a SPIFFE identity")
	}
	if info.dead.Load() != nil {
		return status.Error(codes.Unauthenticated, "the identity of the connection is no longer valid")
	}
	return nil
}
