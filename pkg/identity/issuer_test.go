package identity_test

import (
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/x509"
	"crypto/x509/pkix"
	"math/big"
	"testing"
	"time"

	"github.com/countersign-mesh/countersign/pkg/meshtest"
)

// issuer is an authority whose key a test may certify more than once, which meshtest.CA does not do.
type issuer struct {
	cert *x509.Certificate
	key  *ecdsa.PrivateKey
}

// leaf returns a leaf that holds for an hour. It has the issuer's key, which no test minds.
func (i *issuer) leaf(t testing.TB, templates ...meshtest.Template) *x509.Certificate {
	t.Helper()
	template := &x509.Certificate{
		Subject:  pkix.Name{CommonName: "payments"},
		NotAfter: time.Now().Add(time.Hour),
		KeyUsage: x509.KeyUsageDigitalSignature,
	}
	named("spiffe://bank.test/payments")(template)
	return i.sign(t, template, i.key, templates...)
}

func (i *issuer) sign(t testing.TB, template *x509.Certificate, key *ecdsa.PrivateKey, templates ...meshtest.Template) *x509.Certificate {
	t.Helper()
	number, err := rand.Int(rand.Reader, new(big.Int).Lsh(big.NewInt(1), 120))
	if err != nil {
		t.Fatal(err)
	}
	template.SerialNumber, template.NotBefore, template.BasicConstraintsValid = number, time.Now().Add(-time.Minute), true
	for _, change := range templates {
		change(template)
	}
	der, err := x509.CreateCertificate(rand.Reader, template, i.cert, key.Public(), i.key)
	if err != nil {
		t.Fatal(err)
	}
	cert, err := x509.ParseCertificate(der)
	if err != nil {
		t.Fatal(err)
	}
	return cert
}

// newIssuer returns an authority below parent, or a root if parent is nil; with a fresh key if key is nil.
func newIssuer(t testing.TB, name string, parent *issuer, key *ecdsa.PrivateKey, templates ...meshtest.Template) *issuer {
	t.Helper()
	if key == nil {
		var err error
		if key, err = ecdsa.GenerateKey(elliptic.P256(), rand.Reader); err != nil {
			t.Fatal(err)
		}
	}
	template := &x509.Certificate{
		Subject:  pkix.Name{CommonName: name},
		NotAfter: time.Now().Add(24 * time.Hour),
		KeyUsage: x509.KeyUsageCertSign,
		IsCA:     true,
	}
	made := &issuer{key: key}
	if parent == nil {
		parent = &issuer{cert: template, key: key}
	}
	made.cert = parent.sign(t, template, key, templates...)
	return made
}
