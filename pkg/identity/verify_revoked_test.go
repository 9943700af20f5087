package identity_test

import (
	"crypto/ecdsa"
	"crypto/sha1"
	"crypto/x509"
	"encoding/hex"
	"errors"
	"strings"
	"testing"

	"github.com/spiffe/go-spiffe/v2/bundle/x509bundle"
	"github.com/spiffe/go-spiffe/v2/spiffeid"

	"github.com/countersign-mesh/countersign/pkg/identity"
	"github.com/countersign-mesh/countersign/pkg/meshtest"
)

// A key that was broken into is out by whatever name a certificate gives it: the same key in a second certificate, or in one without a name.
func TestAnAuthorityIsRevokedByItsKey(t *testing.T) {
	t.Parallel()
	for _, c := range []struct {
		name   string
		second []byte // the subject key ID of the certificate that is on the path
	}{
		{"named as in the list", []byte{1, 2, 3}},
		{"named otherwise", []byte{4, 5, 6}},
	} {
		t.Run(c.name, func(t *testing.T) {
			t.Parallel()
			ca := meshtest.NewCA(t, "bank.test", func(cert *x509.Certificate) { cert.SubjectKeyId = c.second })
			root := ca.Bundle().X509Authorities()[0]
			list := listOf(identity.Revocation{Authority: sha1Of(t, root)})
			v := identity.NewVerifier(ca.Bundle(), identity.WithRevocations(func() *identity.Revocations { return list }))
			if _, err := v.Verify(ca.SVID(t, "/payments").Certificates); ruleOf(err) != "not-revoked" {
				t.Errorf("err = %v", err)
			}
		})
	}
}

// sha1Of is the subject key ID that RFC 5280 §4.2.1.2 proposes first.
func sha1Of(t *testing.T, cert *x509.Certificate) string {
	t.Helper()
	public, ok := cert.PublicKey.(*ecdsa.PublicKey)
	if !ok {
		t.Fatalf("the key is a %T", cert.PublicKey)
	}
	key, err := public.ECDH()
	if err != nil {
		t.Fatal(err)
	}
	sum := sha1.Sum(key.Bytes())
	return hex.EncodeToString(sum[:])
}

// revoking returns the revocation of something of a chain, such as its leaf's serial number.
func revoking(entry func(chain []*x509.Certificate) identity.Revocation) func(*trusted, []*x509.Certificate) *identity.Revocations {
	return func(_ *trusted, chain []*x509.Certificate) *identity.Revocations {
		return listOf(entry(chain))
	}
}

// revocationRefusals are chains that are good in all but that somebody on them was revoked.
func revocationRefusals() []refusal {
	serial := func(chain []*x509.Certificate) identity.Revocation {
		return identity.Revocation{Serial: chain[0].SerialNumber.Text(16)}
	}
	intermediate := func(chain []*x509.Certificate) identity.Revocation {
		return identity.Revocation{Authority: identity.AuthorityOf(chain[1])}
	}
	root := func(tr *trusted, _ []*x509.Certificate) *identity.Revocations {
		return listOf(identity.Revocation{Authority: identity.AuthorityOf(tr.ca.Bundle().X509Authorities()[0])})
	}
	revocation := spec("Countersign revocation")
	return []refusal{
		{name: "a revoked ID", rule: "not-revoked", holds: revocation, chain: leaf(), ordinary: true, revoked: revoking(func([]*x509.Certificate) identity.Revocation {
			return identity.Revocation{ID: spiffeid.RequireFromString("spiffe://bank.test/payments")}
		})},
		{name: "a revoked serial number", rule: "not-revoked", holds: revocation, chain: leaf(), ordinary: true, revoked: revoking(serial)},
		{name: "a revoked root", rule: "not-revoked", holds: revocation, chain: leaf(), ordinary: true, revoked: root},
		{name: "a revoked root above an intermediate", rule: "not-revoked", holds: revocation, chain: below(), ordinary: true, revoked: root},
		{name: "a revoked intermediate", rule: "not-revoked", holds: revocation, chain: below(), ordinary: true, revoked: revoking(intermediate)},
	}
}

// Neither a prefix nor a neighbour of what was revoked is refused.
func TestVerifyAcceptsWhomNoEntryNames(t *testing.T) {
	t.Parallel()
	tr := newTrusted(t)
	other := meshtest.NewCA(t, "bank.test")
	chain := tr.ca.Intermediate(t).SVID(t, "/payments").Certificates
	for _, c := range []struct {
		name  string
		entry identity.Revocation
	}{
		{"the ID of another workload", identity.Revocation{ID: spiffeid.RequireFromString("spiffe://bank.test/payments/x")}},
		{"the same path in another trust domain", identity.Revocation{ID: spiffeid.RequireFromString("spiffe://partner.test/payments")}},
		{"the ID of the trust domain", identity.Revocation{ID: spiffeid.RequireFromString("spiffe://bank.test")}},
		{"the serial number of an earlier SVID", identity.Revocation{Serial: "4f3a19"}},
		// A serial number is that of an SVID. Authorities are revoked by their key.
		{"the serial number of the intermediate", identity.Revocation{Serial: chain[1].SerialNumber.Text(16)}},
		{"an authority that is not on the path", identity.Revocation{Authority: identity.AuthorityOf(other.Bundle().X509Authorities()[0])}},
	} {
		list := listOf(c.entry)
		v := identity.NewVerifier(tr.bundles(), identity.WithRevocations(func() *identity.Revocations { return list }))
		if _, err := v.Verify(chain); err != nil {
			t.Errorf("%s: %v", c.name, err)
		}
	}
	none := func() *identity.Revocations { return nil }
	if _, err := identity.NewVerifier(tr.bundles(), identity.WithRevocations(none)).Verify(chain); err != nil {
		t.Errorf("the nil list: %v", err)
	}
}

