package edge

import (
	"context"
	"crypto/x509"
	"net"
	"slices"
	"sync"
	"time"
)

// Conns is the live connections that a listener has accepted, by the certificates of their clients, for as long as they are open. It is safe for concurrent
// use. The zero value has none.
//
// A certificate is verified when a connection begins and never again: what ends a device in the middle of one is here.
type Conns struct {
	mu   sync.Mutex
	live map[*conn]struct{}
}

// Conn is a snapshot of a connection.
type Conn struct {
	// Cert is the client's certificate; nil where there is none or the handshake has not come to it.
	Cert       *x509.Certificate
	RemoteAddr string
	Opened     time.Time
}

// Listener returns a listener that accepts from inner, for a gRPC server or an http.Server, and has c know the connections. The TLS configuration of the
// server must be one of TLSConfig with WithConns(c): it tells whose they are.
func (c *Conns) Listener(inner net.Listener) net.Listener { return &listener{inner, c} }

// Live returns the connections that are open, oldest first.
func (c *Conns) Live() []Conn {
	c.mu.Lock()
	defer c.mu.Unlock()
	live := make([]Conn, 0, len(c.live))
	for each := range c.live {
		live = append(live, Conn{Cert: each.cert, RemoteAddr: each.RemoteAddr().String(), Opened: each.opened})
	}
	slices.SortFunc(live, func(a, b Conn) int { return a.Opened.Compare(b.Opened) })
	return live
}

// Cut closes the connections of certificates with these serial numbers, in lower-case hexadecimal, and returns how many there were. Their calls end at
// once.
func (c *Conns) Cut(serials ...string) int {
	return c.CutIf(func(cert *x509.Certificate) bool { return slices.Contains(serials, serialOf(cert)) })
}

// CutIf closes the connections of certificates that are bad, and returns how many there were.
func (c *Conns) CutIf(bad func(*x509.Certificate) bool) int {
	c.mu.Lock()
	var cut []*conn
	for each := range c.live {
		if each.cert != nil && bad(each.cert) {
			cut = append(cut, each)
		}
	}
	c.mu.Unlock()
	for _, each := range cut {
		_ = each.Close() // it is gone, whatever closing it says
	}
	return len(cut)
}

// Follow cuts the connections of certificates that are revoked, now and from then on, and of those that have expired, until ctx ends; it returns nil
// then.
func (c *Conns) Follow(ctx context.Context, revoked Revocations) error {
	const expiryInterval = 500 * time.Millisecond
	expiry := time.NewTicker(expiryInterval)
	defer expiry.Stop()
	for {
		changed := revoked.Changed()
		c.CutIf(func(cert *x509.Certificate) bool { return revoked.Certificate(serialOf(cert)) })
		for unchanged := true; unchanged; {
			select {
			case <-ctx.Done():
				return nil
			case <-changed:
				unchanged = false
			case now := <-expiry.C:
				c.CutIf(func(cert *x509.Certificate) bool { return now.After(cert.NotAfter) })
			}
		}
	}
}

// identify notes whose a connection is, if it is one of c's.
func (c *Conns) identify(raw net.Conn, cert *x509.Certificate) {
	each, ok := raw.(*conn)
	if !ok {
		return
	}
	c.mu.Lock()
	defer c.mu.Unlock()
	each.cert = cert
}

type listener struct {
	net.Listener
	conns *Conns
}

// Accept implements net.Listener.
func (l *listener) Accept() (net.Conn, error) {
	raw, err := l.Listener.Accept()
	if err != nil {
		return nil, err
	}
	each := &conn{Conn: raw, conns: l.conns, opened: time.Now()}
	l.conns.mu.Lock()
	defer l.conns.mu.Unlock()
	if l.conns.live == nil {
		l.conns.live = make(map[*conn]struct{})
	}
	l.conns.live[each] = struct{}{}
	return each, nil
}

// conn is a connection as it was accepted, beneath TLS.
type conn struct {
	net.Conn
	conns  *Conns
	opened time.Time
	// cert is the client's, under the lock of conns.
	cert *x509.Certificate
}

// Close implements net.Conn. It also forgets the connection.
func (c *conn) Close() error {
	c.conns.mu.Lock()
	delete(c.conns.live, c)
	c.conns.mu.Unlock()
	return c.Conn.Close()
}
