// Package userauthtest is for tests of what stands at the edge: a device authority and an issuer of access tokens, under the test's control. What they
// make is good until the test changes it.
package userauthtest

import (
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/tls"
	"crypto/x509"
	"crypto/x509/pkix"
	"math/big"
	"net"
	"testing"
	"time"
)

// Authority signs the certificates of devices and of servers. It is safe for concurrent use.
type Authority struct {
	cert *x509.Certificate
	key  *ecdsa.PrivateKey
}

// Template changes a certificate before it is signed. A test of what is refused makes a bad certificate with it.
type Template func(*x509.Certificate)

// Until makes a certificate end at a moment.
func Until(end time.Time) Template { return func(c *x509.Certificate) { c.NotAfter = end } }

// NewAuthority returns an authority with a fresh root.
func NewAuthority(t testing.TB) *Authority {
	t.Helper()
	key := newKey(t)
	template := newTemplate(t, "authority")
	template.IsCA, template.BasicConstraintsValid, template.KeyUsage = true, true, x509.KeyUsageCertSign
	a := &Authority{cert: template, key: key}
	a.cert = a.sign(t, template, key)
	return a
}

// Pool returns the root, for one who verifies.
func (a *Authority) Pool() *x509.CertPool {
	pool := x509.NewCertPool()
	pool.AddCert(a.cert)
	return pool
}

// DER returns the root as it is sent.
func (a *Authority) DER() []byte { return a.cert.Raw }

// Device returns the certificate of a device, with its key. Its name is its common name.
func (a *Authority) Device(t testing.TB, name string, templates ...Template) tls.Certificate {
	t.Helper()
	template := newTemplate(t, name)
	template.ExtKeyUsage = []x509.ExtKeyUsage{x509.ExtKeyUsageClientAuth}
	return a.issue(t, template, templates)
}

// Server returns the certificate of a server at localhost and the loopback addresses, with its key.
func (a *Authority) Server(t testing.TB, templates ...Template) tls.Certificate {
	t.Helper()
	template := newTemplate(t, "localhost")
	template.ExtKeyUsage = []x509.ExtKeyUsage{x509.ExtKeyUsageServerAuth}
	template.DNSNames, template.IPAddresses = []string{"localhost"}, []net.IP{net.IPv4(127, 0, 0, 1), net.IPv6loopback}
	return a.issue(t, template, templates)
}

func (a *Authority) issue(t testing.TB, template *x509.Certificate, templates []Template) tls.Certificate {
	t.Helper()
	for _, change := range templates {
		change(template)
	}
	key := newKey(t)
	leaf := a.sign(t, template, key)
	return tls.Certificate{Certificate: [][]byte{leaf.Raw}, PrivateKey: key, Leaf: leaf}
}

func (a *Authority) sign(t testing.TB, template *x509.Certificate, key *ecdsa.PrivateKey) *x509.Certificate {
	t.Helper()
	der, err := x509.CreateCertificate(rand.Reader, template, a.cert, &key.PublicKey, a.key)
	if err != nil {
		t.Fatalf("sign a certificate: %v", err)
	}
	cert, err := x509.ParseCertificate(der)
	if err != nil {
		t.Fatalf("parse a certificate: %v", err)
	}
	return cert
}

func newTemplate(t testing.TB, name string) *x509.Certificate {
	t.Helper()
	serial, err := rand.Int(rand.Reader, new(big.Int).Lsh(big.NewInt(1), 127))
	if err != nil {
		t.Fatal(err)
	}
	return &x509.Certificate{
		SerialNumber: serial.Add(serial, big.NewInt(1)),
		Subject:      pkix.Name{CommonName: name},
		NotBefore:    time.Now().Add(-time.Minute),
		NotAfter:     time.Now().Add(24 * time.Hour),
		KeyUsage:     x509.KeyUsageDigitalSignature,
	}
}

func newKey(t testing.TB) *ecdsa.PrivateKey {
	t.Helper()
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		t.Fatalf("generate a key: %v", err)
	}
	return key
}
