package edge_test

import (
	"context"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/tls"
	"crypto/x509"
	"fmt"
	"io"
	"math/big"
	"net"
	"slices"
	"sync"
	"testing"
	"time"

	"github.com/countersign-mesh/countersign/pkg/userauth"
	"github.com/countersign-mesh/countersign/pkg/userauth/edge"
	"github.com/countersign-mesh/countersign/pkg/userauth/userauthtest"
)

// door is a listener with the edge's TLS, which answers each connection with one byte and waits for its end.
type door struct {
	authority *userauthtest.Authority
	pool      func() *x509.CertPool
	revoked   userauth.Revocations
	conns     edge.Conns
	address   string
}

func open(t *testing.T, opts ...edge.Option) *door {
	t.Helper()
	d := &door{authority: userauthtest.NewAuthority(t)}
	d.pool = d.authority.Pool
	server := d.authority.Server(t)
	config := edge.TLSConfig(func() (*tls.Certificate, error) { return &server, nil }, func() *x509.CertPool { return d.pool() },
		append([]edge.Option{edge.WithConns(&d.conns), edge.WithRevocations(&d.revoked)}, opts...)...)
	inner, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	d.address = inner.Addr().String()
	l := d.conns.Listener(inner)
	var serving sync.WaitGroup
	serving.Go(func() {
		for {
			conn, err := l.Accept()
			if err != nil {
				return
			}
			serving.Go(func() {
				defer conn.Close()
				secure := tls.Server(conn, config)
				if _, err := secure.Write([]byte{1}); err == nil {
					_, _ = io.Copy(io.Discard, secure)
				}
			})
		}
	})
	t.Cleanup(func() {
		_ = l.Close()
		d.conns.CutIf(func(*x509.Certificate) bool { return true })
		serving.Wait()
	})
	return d
}

func (d *door) client(certs ...tls.Certificate) *tls.Config {
	return &tls.Config{MinVersion: tls.VersionTLS12, RootCAs: d.authority.Pool(), ServerName: "localhost", Certificates: certs, NextProtos: []string{"h2"}}
}

// knock connects and returns the connection once it was let in.
func (d *door) knock(t *testing.T, config *tls.Config) (*tls.Conn, error) {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), 10*time.Second)
	defer cancel()
	raw, err := new(net.Dialer).DialContext(ctx, "tcp", d.address)
	if err != nil {
		return nil, err
	}
	conn := tls.Client(raw, config)
	if _, err := conn.Read(make([]byte, 1)); err != nil { // in TLS 1.3 a client's handshake ends before the server has seen its certificate
		_ = conn.Close()
		return nil, err
	}
	t.Cleanup(func() { _ = conn.Close() })
	return conn, nil
}

func TestWhoIsLetIn(t *testing.T) {
	t.Parallel()
	d, optional := open(t), open(t, edge.WithOptionalCertificate())
	other := userauthtest.NewAuthority(t)
	device := func(change userauthtest.Template) func(a *userauthtest.Authority) *tls.Certificate {
		return func(a *userauthtest.Authority) *tls.Certificate {
			cert := a.Device(t, "dev-phone", change)
			return &cert
		}
	}
	for _, c := range []struct {
		name string
		cert func(a *userauthtest.Authority) *tls.Certificate
		// in and inOptional are whether it is let in, with and without WithOptionalCertificate.
		in, inOptional bool
	}{
		{"a device", device(func(*x509.Certificate) {}), true, true},
		{"nobody", func(*userauthtest.Authority) *tls.Certificate { return nil }, false, true},
		{"another authority's", func(*userauthtest.Authority) *tls.Certificate { c := other.Device(t, "dev-phone"); return &c }, false, false},
		{"a server", func(a *userauthtest.Authority) *tls.Certificate { c := a.Server(t); return &c }, false, false},
		{"one for any use", device(func(c *x509.Certificate) { c.ExtKeyUsage = nil }), false, false},
		{"one for every use", device(func(c *x509.Certificate) { c.ExtKeyUsage = []x509.ExtKeyUsage{x509.ExtKeyUsageAny} }), false, false},
		{"one that may not sign", device(func(c *x509.Certificate) { c.KeyUsage = x509.KeyUsageKeyEncipherment }), false, false},
		{"an authority", device(func(c *x509.Certificate) { c.IsCA, c.BasicConstraintsValid = true, true }), false, false},
		{"an expired one", device(func(c *x509.Certificate) { c.NotAfter = time.Now().Add(-time.Second) }), false, false},
		{"one that is not valid yet", device(func(c *x509.Certificate) { c.NotBefore = time.Now().Add(time.Minute) }), false, false},
		{"one without its key", func(a *userauthtest.Authority) *tls.Certificate {
			cert := a.Device(t, "dev-phone")
			key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
			if err != nil {
				t.Fatal(err)
			}
			cert.PrivateKey = key
			return &cert
		}, false, false},
	} {
		t.Run(c.name, func(t *testing.T) {
			t.Parallel()
			for _, at := range []struct {
				door *door
				in   bool
			}{{d, c.in}, {optional, c.inOptional}} {
				config := at.door.client()
				if cert := c.cert(at.door.authority); cert != nil {
					// Not Certificates, of which a client sends only those that the server says it takes.
					config.GetClientCertificate = func(*tls.CertificateRequestInfo) (*tls.Certificate, error) { return cert, nil }
				}
				if _, err := at.door.knock(t, config); (err == nil) != at.in {
					t.Errorf("optional %v: %v", at.door == optional, err)
				}
			}
		})
	}
}

