package identity_test

import (
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/x509"
	"math/big"
	"regexp"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/spiffe/go-spiffe/v2/bundle/x509bundle"
	"github.com/spiffe/go-spiffe/v2/spiffeid"

	"github.com/countersign-mesh/countersign/pkg/identity"
	"github.com/countersign-mesh/countersign/pkg/meshtest"
)

// grammar is SPIFFE-ID §2 for an ID with a path, written down a second time and in another way than the code has it.
var grammar = regexp.MustCompile(`^spiffe://[a-z0-9._-]{1,255}(/[A-Za-z0-9._-]+)+$`)

func wellFormed(id string) bool {
	return len(id) <= 2048 && grammar.MatchString(id) &&
		!slices.ContainsFunc(strings.Split(id[len("spiffe://"):], "/")[1:], func(s string) bool { return s == "." || s == ".." })
}

// lastOfChain trusts the last certificate of the chain under test, whatever trust domain is asked for. It is the most gullible
// bundle there is, so that a made-up chain gets past the question whether it is known.
type lastOfChain []*x509.Certificate

func (c lastOfChain) GetX509BundleForTrustDomain(td spiffeid.TrustDomain) (*x509bundle.Bundle, error) {
	return x509bundle.FromX509Authorities(td, c[len(c)-1:]), nil
}

// FuzzVerify holds that no chain makes the verifier panic, and that what it believes is what the standard asks for.
func FuzzVerify(f *testing.F) {
	f.Fuzz(func(t *testing.T, der []byte) {
		chain, err := x509.ParseCertificates(der)
		if err != nil || len(chain) == 0 {
			return
		}
		now := chain[0].NotBefore
		peer, err := identity.NewVerifier(lastOfChain(chain), identity.WithClock(func() time.Time { return now })).Verify(chain)
		if (peer == nil) == (err == nil) {
			t.Fatalf("Verify = %v, %v", peer, err)
		}
		if err != nil {
			return
		}
		leaf := peer.Chain[0]
		switch {
		case !wellFormed(peer.ID.String()):
			t.Errorf("ID %q is not well formed", peer.ID)
		case len(leaf.URIs) != 1 || leaf.URIs[0].String() != peer.ID.String():
			t.Errorf("ID %q, URIs %v", peer.ID, leaf.URIs)
		case leaf.IsCA || leaf.KeyUsage&(x509.KeyUsageCertSign|x509.KeyUsageCRLSign) != 0 || leaf.KeyUsage&x509.KeyUsageDigitalSignature == 0:
			t.Errorf("CA %v, key usage %b", leaf.IsCA, leaf.KeyUsage)
		case leaf.NotAfter.Sub(leaf.NotBefore) > 25*time.Hour:
			t.Errorf("lives %v", leaf.NotAfter.Sub(leaf.NotBefore))
		case len(peer.Chain) < 2 || !peer.Chain[len(peer.Chain)-1].IsCA:
			t.Errorf("a chain of %d vouches for itself", len(peer.Chain))
		case now.After(peer.NotAfter):
			t.Errorf("believed at %v, good until %v", now, peer.NotAfter)
		}
	})
}

// FuzzID holds that a URI SAN is believed if and only if it is a SPIFFE ID with a path, byte for byte.
func FuzzID(f *testing.F) {
	root := meshtest.NewCA(f, "bank.test").Bundle().X509Authorities()[0]
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		f.Fatal(err)
	}
	root.PublicKey = key.Public() // the root's own signature is of no interest to a verifier
	f.Fuzz(func(t *testing.T, uri string) {
		template := &x509.Certificate{
			SerialNumber: big.NewInt(1),
			NotBefore:    root.NotBefore,
			NotAfter:     root.NotBefore.Add(time.Hour),
			KeyUsage:     x509.KeyUsageDigitalSignature,
		}
		named(uri)(template)
		der, err := x509.CreateCertificate(rand.Reader, template, root, key.Public(), key)
		if err != nil {
			return
		}
		cert, err := x509.ParseCertificate(der)
		if err != nil {
			return // crypto/x509 refuses some before the verifier sees them
		}
		chain := []*x509.Certificate{cert}
		peer, err := identity.NewVerifier(lastOfChain{root}).Verify(chain)
		if (err == nil) != wellFormed(uri) {
			t.Errorf("%q: %v", uri, err)
		}
		if err == nil && peer.ID.String() != uri {
			t.Errorf("%q became %q", uri, peer.ID)
		}
	})
}
