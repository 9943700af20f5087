package meshtest

import (
	"crypto"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/x509"
	"crypto/x509/pkix"
	"fmt"
	"math/big"
	"net/url"
	"sync"
	"testing"
	"time"

	"github.com/spiffe/go-spiffe/v2/bundle/x509bundle"
	"github.com/spiffe/go-spiffe/v2/spiffeid"
	"github.com/spiffe/go-spiffe/v2/svid/x509svid"
)

// CA is the signing authority of a trust domain, under a test's control. It is safe for concurrent use.
type CA struct {
	td spiffeid.TrustDomain

	mu    sync.Mutex
	key   crypto.Signer
	chain []*x509.Certificate // from the signing certificate up to, without, the root
	roots []*x509.Certificate // the bundle, oldest first; the last one signs when chain is empty
}

// Template changes a certificate before it is signed. A test of what a verifier refuses makes a bad certificate with it.
type Template func(*x509.Certificate)

// Lifetime makes a certificate valid from half a minute ago until d from now.
func Lifetime(d time.Duration) Template {
	return func(c *x509.Certificate) { c.NotAfter = time.Now().Add(d) }
}

// NewCA returns an authority with a fresh root.
func NewCA(t testing.TB, trustDomain string, templates ...Template) *CA {
	t.Helper()
	td, err := spiffeid.TrustDomainFromString(trustDomain)
	if err != nil {
		t.Fatalf("trust domain %q: %v", trustDomain, err)
	}
	ca := &CA{td: td}
	ca.NewRoot(t, templates...)
	return ca
}

// TrustDomain returns the authority's trust domain.
func (ca *CA) TrustDomain() spiffeid.TrustDomain { return ca.td }

// NewRoot adds a root to the bundle and signs with it from now on. The roots before it stay in the bundle until Retire.
func (ca *CA) NewRoot(t testing.TB, templates ...Template) {
	t.Helper()
	key := newKey(t)
	template := authority(t, ca.td, templates)
	root := sign(t, template, template, key.Public(), key)
	ca.mu.Lock()
	defer ca.mu.Unlock()
	ca.key, ca.chain, ca.roots = key, nil, append(ca.roots, root)
}

// Retire takes every root but the newest out of the bundle.
func (ca *CA) Retire() {
	ca.mu.Lock()
	defer ca.mu.Unlock()
	ca.roots = ca.roots[len(ca.roots)-1:]
}

// Intermediate returns an authority below this one, with the same bundle. Its SVIDs carry the intermediate certificate.
func (ca *CA) Intermediate(t testing.TB, templates ...Template) *CA {
	t.Helper()
	ca.mu.Lock()
	defer ca.mu.Unlock()
	key := newKey(t)
	cert := sign(t, authority(t, ca.td, templates), ca.signer(), key.Public(), ca.key)
	return &CA{td: ca.td, key: key, chain: append([]*x509.Certificate{cert}, ca.chain...), roots: ca.roots}
}

// Bundle returns the trust domain's bundle as it is now.
func (ca *CA) Bundle() *x509bundle.Bundle {
	ca.mu.Lock()
	defer ca.mu.Unlock()
	return x509bundle.FromX509Authorities(ca.td, ca.roots)
}

// SVID signs an SVID that is valid for an hour, for the workload with this path, such as "/ledger". Templates may make it
// anything else.
func (ca *CA) SVID(t testing.TB, path string, templates ...Template) *x509svid.SVID {
	t.Helper()
	id, err := spiffeid.FromPath(ca.td, path)
	if err != nil {
		t.Fatalf("path %q: %v", path, err)
	}
	template := &x509.Certificate{
		SerialNumber: serial(t),
		Subject:      pkix.Name{Organization: []string{"meshtest"}},
		NotBefore:    time.Now().Add(-30 * time.Second),
		NotAfter:     time.Now().Add(time.Hour),
		KeyUsage:     x509.KeyUsageDigitalSignature,
		ExtKeyUsage:  []x509.ExtKeyUsage{x509.ExtKeyUsageServerAuth, x509.ExtKeyUsageClientAuth},
		URIs:         []*url.URL{id.URL()},

		BasicConstraintsValid: true,
	}
	for _, change := range templates {
		change(template)
	}
	ca.mu.Lock()
	defer ca.mu.Unlock()
	key := newKey(t)
	leaf := sign(t, template, ca.signer(), key.Public(), ca.key)
	return &x509svid.SVID{ID: id, Certificates: append([]*x509.Certificate{leaf}, ca.chain...), PrivateKey: key}
}

// signer returns the certificate that signs. The caller holds mu.
func (ca *CA) signer() *x509.Certificate {
	if len(ca.chain) > 0 {
		return ca.chain[0]
	}
	return ca.roots[len(ca.roots)-1]
}

func authority(t testing.TB, td spiffeid.TrustDomain, templates []Template) *x509.Certificate {
	t.Helper()
	number := serial(t)
	template := &x509.Certificate{
		SerialNumber: number,
		// Roots of one trust domain need names of their own, or a verifier tries each of them.
		Subject:   pkix.Name{Organization: []string{"meshtest"}, CommonName: fmt.Sprintf("%s %x", td, number)},
		NotBefore: time.Now().Add(-time.Minute),
		NotAfter:  time.Now().Add(24 * time.Hour),
		KeyUsage:  x509.KeyUsageCertSign | x509.KeyUsageCRLSign,
		URIs:      []*url.URL{td.ID().URL()},

		BasicConstraintsValid: true,
		IsCA:                  true,
	}
	for _, change := range templates {
		change(template)
	}
	return template
}

func sign(t testing.TB, template, parent *x509.Certificate, public crypto.PublicKey, key crypto.Signer) *x509.Certificate {
	t.Helper()
	der, err := x509.CreateCertificate(rand.Reader, template, parent, public, key)
	if err != nil {
		t.Fatalf("sign certificate: %v", err)
	}
	cert, err := x509.ParseCertificate(der)
	if err != nil {
		t.Fatalf("parse certificate: %v", err)
	}
	return cert
}

func newKey(t testing.TB) crypto.Signer {
	t.Helper()
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		t.Fatalf("generate key: %v", err)
	}
	return key
}

func serial(t testing.TB) *big.Int {
	t.Helper()
	n, err := rand.Int(rand.Reader, new(big.Int).Lsh(big.NewInt(1), 120))
	if err != nil {
		t.Fatalf("draw serial number: %v", err)
	}
	return n
}
