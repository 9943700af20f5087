package identity_test

import (
	"crypto/x509"
	"errors"
	"strings"
	"testing"
	"time"

	"github.com/spiffe/go-spiffe/v2/bundle/x509bundle"
	"github.com/spiffe/go-spiffe/v2/spiffeid"
	"github.com/spiffe/go-spiffe/v2/svid/x509svid"

	"github.com/countersign-mesh/countersign/pkg/identity"
	"github.com/countersign-mesh/countersign/pkg/meshtest"
)

func TestVerifyRefuses(t *testing.T) {
	t.Parallel()
	tested := map[string]bool{}
	for _, c := range allRefusals() {
		tested[c.rule] = true
		t.Run(c.title(), func(t *testing.T) {
			t.Parallel()
			holds(t, c.holds...)
			tr := newTrusted(t)
			chain := c.chain(t, tr)
			bundles := tr.bundles()
			if c.bundles != nil {
				bundles = c.bundles(t, tr)
			}
			var list *identity.Revocations
			if c.revoked != nil {
				list = c.revoked(tr, chain)
			}
			v := identity.NewVerifier(bundles, identity.WithRevocations(func() *identity.Revocations { return list }))
			peer, err := v.Verify(chain)
			var broken *identity.RuleError
			if !errors.As(err, &broken) || peer != nil || broken.Rule != c.rule {
				t.Fatalf("Verify = %v, %v; want a refusal by rule %s", peer, err, c.rule)
			}
			if !strings.Contains(err.Error(), broken.Section) {
				t.Errorf("error %q does not cite %q", err, broken.Section)
			}
			if len(chain) > 0 && chain[0] != nil && chain[0].Raw != nil {
				_, _, err = x509svid.Verify(chain, bundles)
				if in := err == nil; in != c.ordinary {
					t.Errorf("go-spiffe's verifier lets it in: %v, want %v (%v)", in, c.ordinary, err)
				}
			}
		})
	}
	for _, rule := range identity.Rules() {
		if !tested[rule] {
			t.Errorf("no chain is refused by rule %s", rule)
		}
	}
}

// ATTACKS 11: a leaf that got into the bundle would vouch for itself, and one bad certificate spoils the bundle for all.
func TestVerifyRefusesBundleWithoutCA(t *testing.T) {
	t.Parallel()
	holds(t, "X509-SVID §4.1 signer-ca-true")
	tr := newTrusted(t)
	thief := meshtest.NewCA(t, "bank.test").SVID(t, "/ledger").Certificates
	bundle := tr.ca.Bundle()
	bundle.AddX509Authority(thief[0])

	for _, c := range []struct {
		name  string
		chain []*x509.Certificate
	}{
		{"a leaf that is itself in the bundle", thief[:1]},
		{"a good leaf beside it", tr.ca.SVID(t, "/payments").Certificates},
	} {
		if _, _, err := x509svid.Verify(c.chain, bundle); err != nil {
			t.Errorf("%s: go-spiffe's verifier is expected to let it in: %v", c.name, err)
		}
		var broken *identity.RuleError
		if _, err := identity.NewVerifier(bundle).Verify(c.chain); !errors.As(err, &broken) || broken.Rule != "bundle-authorities" {
			t.Errorf("%s: %v, want a refusal by rule bundle-authorities", c.name, err)
		}
	}
}

// A source of bundles that is at fault makes nobody trusted, and brings nobody down.
func TestVerifyWithAFaultySource(t *testing.T) {
	t.Parallel()
	chain := meshtest.NewCA(t, "bank.test").SVID(t, "/payments").Certificates
	for _, c := range []struct {
		name    string
		bundles x509bundle.Source
		want    string
	}{
		{"no source", nil, "bundle"},
		{"no bundle and no error", answer{}, "bundle"},
		{"a bundle with nothing in place of a certificate", answer{x509bundle.FromX509Authorities(bankTest, []*x509.Certificate{nil})}, "bundle-authorities"},
		{"a bundle with a certificate that was not parsed", answer{x509bundle.FromX509Authorities(bankTest, []*x509.Certificate{{}})}, "bundle-authorities"},
	} {
		if peer, err := identity.NewVerifier(c.bundles).Verify(chain); ruleOf(err) != c.want {
			t.Errorf("%s: %v, %v; want a refusal by rule %s", c.name, peer, err, c.want)
		}
	}
}

