package transport_test

import (
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/x509"
	"crypto/x509/pkix"
	"math/big"
	"net"
	"net/url"
	"sync/atomic"
	"testing"
	"time"

	"github.com/spiffe/go-spiffe/v2/bundle/x509bundle"

	"github.com/countersign-mesh/countersign/pkg/identity"
	"github.com/countersign-mesh/countersign/pkg/meshtest"
)

// renewedAuthority returns two certificates of one authority, with one key and two key IDs, and a leaf that it signed. The renewed one and the leaf
// live for an hour, the old one for as long as is said.
func renewedAuthority(t *testing.T, id *url.URL, life time.Duration) (old, renewed, leaf *x509.Certificate) {
	t.Helper()
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	issue := func(serial int64, life time.Duration, parent *x509.Certificate, template x509.Certificate) *x509.Certificate {
		template.SerialNumber, template.BasicConstraintsValid = big.NewInt(serial), true
		template.SubjectKeyId = []byte{byte(serial)}
		template.NotBefore, template.NotAfter = time.Now().Add(-time.Minute), time.Now().Add(life)
		if parent == nil {
			parent = &template
		}
		der, err := x509.CreateCertificate(rand.Reader, &template, parent, key.Public(), key)
		if err != nil {
			t.Fatal(err)
		}
		cert, err := x509.ParseCertificate(der)
		if err != nil {
			t.Fatal(err)
		}
		return cert
	}
	authority := x509.Certificate{Subject: pkix.Name{CommonName: "root"}, IsCA: true, KeyUsage: x509.KeyUsageCertSign}
	old, renewed = issue(1, life, nil, authority), issue(2, time.Hour, nil, authority)
	leaf = issue(3, time.Hour, old, x509.Certificate{URIs: []*url.URL{id}, KeyUsage: x509.KeyUsageDigitalSignature})
	return old, renewed, leaf
}

// After a change of authorities a chain is verified in full once, and not again at each later change.
func TestAChainIsVerifiedInFullOnceAfterAChangeOfAuthorities(t *testing.T) {
	t.Parallel()
	ca := meshtest.NewCA(t, "bank.test")
	old, renewed, leaf := renewedAuthority(t, &url.URL{Scheme: "spiffe", Host: "bank.test", Path: "/payments"}, time.Hour)
	bundle := func(root *x509.Certificate) *x509bundle.Bundle {
		return x509bundle.FromX509Authorities(ca.TrustDomain(), []*x509.Certificate{root})
	}
	id := newOwner(ca.SVID(t, "/ledger"), bundle(old))
	r := newRegistry(t, id)
	peer, err := identity.NewVerifier(id).Verify([]*x509.Certificate{leaf})
	if err != nil {
		t.Fatal(err)
	}
	eventually(t, "the first sweep", func() bool { return r.Sweeps() > 0 })
	near, far := net.Pipe()
	defer far.Close()
	if err := r.Adopt(peer, near); err != nil {
		t.Fatal(err)
	}
	id.trust(bundle(renewed))
	eventually(t, "it verifies by way of the renewed authority", func() bool {
		conns := r.Conns()
		return len(conns) == 1 && conns[0].Peer.Chain[1].Equal(renewed)
	})
	// The fast path looks the bundle up once, a whole verification once more.
	var lookups atomic.Int64
	swept := r.Sweeps()
	id.set(func(o *owner) { o.looked = func() { lookups.Add(1) } })
	eventually(t, "another sweep", func() bool { return r.Sweeps() > swept && lookups.Load() > 0 })
	id.set(func(*owner) {}) // the sweep before this one has ended when it is counted
	eventually(t, "a third sweep", func() bool { return r.Sweeps() > swept+1 })
	eventually(t, "its look-up", func() bool { return lookups.Load() > 1 })
	if got := lookups.Load(); got != 2 {
		t.Errorf("%d look-ups in two sweeps of one connection, want 2", got)
	}
}
