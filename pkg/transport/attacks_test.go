package transport_test

import (
	"context"
	"crypto/tls"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/asn1"
	"fmt"
	"io"
	"net"
	"net/url"
	"strings"
	"testing"
	"time"

	"github.com/spiffe/go-spiffe/v2/bundle/x509bundle"
	"github.com/spiffe/go-spiffe/v2/spiffegrpc/grpccredentials"
	"github.com/spiffe/go-spiffe/v2/spiffetls/tlsconfig"
	"google.golang.org/grpc/credentials"

	"github.com/countersign-mesh/countersign/pkg/meshtest"
)

// attack is something that an attacker does in a handshake, as a client or as a server.
type attack struct {
	number int // in the catalogue of attacks
	name   string
	// config is the attacker's; it starts from one that is in order, with the SVID of the role.
	config func(t *testing.T, w *world, c *tls.Config)
	// want is what the error says.
	want string
	// ordinary: the ordinary configuration lets it in. The test shows that too.
	ordinary bool
	// crashes: the ordinary configuration panics, which ends the process.
	crashes bool
}

// with replaces the attacker's SVID by one that was changed.
func with(templates ...meshtest.Template) func(*testing.T, *world, *tls.Config) {
	return func(t *testing.T, w *world, c *tls.Config) {
		c.Certificates = []tls.Certificate{certificate(w.ca.SVID(t, "/payments", templates...))}
	}
}

func uris(all ...string) meshtest.Template {
	return func(c *x509.Certificate) {
		c.URIs = nil
		var names []asn1.RawValue
		for _, uri := range all {
			names = append(names, asn1.RawValue{Class: asn1.ClassContextSpecific, Tag: 6, Bytes: []byte(uri)})
		}
		value, err := asn1.Marshal(names)
		if err != nil {
			panic(err)
		}
		c.ExtraExtensions = append(c.ExtraExtensions, pkix.Extension{Id: asn1.ObjectIdentifier{2, 5, 29, 17}, Value: value})
	}
}

// handshakeAttacks are those that client and server can make alike.
func handshakeAttacks() []attack {
	expired := func(c *x509.Certificate) {
		c.NotBefore, c.NotAfter = time.Now().Add(-time.Hour), time.Now().Add(-time.Second)
	}
	foreign := func(c *x509.Certificate) { c.URIs = []*url.URL{{Scheme: "spiffe", Host: "partner.test"}} }
	return []attack{
		{1, "a certificate with the CA flag", with(func(c *x509.Certificate) { c.IsCA = true }), "leaf-not-ca", false, false},
		{2, "two SPIFFE IDs", with(uris("spiffe://bank.test/payments", "spiffe://bank.test/ledger")), "leaf-one-uri", false, false},
		{2, "a second URI that is not spiffe", with(uris("spiffe://bank.test/payments", "https://bank.test/")), "leaf-one-uri", false, false},
		{3, "an ID without a path", with(uris("spiffe://bank.test")), "spiffe-id-path", false, true},
		{4, "an ID over 2,048 bytes", with(uris("spiffe://bank.test/" + strings.Repeat("a", 2048))), "spiffe-id-length", false, true},
		{5, "no digitalSignature", with(func(c *x509.Certificate) { c.KeyUsage = x509.KeyUsageKeyAgreement }), "leaf-digital-signature", true, false},
		{6, "an EKU without client and server", with(func(c *x509.Certificate) { c.ExtKeyUsage = []x509.ExtKeyUsage{x509.ExtKeyUsageCodeSigning} }), "leaf-extended-key-usage", true, false},
		{7, "an ID with a port", with(uris("spiffe://bank.test:1/payments")), "spiffe-id-grammar", false, false},
		{7, "an ID with an empty fragment", with(uris("spiffe://bank.test/payments#")), "spiffe-id-grammar", true, false},
		{8, "another trust domain's authority", func(t *testing.T, _ *world, c *tls.Config) {
			c.Certificates = []tls.Certificate{certificate(meshtest.NewCA(t, "evil.test").SVID(t, "/payments"))}
		}, "rule bundle", false, false},
		{8, "an intermediate with a foreign trust domain's ID", func(t *testing.T, w *world, c *tls.Config) {
			c.Certificates = []tls.Certificate{certificate(w.ca.Intermediate(t, foreign).SVID(t, "/payments"))}
		}, "intermediate-trust-domain", true, false},
		{9, "an expired SVID", with(expired), "rule validity", false, false},
		{9, "an SVID that is not valid yet", with(func(c *x509.Certificate) { c.NotBefore = time.Now().Add(5 * time.Minute) }), "rule validity", false, false},
		{9, "an expired intermediate authority", func(t *testing.T, w *world, c *tls.Config) {
			c.Certificates = []tls.Certificate{certificate(w.ca.Intermediate(t, expired).SVID(t, "/payments"))}
		}, "rule validity", false, false},
		{9, "an expired authority", func(t *testing.T, w *world, c *tls.Config) {
			w.ca.NewRoot(t, expired)
			w.trust(w.ca.Bundle())
			c.Certificates = []tls.Certificate{certificate(w.ca.SVID(t, "/payments"))}
		}, "rule path", false, false},
		{10, "a trust domain whose bundle is empty", func(_ *testing.T, w *world, _ *tls.Config) {
			w.trust(x509bundle.New(w.ca.TrustDomain()))
		}, "its bundle is empty", false, false},
		{11, "a leaf that is itself in the bundle", func(t *testing.T, w *world, c *tls.Config) {
			thief, bundle := meshtest.NewCA(t, "bank.test").SVID(t, "/payments"), w.ca.Bundle()
			bundle.AddX509Authority(thief.Certificates[0])
			w.trust(bundle)
			c.Certificates = []tls.Certificate{certificate(thief)}
		}, "rule bundle-authorities", true, false},
		{12, "an SVID that lives a year", with(meshtest.Lifetime(365 * 24 * time.Hour)), "leaf-lifetime", true, false},
		{13, "a trust domain whose name begins like a trusted one", func(t *testing.T, _ *world, c *tls.Config) {
			c.Certificates = []tls.Certificate{certificate(meshtest.NewCA(t, "bank.test.evil").SVID(t, "/payments"))}
		}, "rule bundle", false, false},
		{16, "TLS 1.2", func(_ *testing.T, _ *world, c *tls.Config) { c.MaxVersion = tls.VersionTLS12 }, "version", true, false},
		{16, "no ALPN", func(_ *testing.T, _ *world, c *tls.Config) { c.NextProtos = nil }, "ALPN", false, false},
		{17, "a self-signed certificate", func(t *testing.T, _ *world, c *tls.Config) {
			c.Certificates = []tls.Certificate{certificate(meshtest.NewCA(t, "bank.test").SVID(t, "/payments"))}
		}, "rule path", false, false},
		{17, "a certificate without its key", func(t *testing.T, w *world, c *tls.Config) {
			c.Certificates[0].PrivateKey = w.ca.SVID(t, "/payments").PrivateKey
		}, "invalid signature", false, false},
	}
}