func TestOnlyNewConnectionsOfTLS13(t *testing.T) {
	t.Parallel()
	d := open(t)
	phone := d.authority.Device(t, "dev-phone")
	old := d.client(phone)
	old.MaxVersion = tls.VersionTLS12
	if _, err := d.knock(t, old); err == nil {
		t.Error("TLS 1.2 is spoken")
	}
	config := d.client(phone)
	config.ClientSessionCache = tls.NewLRUClientSessionCache(8)
	for range 3 {
		conn, err := d.knock(t, config)
		if err != nil || conn.ConnectionState().DidResume {
			t.Errorf("resumed: %v", err)
		}
	}
}

// An authority that is not known (yet) must not be taken for those of the web, which crypto/tls trusts where it is given none.
func TestNoAuthorities(t *testing.T) {
	t.Parallel()
	d := open(t)
	phone := d.authority.Device(t, "dev-phone")
	d.pool = func() *x509.CertPool { return nil }
	config, err := edge.TLSConfig(nil, d.pool).GetConfigForClient(&tls.ClientHelloInfo{})
	if err != nil || config.ClientCAs == nil {
		t.Errorf("those of the web are trusted: %v", err)
	}
	if _, err := d.knock(t, d.client(phone)); err == nil {
		t.Error("it is let in")
	}
	d.pool = d.authority.Pool
	if _, err := d.knock(t, d.client(phone)); err != nil {
		t.Errorf("once they are known: %v", err)
	}
}

func TestARevokedDevice(t *testing.T) {
	t.Parallel()
	d := open(t)
	phone, other := d.authority.Device(t, "dev-phone"), d.authority.Device(t, "dev-other")
	ctx, stop := context.WithCancel(t.Context())
	var following sync.WaitGroup
	following.Go(func() { _ = d.conns.Follow(ctx, &d.revoked) })
	defer following.Wait()
	defer stop()
	conn, err := d.knock(t, d.client(phone))
	if err != nil {
		t.Fatal(err)
	}
	if _, err := d.knock(t, d.client(other)); err != nil {
		t.Fatal(err)
	}
	if live := d.conns.Live(); len(live) != 2 || !live[0].Cert.Equal(phone.Leaf) || !live[1].Cert.Equal(other.Leaf) || live[0].RemoteAddr != conn.LocalAddr().String() {
		t.Errorf("connections %+v", live)
	}
	d.revoked.Add(userauth.Revocation{CertSerial: serial(phone), Until: time.Now().Add(time.Hour)})
	began := time.Now()
	if _, err := conn.Read(make([]byte, 1)); err == nil || time.Since(began) > time.Second {
		t.Errorf("after %v: %v", time.Since(began), err)
	}
	if _, err := d.knock(t, d.client(phone)); err == nil {
		t.Error("it comes in again")
	}
	// The one that was refused is closed once its client has been told why, and that one knows before.
	for tick := time.Tick(time.Millisecond); d.connected(phone); <-tick {
		if time.Since(began) > 10*time.Second {
			t.Fatal("a connection is left")
		}
	}
	if n := d.conns.Cut(serial(other)); n != 1 {
		t.Errorf("%d connections of the other", n)
	}
}

// connected reports whether a device has a connection.
func (d *door) connected(phone tls.Certificate) bool {
	return slices.ContainsFunc(d.conns.Live(), func(c edge.Conn) bool { return c.Cert != nil && c.Cert.Equal(phone.Leaf) })
}

func serial(cert tls.Certificate) string { return fmt.Sprintf("%x", cert.Leaf.SerialNumber) }

// A connection must not outlive the certificate that it was let in with.
func TestAnExpiredDeviceIsCut(t *testing.T) {
	t.Parallel()
	d := open(t)
	ctx, stop := context.WithCancel(t.Context())
	var following sync.WaitGroup
	following.Go(func() { _ = d.conns.Follow(ctx, &d.revoked) })
	defer following.Wait()
	defer stop()
	expires := time.Now().Add(4 * time.Second).Truncate(time.Second)
	conn, err := d.knock(t, d.client(d.authority.Device(t, "dev-phone", userauthtest.Until(expires))))
	if err != nil {
		t.Fatal(err)
	}
	if _, err := conn.Read(make([]byte, 1)); err == nil || time.Since(expires) < 0 || time.Since(expires) > time.Second {
		t.Errorf("%v after its certificate: %v", time.Since(expires), err)
	}
}

// A device that is revoked while it connects is refused or cut, whichever comes first: it is in the list before the revocations are looked at.
func TestRevocationsThatComeWhileDevicesConnect(t *testing.T) {
	t.Parallel()
	d := open(t)
	ctx, stop := context.WithCancel(t.Context())
	var all, following sync.WaitGroup
	following.Go(func() { _ = d.conns.Follow(ctx, &d.revoked) })
	defer following.Wait()
	defer stop()
	for i := range 30 {
		phone := d.authority.Device(t, "dev-phone", func(c *x509.Certificate) { c.SerialNumber = big.NewInt(int64(i + 1)) })
		all.Go(func() {
			conn, err := d.knock(t, d.client(phone))
			if err != nil {
				return
			}
			_ = conn.SetReadDeadline(time.Now().Add(time.Second))
			if _, err := conn.Read(make([]byte, 1)); err == nil || isTimeout(err) {
				t.Errorf("device %d is connected", i)
			}
		})
		all.Go(func() {
			d.revoked.Add(userauth.Revocation{CertSerial: serial(phone), Until: time.Now().Add(time.Hour)})
		})
	}
	all.Wait()
}

func isTimeout(err error) bool {
	timeout, ok := err.(net.Error) //nolint:errorlint // it is not wrapped
	return ok && timeout.Timeout()
}
