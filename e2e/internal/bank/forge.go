package bank

import (
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/tls"
	"crypto/x509"
	"crypto/x509/pkix"
	"math/big"
	"net/url"
	"testing"
	"time"
)

// Forger is a certificate authority that the mesh does not know.
type Forger struct {
	certificate *x509.Certificate
	key         *ecdsa.PrivateKey
}

// NewForger returns a Forger that claims a trust domain.
func NewForger(t testing.TB, trustDomain string) *Forger {
	t.Helper()
	template := &x509.Certificate{
		SerialNumber: big.NewInt(1), Subject: pkix.Name{CommonName: trustDomain},
		NotBefore: time.Now().Add(-time.Minute), NotAfter: time.Now().Add(time.Hour),
		URIs: []*url.URL{{Scheme: "spiffe", Host: trustDomain}},
		IsCA: true, BasicConstraintsValid: true, KeyUsage: x509.KeyUsageCertSign | x509.KeyUsageCRLSign,
	}
	key := NewKey(t)
	return &Forger{certificate: sign(t, template, template, key, key), key: key}
}

// Forge returns a certificate that would be a good SVID, were it not for who signed it.
func (f *Forger) Forge(t testing.TB, id string) tls.Certificate {
	t.Helper()
	key := NewKey(t)
	leaf := sign(t, leafTemplate(t, id), f.certificate, key, f.key)
	return tls.Certificate{Certificate: [][]byte{leaf.Raw, f.certificate.Raw}, PrivateKey: key, Leaf: leaf}
}

// SelfSigned returns a certificate for the ID that nobody but itself vouches for.
func SelfSigned(t testing.TB, id string) tls.Certificate {
	t.Helper()
	key := NewKey(t)
	template := leafTemplate(t, id)
	leaf := sign(t, template, template, key, key)
	return tls.Certificate{Certificate: [][]byte{leaf.Raw}, PrivateKey: key, Leaf: leaf}
}

// ForgeDevice returns a certificate that would be a good device's, were it not for who signed it.
func (f *Forger) ForgeDevice(t testing.TB, name string) tls.Certificate {
	t.Helper()
	key := NewKey(t)
	leaf := sign(t, deviceTemplate(name), f.certificate, key, f.key)
	return tls.Certificate{Certificate: [][]byte{leaf.Raw, f.certificate.Raw}, PrivateKey: key, Leaf: leaf}
}

// SelfSignedDevice returns a device's certificate that nobody but itself vouches for.
func SelfSignedDevice(t testing.TB, name string) tls.Certificate {
	t.Helper()
	key := NewKey(t)
	leaf := sign(t, deviceTemplate(name), deviceTemplate(name), key, key)
	return tls.Certificate{Certificate: [][]byte{leaf.Raw}, PrivateKey: key, Leaf: leaf}
}

func deviceTemplate(name string) *x509.Certificate {
	return &x509.Certificate{
		SerialNumber: big.NewInt(3), Subject: pkix.Name{CommonName: name},
		NotBefore: time.Now().Add(-time.Minute), NotAfter: time.Now().Add(time.Hour),
		BasicConstraintsValid: true, KeyUsage: x509.KeyUsageDigitalSignature, ExtKeyUsage: []x509.ExtKeyUsage{x509.ExtKeyUsageClientAuth},
	}
}

// NewKey returns a fresh P-256 key.
func NewKey(t testing.TB) *ecdsa.PrivateKey {
	t.Helper()
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	return key
}

func leafTemplate(t testing.TB, id string) *x509.Certificate {
	t.Helper()
	uri, err := url.Parse(id)
	if err != nil {
		t.Fatal(err)
	}
	return &x509.Certificate{
		SerialNumber: big.NewInt(2), URIs: []*url.URL{uri},
		NotBefore: time.Now().Add(-time.Minute), NotAfter: time.Now().Add(time.Hour),
		BasicConstraintsValid: true, KeyUsage: x509.KeyUsageDigitalSignature,
		ExtKeyUsage: []x509.ExtKeyUsage{x509.ExtKeyUsageServerAuth, x509.ExtKeyUsageClientAuth},
	}
}

func sign(t testing.TB, template, parent *x509.Certificate, key, parentKey *ecdsa.PrivateKey) *x509.Certificate {
	t.Helper()
	der, err := x509.CreateCertificate(rand.Reader, template, parent, &key.PublicKey, parentKey)
	if err != nil {
		t.Fatal(err)
	}
	certificate, err := x509.ParseCertificate(der)
	if err != nil {
		t.Fatal(err)
	}
	return certificate
}