func TestVerifierOptions(t *testing.T) {
	t.Parallel()
	holds(t, "Countersign lifetime")
	tr := newTrusted(t)
	twoHours := tr.ca.SVID(t, "/payments", valid(-time.Minute, 2*time.Hour)).Certificates
	at := func(d time.Duration) identity.VerifierOption {
		now := time.Now().Add(d)
		return identity.WithClock(func() time.Time { return now })
	}
	for _, c := range []struct {
		name string
		opt  identity.VerifierOption
		want string
	}{
		{"a ceiling above the lifetime accepts", identity.WithMaxLifetime(2 * time.Hour), ""},
		{"a ceiling below the lifetime refuses", identity.WithMaxLifetime(time.Hour), "leaf-lifetime"},
		{"no ceiling accepts", identity.WithMaxLifetime(0), ""},
		{"a clock beyond the expiry refuses", at(3 * time.Hour), "validity"},
		{"a clock before the beginning refuses", at(-5 * time.Minute), "validity"},
		{"a clock within accepts", at(time.Hour), ""},
	} {
		_, err := identity.NewVerifier(tr.bundles(), c.opt).Verify(twoHours)
		var broken *identity.RuleError
		errors.As(err, &broken)
		if (err == nil) != (c.want == "") || broken != nil && broken.Rule != c.want {
			t.Errorf("%s: %v", c.name, err)
		}
	}
	if peer, err := new(identity.Verifier).Verify(twoHours); err == nil {
		t.Errorf("the zero Verifier believes %v", peer)
	}
}

func TestPeerNotAfterIsTheEarliestInTheChain(t *testing.T) {
	t.Parallel()
	tr := newTrusted(t)
	ca := tr.ca.Intermediate(t, meshtest.Lifetime(10*time.Minute))
	peer, err := identity.NewVerifier(tr.bundles()).Verify(ca.SVID(t, "/payments").Certificates)
	if err != nil {
		t.Fatal(err)
	}
	if want := peer.Chain[1].NotAfter; !peer.NotAfter.Equal(want) || len(peer.Chain) != 3 {
		t.Errorf("NotAfter = %v, chain of %d; want the intermediate's %v", peer.NotAfter, len(peer.Chain), want)
	}
}

// An authority that was renewed with its old key gives two paths; the one that lives longest counts.
func TestPeerNotAfterIsThatOfTheLongestLivingPath(t *testing.T) {
	t.Parallel()
	old := newIssuer(t, "root", nil, nil, meshtest.Lifetime(10*time.Minute))
	renewed := newIssuer(t, "root", nil, old.key, meshtest.Lifetime(10*time.Hour))
	leaf := old.leaf(t)
	for _, roots := range [][]*x509.Certificate{{old.cert, renewed.cert}, {renewed.cert, old.cert}} {
		peer, err := identity.NewVerifier(x509bundle.FromX509Authorities(bankTest, roots)).Verify([]*x509.Certificate{leaf})
		if err != nil {
			t.Fatal(err)
		}
		if !peer.NotAfter.Equal(leaf.NotAfter) || !peer.Chain[1].Equal(renewed.cert) {
			t.Errorf("NotAfter = %v, want the leaf's %v by way of the renewed authority", peer.NotAfter, leaf.NotAfter)
		}
	}
}

func TestReverifyFollowsTheBundle(t *testing.T) {
	t.Parallel()
	holds(t, "Trust Domain and Bundle §4.1.3 empty-bundle", "X509-SVID §5.1 path-validation")
	ca := meshtest.NewCA(t, "bank.test")
	chain := ca.SVID(t, "/payments").Certificates
	now := time.Now()
	bundles := x509bundle.NewSet(ca.Bundle())
	v := identity.NewVerifier(bundles, identity.WithClock(func() time.Time { return now }))
	peer, err := v.Verify(chain)
	if err != nil {
		t.Fatal(err)
	}
	rule := func() string {
		t.Helper()
		_, err := v.Reverify(peer)
		var broken *identity.RuleError
		errors.As(err, &broken)
		if broken == nil {
			return ""
		}
		return broken.Rule
	}
	if got := rule(); got != "" {
		t.Errorf("with the same bundle it is refused by %s", got)
	}
	now = now.Add(2 * time.Hour)
	if got := rule(); got != "validity" {
		t.Errorf("with the same bundle, after its expiry, it is refused by %q", got)
	}
	now = now.Add(-2 * time.Hour)
	ca.NewRoot(t)
	bundles.Add(ca.Bundle())
	if got := rule(); got != "" {
		t.Errorf("with a new authority beside the old it is refused by %s", got)
	}
	spoiled := ca.Bundle()
	spoiled.AddX509Authority(chain[0])
	bundles.Add(spoiled)
	if got := rule(); got != "bundle-authorities" {
		t.Errorf("with a spoiled bundle it is refused by %q", got)
	}
	ca.Retire()
	bundles.Add(ca.Bundle())
	if got := rule(); got != "path" {
		t.Errorf("with the old authority gone it is refused by %q", got)
	}
	bundles.Add(x509bundle.New(ca.TrustDomain()))
	if got := rule(); got != "bundle" {
		t.Errorf("with an empty bundle it is refused by %q", got)
	}
	bundles.Remove(ca.TrustDomain())
	if got := rule(); got != "bundle" {
		t.Errorf("with the bundle gone it is refused by %q", got)
	}
	if _, err := v.Reverify(&identity.Peer{ID: spiffeid.RequireFromString("spiffe://bank.test/x")}); err == nil {
		t.Error("a peer that was never verified is accepted")
	}
}
