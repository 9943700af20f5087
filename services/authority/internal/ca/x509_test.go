package ca

import (
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/x509"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"github.com/spiffe/go-spiffe/v2/bundle/x509bundle"
	"github.com/spiffe/go-spiffe/v2/svid/x509svid"

	"github.com/countersign-mesh/countersign/pkg/identity"
)

func issue(t testing.TB, c *CA, requests ...Request) *Issue {
	t.Helper()
	issued, err := c.IssueX509(requests...)
	if err != nil {
		t.Fatal(err)
	}
	return issued
}

// ATTACKS 1 to 3, 5, 6 and 12 say what a verifier refuses; what is issued here gives it no reason to.
func TestAnSVIDIsAsTheStandardAsks(t *testing.T) {
	t.Parallel()
	clk := newClock()
	c := newCA(t, bankConfig(), clk.Now)
	issued := issue(t, c, Request{ID: ledger, DNSNames: []string{"ledger", "localhost"}})
	svid := issued.SVIDs[0]
	leaf := certificates(t, svid.Certificates)[0]

	if leaf.IsCA || !leaf.BasicConstraintsValid {
		t.Error("the leaf must say that it is no CA (X509-SVID §4.1)")
	}
	if leaf.KeyUsage != x509.KeyUsageDigitalSignature {
		t.Errorf("key usage %b, want digitalSignature alone (X509-SVID §4.3)", leaf.KeyUsage)
	}
	if diff := cmp.Diff([]x509.ExtKeyUsage{x509.ExtKeyUsageServerAuth, x509.ExtKeyUsageClientAuth}, leaf.ExtKeyUsage); diff != "" {
		t.Errorf("extended key usage: %s", diff)
	}
	if len(leaf.URIs) != 1 || leaf.URIs[0].String() != "spiffe://bank.test/ledger" {
		t.Errorf("URI SANs %v, want the SPIFFE ID alone", leaf.URIs)
	}
	if diff := cmp.Diff([]string{"ledger", "localhost"}, leaf.DNSNames); diff != "" {
		t.Errorf("DNS SANs: %s", diff)
	}
	if bits := leaf.SerialNumber.BitLen(); bits < 65 || bits > 127 || leaf.SerialNumber.Sign() <= 0 {
		t.Errorf("serial number %v has %d bits", leaf.SerialNumber, bits)
	}
	now := clk.Now()
	if want := now.Add(time.Hour).Truncate(time.Second); !leaf.NotAfter.Equal(want) || !svid.NotAfter.Equal(want) || !issued.NotAfter.Equal(want) {
		t.Errorf("it ends at %s, want %s", leaf.NotAfter, want)
	}
	if back := now.Sub(leaf.NotBefore); back < svidBackdate || back > svidBackdate+time.Second {
		t.Errorf("it begins %s ago, want %s", back, svidBackdate)
	}
	key, err := x509.ParsePKCS8PrivateKey(svid.Key)
	if err != nil {
		t.Fatal(err)
	}
	private, ok := key.(*ecdsa.PrivateKey)
	if !ok || private.Curve != elliptic.P256() || !private.PublicKey.Equal(leaf.PublicKey) {
		t.Error("the key is not the leaf's, or not on P-256")
	}
	if err := leaf.VerifyHostname("localhost"); err != nil {
		t.Errorf("a stock TLS client: %v", err)
	}
}

func TestAnAuthorityIsAsTheStandardAsks(t *testing.T) {
	t.Parallel()
	c := newCA(t, bankConfig(), newClock().Now)
	roots := certificates(t, c.X509Bundle())
	if len(roots) != 1 {
		t.Fatalf("%d authorities at first, want 1", len(roots))
	}
	root := roots[0]
	if !root.IsCA || !root.BasicConstraintsValid || root.KeyUsage != x509.KeyUsageCertSign|x509.KeyUsageCRLSign {
		t.Errorf("CA %t, key usage %b", root.IsCA, root.KeyUsage)
	}
	if len(root.URIs) != 1 || root.URIs[0].String() != "spiffe://bank.test" {
		t.Errorf("URI SANs %v, want the trust domain", root.URIs)
	}
	if len(root.SubjectKeyId) != 20 || !cmp.Equal(root.SubjectKeyId, root.AuthorityKeyId) {
		t.Errorf("key IDs %x and %x", root.SubjectKeyId, root.AuthorityKeyId)
	}
	if root.Subject.String() == "" {
		t.Error("the subject is empty")
	}
}

// What is issued satisfies the mesh's own verifier and go-spiffe's.
func TestAnSVIDSatisfiesStrictVerifiers(t *testing.T) {
	t.Parallel()
	c := newCA(t, bankConfig(), time.Now)
	for name, ttl := range map[string]time.Duration{"the default life": 0, "the shortest": MinTTL, "the longest": MaxTTL} {
		issued := issue(t, c, Request{ID: ledger, TTL: ttl})
		svid, err := x509svid.ParseRaw(issued.SVIDs[0].Certificates, issued.SVIDs[0].Key)
		if err != nil {
			t.Fatalf("%s: %v", name, err)
		}
		bundle, err := x509bundle.ParseRaw(bankTD, issued.Bundle)
		if err != nil {
			t.Fatal(err)
		}
		if _, _, err := x509svid.Verify(svid.Certificates, bundle); err != nil {
			t.Errorf("%s: go-spiffe refuses it: %v", name, err)
		}
		if life := svid.Certificates[0].NotAfter.Sub(svid.Certificates[0].NotBefore); life > MaxTTL { // ATTACKS 12
			t.Errorf("%s: it lives for %s, over the ceiling of verifiers", name, life)
		}
		peer, err := identity.NewVerifier(bundle).Verify(svid.Certificates)
		if err != nil {
			t.Errorf("%s: the mesh's verifier refuses it: %v", name, err)
			continue
		}
		if peer.ID != ledger || peer.Serial != issued.SVIDs[0].Serial {
			t.Errorf("%s: it is %s with serial %s", name, peer.ID, peer.Serial)
		}
	}
}

func TestEverySVIDHasAKeyAndASerialOfItsOwn(t *testing.T) {
	t.Parallel()
	c := newCA(t, bankConfig(), newClock().Now)
	seen := make(map[string]bool)
	for range 20 {
		for _, svid := range issue(t, c, Request{ID: ledger}, Request{ID: ledger}).SVIDs {
			if seen[svid.Serial] || seen[string(svid.Key)] {
				t.Fatal("a serial or a key came twice")
			}
			seen[svid.Serial], seen[string(svid.Key)] = true, true
		}
	}
}

func TestAnSVIDNeverOutlivesItsAuthority(t *testing.T) {
	t.Parallel()
	clk := newClock()
	c := newCA(t, bankConfig(), clk.Now)
	clk.Advance(10 * time.Hour)
	issued := issue(t, c, Request{ID: ledger, TTL: 24 * time.Hour})
	root := certificates(t, issued.Bundle)[0]
	if leaf := certificates(t, issued.SVIDs[0].Certificates)[0]; !leaf.NotAfter.Equal(root.NotAfter) {
		t.Errorf("the leaf ends at %s, its authority at %s", leaf.NotAfter, root.NotAfter)
	}
}
