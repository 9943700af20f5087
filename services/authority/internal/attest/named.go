package attest

import "net"

// Named returns l as a socket with a name: who comes over it is attested by that name, and by nothing that it runs. The name must be
// one that the authority has chosen and that whoever can reach the socket is meant to have.
func Named(l net.Listener, name string) net.Listener { return namedListener{Listener: l, name: name} }

type namedListener struct {
	net.Listener
	name string
}

// Accept implements net.Listener.
func (l namedListener) Accept() (net.Conn, error) {
	conn, err := l.Listener.Accept()
	if err != nil {
		return nil, err
	}
	return &namedConn{Conn: conn, name: l.name}, nil
}

// namedConn carries the name of the socket that a connection came over to Attest. It is the type that tells such a connection from one
// over the plain socket, so that nothing that is sent or that fails can make the one into the other.
type namedConn struct {
	net.Conn
	name string
}

// process is what is known of who came over a socket with a name.
func (c *namedConn) process() (*Process, error) {
	p := &Process{Socket: c.name}
	err := control(c.Conn, func(socket int) (err error) {
		p.PID, p.UID, err = peerCredentials(socket)
		return err
	})
	if err != nil {
		return nil, err
	}
	return p, nil
}
