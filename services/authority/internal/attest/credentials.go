package attest

import (
	"context"
	"errors"
	"net"
	"sync"

	"google.golang.org/grpc/credentials"
)

// transport is credentials.TransportCredentials for the server's side of a unix socket.
type transport struct{ attestor *Attestor }

// ServerHandshake takes the handle on the caller, at the moment of accept.
func (t transport) ServerHandshake(conn net.Conn) (net.Conn, credentials.AuthInfo, error) {
	caller := t.attestor.Attest(conn)
	who, limits := caller.party(), t.attestor.limits
	if err := limits.enter(who); err != nil {
		return nil, nil, errors.Join(err, caller.Close(), conn.Close())
	}
	leave := sync.OnceFunc(func() { limits.leave(who) })
	return &attestedConn{Conn: conn, caller: caller, leave: leave}, caller, nil
}

// ClientHandshake is not for servers.
func (transport) ClientHandshake(context.Context, string, net.Conn) (net.Conn, credentials.AuthInfo, error) {
	return nil, nil, errors.New("attestation is for the server's side")
}

// Info implements credentials.TransportCredentials.
func (transport) Info() credentials.ProtocolInfo {
	return credentials.ProtocolInfo{SecurityProtocol: "unix-peer"}
}

// Clone implements credentials.TransportCredentials.
func (t transport) Clone() credentials.TransportCredentials { return t }

// OverrideServerName implements credentials.TransportCredentials.
func (transport) OverrideServerName(string) error { return nil }

// attestedConn gives the handle on the caller back when the connection ends.
type attestedConn struct {
	net.Conn
	caller *Caller
	leave  func()
}

// Close implements net.Conn.
func (c *attestedConn) Close() error {
	c.leave()
	return errors.Join(c.caller.Close(), c.Conn.Close())
}