// handshakes lets an attacker's TLS end meet ours and returns how ours ended. A panic of ours becomes an error that says so.
func handshakes(t *testing.T, attacker func(net.Conn) error, ours func(net.Conn) (net.Conn, credentials.AuthInfo, error)) (info credentials.AuthInfo, err error) {
	t.Helper()
	listener := listen(t)
	done := make(chan struct{})
	go func() {
		defer close(done)
		conn, err := listener.Accept()
		if err != nil {
			return
		}
		defer conn.Close()
		_ = conn.SetDeadline(time.Now().Add(10 * time.Second))
		if attacker(conn) == nil {
			_, _ = io.Copy(io.Discard, conn) // until our end closes
		}
	}()
	raw, err := net.Dial("tcp", listener.Addr().String())
	if err != nil {
		t.Fatal(err)
	}
	defer func() {
		if p := recover(); p != nil {
			err = fmt.Errorf("panic: %v", p)
		}
		_ = raw.Close()
		<-done
	}()
	_ = raw.SetDeadline(time.Now().Add(10 * time.Second))
	conn, info, err := ours(raw)
	if err == nil {
		_ = conn.Close()
	}
	return info, err
}

// judge compares how our end and the ordinary one took an attack.
func judge(t *testing.T, a attack, ours, ordinary error) {
	t.Helper()
	if ours == nil || !strings.Contains(ours.Error(), a.want) {
		t.Errorf("ours: %v, want a refusal with %q", ours, a.want)
	}
	crashed := ordinary != nil && strings.HasPrefix(ordinary.Error(), "panic")
	if crashed != a.crashes || (ordinary == nil) != a.ordinary {
		t.Errorf("ordinary: %v; want let in %v, crashed %v", ordinary, a.ordinary, a.crashes)
	}
}