// The error names what was revoked and where that stands, so that whoever is locked out can be told why.
func TestRevokedErrorNamesTheEntry(t *testing.T) {
	t.Parallel()
	tr := newTrusted(t)
	chain := tr.ca.SVID(t, "/payments").Certificates
	authority := identity.AuthorityOf(tr.ca.Bundle().X509Authorities()[0])
	id := spiffeid.RequireFromString("spiffe://bank.test/payments")
	for _, c := range []struct{ name, what, where string }{
		{"the first of two entries for the same", id.String(), "bank.yaml:12"},
		{"an authority", authority, "bank.yaml:20"},
	} {
		list := listOf(identity.Revocation{ID: id, Entry: "bank.yaml:12"}, identity.Revocation{ID: id, Entry: "bank.yaml:13"})
		if c.what == authority {
			list = listOf(identity.Revocation{Authority: authority, Entry: "bank.yaml:20"})
		}
		_, err := identity.NewVerifier(tr.bundles(), identity.WithRevocations(func() *identity.Revocations { return list })).Verify(chain)
		var revoked *identity.RevokedError
		if !errors.As(err, &revoked) || revoked.Entry != c.where || !strings.Contains(revoked.What, c.what) || !strings.Contains(err.Error(), c.where) {
			t.Errorf("%s: %v, want %q and %q", c.name, err, c.what, c.where)
		}
	}
}

// An intermediate that two roots have signed gives two paths. Revoking one root leaves the other, which counts from then on.
func TestARevokedRootLeavesTheOtherPathOpen(t *testing.T) {
	t.Parallel()
	holds(t, "Countersign revocation")
	east, west := newIssuer(t, "east", nil, nil), newIssuer(t, "west", nil, nil)
	byEast := newIssuer(t, "intermediate", east, nil)
	byWest := newIssuer(t, "intermediate", west, byEast.key)
	chain := []*x509.Certificate{byEast.leaf(t), byEast.cert, byWest.cert}
	bundle := x509bundle.FromX509Authorities(bankTest, []*x509.Certificate{east.cert, west.cert})

	var list *identity.Revocations
	v := identity.NewVerifier(bundle, identity.WithRevocations(func() *identity.Revocations { return list }))
	peer, err := v.Verify(chain)
	if err != nil {
		t.Fatal(err)
	}
	for _, c := range []struct {
		name    string
		revoked []*issuer
		root    *issuer // at the end of the path that is left; nil if none is
	}{
		{"one root", []*issuer{east}, west},
		{"the other root", []*issuer{west}, east},
		{"both roots", []*issuer{east, west}, nil},
		// It is one authority with one key, whoever signed its certificates.
		{"the intermediate", []*issuer{byEast}, nil},
	} {
		var entries []identity.Revocation
		for _, r := range c.revoked {
			entries = append(entries, identity.Revocation{Authority: identity.AuthorityOf(r.cert)})
		}
		list = listOf(entries...)
		for how, verify := range map[string]func() (*identity.Peer, error){
			"verified anew": func() (*identity.Peer, error) { return v.Verify(chain) },
			"reverified":    func() (*identity.Peer, error) { return v.Reverify(peer) },
		} {
			got, err := verify()
			if c.root == nil {
				if ruleOf(err) != "not-revoked" {
					t.Errorf("%s revoked, %s: %v, %v", c.name, how, got, err)
				}
				continue
			}
			if err != nil {
				t.Errorf("%s revoked, %s: %v", c.name, how, err)
			} else if end := got.Chain[len(got.Chain)-1]; !end.Equal(c.root.cert) {
				t.Errorf("%s revoked, %s: the path ends at %s", c.name, how, end.Subject)
			}
		}
	}
}

// Whoever was verified before is refused from the moment the list names them, and believed again when it no longer does.
func TestReverifyFollowsTheList(t *testing.T) {
	t.Parallel()
	holds(t, "Countersign revocation")
	tr := newTrusted(t)
	chain := tr.ca.Intermediate(t).SVID(t, "/payments").Certificates
	var list *identity.Revocations
	v := identity.NewVerifier(tr.bundles(), identity.WithRevocations(func() *identity.Revocations { return list }))
	peer, err := v.Verify(chain)
	if err != nil {
		t.Fatal(err)
	}
	for _, c := range []struct {
		name  string
		entry identity.Revocation
	}{
		{"by ID", identity.Revocation{ID: peer.ID}},
		{"by serial number", identity.Revocation{Serial: peer.Serial}},
		{"by intermediate", identity.Revocation{Authority: identity.AuthorityOf(peer.Chain[1])}},
		{"by root", identity.Revocation{Authority: identity.AuthorityOf(peer.Chain[2])}},
	} {
		list = listOf(c.entry)
		if _, err := v.Reverify(peer); ruleOf(err) != "not-revoked" {
			t.Errorf("revoked %s: %v", c.name, err)
		}
		list = listOf()
		if _, err := v.Reverify(peer); err != nil {
			t.Errorf("no longer revoked %s: %v", c.name, err)
		}
	}
}