func TestServerRefuses(t *testing.T) {
	t.Parallel()
	attacks := append(handshakeAttacks(),
		attack{17, "no client certificate", func(_ *testing.T, _ *world, c *tls.Config) { c.Certificates = nil }, "didn't provide a certificate", false, false},
	)
	for _, a := range attacks {
		t.Run(fmt.Sprintf("ATTACKS %d: %s", a.number, a.name), func(t *testing.T) {
			t.Parallel()
			w := newWorld(t)
			config := &tls.Config{InsecureSkipVerify: true, NextProtos: []string{"h2"}, Certificates: []tls.Certificate{certificate(w.client.svid)}}
			a.config(t, w, config)
			attacker := func(conn net.Conn) error { return tls.Client(conn, config).Handshake() }
			_, ours := handshakes(t, attacker, w.inbound.Server().ServerHandshake)
			stock := grpccredentials.MTLSServerCredentials(w.server, w.server, tlsconfig.AuthorizeAny())
			_, ordinary := handshakes(t, attacker, stock.ServerHandshake)
			judge(t, a, ours, ordinary)
			if live := w.inbound.Conns(); len(live) != 0 {
				t.Errorf("the registry has %v", live)
			}
		})
	}
}

func TestClientRefuses(t *testing.T) {
	t.Parallel()
	for _, a := range handshakeAttacks() {
		t.Run(fmt.Sprintf("ATTACKS %d: %s", a.number, a.name), func(t *testing.T) {
			t.Parallel()
			w := newWorld(t)
			config := &tls.Config{NextProtos: []string{"h2"}, Certificates: []tls.Certificate{certificate(w.ca.SVID(t, "/payments"))}}
			a.config(t, w, config)
			attacker := func(conn net.Conn) error { return tls.Server(conn, config).Handshake() }
			client := func(creds credentials.TransportCredentials) func(net.Conn) (net.Conn, credentials.AuthInfo, error) {
				return func(conn net.Conn) (net.Conn, credentials.AuthInfo, error) {
					return creds.ClientHandshake(context.Background(), "payments:1", conn)
				}
			}
			_, ours := handshakes(t, attacker, client(w.outbound.Client(w.id("/payments"))))
			stock := grpccredentials.MTLSClientCredentials(w.client, w.client, tlsconfig.AuthorizeAny())
			_, ordinary := handshakes(t, attacker, client(stock))
			judge(t, a, ours, ordinary)
		})
	}
}

// ATTACKS 13 and 18: the client takes the one server that it means, and none whose name is like it.
func TestClientPinsServer(t *testing.T) {
	t.Parallel()
	for _, c := range []struct {
		name, domain, path string
		want               string
	}{
		{"the server that is meant", "bank.test", "/ledger", ""},
		{"another service", "bank.test", "/risk", "expected the server spiffe://bank.test/ledger, got spiffe://bank.test/risk"},
		{"a name that begins like it", "bank.test", "/ledger-evil", "expected the server"},
		{"a path below it", "bank.test", "/ledger/x", "expected the server"},
		{"the same path in a trust domain that is trusted too", "partner.test", "/ledger", "got spiffe://partner.test/ledger"},
		{"the same path in a trust domain that begins like it", "bank.test.evil", "/ledger", "not trusted"},
	} {
		t.Run(c.name, func(t *testing.T) {
			t.Parallel()
			ca := map[string]*meshtest.CA{}
			for _, td := range []string{"bank.test", "partner.test", "bank.test.evil"} {
				ca[td] = meshtest.NewCA(t, td)
			}
			bank, partner := ca["bank.test"], ca["partner.test"]
			client := newOwner(bank.SVID(t, "/payments"), bank.Bundle(), partner.Bundle())
			server := newOwner(ca[c.domain].SVID(t, c.path), bank.Bundle())
			addr := serve(t, newRegistry(t, server).Server())
			world := &world{ca: bank}
			err := check(t.Context(), dial(t, addr, newRegistry(t, client).Client(world.id("/ledger"))))
			if (err == nil) != (c.want == "") || err != nil && !strings.Contains(err.Error(), c.want) {
				t.Errorf("err = %v, want %q", err, c.want)
			}
		})
	}
}

// ATTACKS 17: a client that speaks plaintext, and one that says nothing.
func TestServerRefusesPlaintext(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	_, err := handshakes(t, func(conn net.Conn) error {
		_, err := io.WriteString(conn, "PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n")
		return err
	}, w.inbound.Server().ServerHandshake)
	if err == nil || !strings.Contains(err.Error(), "does not look like a TLS handshake") {
		t.Errorf("plaintext: %v", err)
	}
	_, err = handshakes(t, func(conn net.Conn) error { return conn.Close() }, w.inbound.Server().ServerHandshake)
	if err != io.EOF { //nolint:errorlint // gRPC compares it so
		t.Errorf("a connection that is closed at once: %v, want io.EOF as gRPC expects it", err)
	}
}
