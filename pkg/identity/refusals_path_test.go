package identity_test

import (
	"bytes"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/asn1"
	"testing"
	"time"

	"github.com/spiffe/go-spiffe/v2/bundle/x509bundle"

	"github.com/countersign-mesh/countersign/pkg/meshtest"
)

// signerRefusals are chains whose intermediates may not sign.
func signerRefusals() []refusal {
	isCA := spec("X509-SVID §4.1 signer-ca-true")
	noPath := spec("X509-SVID §3.2 signer-without-path")
	keyCertSign := spec("X509-SVID §4.3 signer-key-cert-sign")
	return []refusal{
		{name: "an intermediate that is no CA", rule: "intermediate-ca", holds: isCA, chain: below(func(c *x509.Certificate) { c.IsCA = false })},
		{name: "another workload's SVID as an intermediate", rule: "intermediate-ca", holds: isCA, ordinary: true, chain: func(t *testing.T, tr *trusted) []*x509.Certificate {
			return append(tr.ca.SVID(t, "/payments").Certificates, tr.ca.SVID(t, "/ledger").Certificates...)
		}},
		{name: "an intermediate with a workload's ID", rule: "intermediate-trust-domain", holds: noPath, chain: below(named("spiffe://bank.test/payments")), ordinary: true},
		{name: "an intermediate without keyCertSign", rule: "intermediate-ca", holds: keyCertSign, chain: below(usage(x509.KeyUsageDigitalSignature))},
		{
			name: "an intermediate without a key usage", rule: "intermediate-ca", ordinary: true,
			holds: spec("X509-SVID §4.3 key-usage-set", "X509-SVID §4.3 signer-key-cert-sign"), chain: below(usage(0)),
		},
		{
			name: "an intermediate that may only sign for signing code", rule: "intermediate-key-usage", ordinary: true,
			holds: spec("X509-SVID §5.1 path-validation"), chain: below(extUsage(x509.ExtKeyUsageCodeSigning)),
		},
	}
}

// pathRefusals are chains that lead to no authority of the leaf's trust domain (ATTACKS 8 and 13).
func pathRefusals() []refusal {
	path := spec("X509-SVID §5.1 path-validation")
	signed := spec("SPIFFE-ID §3.2 signed")
	constraints := spec("X509-SVID §4.2 name-constraints")
	domain := spec("Trust Domain and Bundle §3 own-bundle", "Federation §4.2 not-merged", "Workload API §4.6 own-bundle")
	only := func(td string) meshtest.Template {
		return func(c *x509.Certificate) { c.PermittedURIDomains, c.PermittedDNSDomainsCritical = []string{td}, true }
	}
	not := func(c *x509.Certificate) {
		c.ExcludedURIDomains, c.PermittedDNSDomainsCritical = []string{"bank.test"}, true
	}
	return []refusal{
		{name: "no certificate", rule: "chain-length", holds: path, chain: func(*testing.T, *trusted) []*x509.Certificate { return nil }},
		{name: "a nil certificate", rule: "chain-length", holds: path, chain: func(*testing.T, *trusted) []*x509.Certificate { return []*x509.Certificate{nil} }},
		{name: "a certificate that was not parsed", rule: "chain-length", holds: path, chain: func(*testing.T, *trusted) []*x509.Certificate { return []*x509.Certificate{{}} }},
		{name: "an authority that is not in the bundle", rule: "path", holds: path, chain: func(t *testing.T, _ *trusted) []*x509.Certificate {
			return meshtest.NewCA(t, "bank.test").SVID(t, "/payments").Certificates
		}},
		{name: "an intermediate that is missing", rule: "path", holds: path, chain: func(t *testing.T, tr *trusted) []*x509.Certificate {
			return below()(t, tr)[:1]
		}},
		{name: "an unknown critical extension", rule: "path", holds: path, chain: leaf(func(c *x509.Certificate) {
			c.ExtraExtensions = []pkix.Extension{{Id: asn1.ObjectIdentifier{1, 3, 6, 1, 4, 1, 99999, 2}, Critical: true, Value: []byte{5, 0}}}
		})},
		{name: "an intermediate whose path length is used up", rule: "path", holds: path, chain: func(t *testing.T, tr *trusted) []*x509.Certificate {
			last := func(c *x509.Certificate) { c.MaxPathLen, c.MaxPathLenZero = 0, true }
			return tr.ca.Intermediate(t, last).Intermediate(t).SVID(t, "/payments").Certificates
		}},
		{name: "a DNS name outside the intermediate's name constraints", rule: "path", holds: path, chain: func(t *testing.T, tr *trusted) []*x509.Certificate {
			limited := func(c *x509.Certificate) { c.PermittedDNSDomains = []string{"bank.test"} }
			other := func(c *x509.Certificate) { c.DNSNames = []string{"evil.test"} }
			return tr.ca.Intermediate(t, limited).SVID(t, "/payments", other).Certificates
		}},
		{name: "an ID outside what an intermediate may sign", rule: "path", holds: constraints, chain: below(only("partner.test"))},
		{name: "an ID outside what a root may sign", rule: "path", holds: constraints, chain: under(only("partner.test"))},
		{name: "an ID that an intermediate is excluded from signing", rule: "path", holds: constraints, chain: below(not)},

		{name: "an ID that was changed after signing", rule: "path", holds: signed, chain: altered(func(_ *testing.T, _ *trusted, leaf *x509.Certificate) []byte {
			return bytes.Replace(leaf.Raw, []byte("bank.test/payments"), []byte("bank.test/operator"), 1)
		})},
		{name: "a public key that was changed after signing", rule: "path", holds: signed, chain: altered(func(t *testing.T, tr *trusted, leaf *x509.Certificate) []byte {
			other := tr.ca.SVID(t, "/payments").Certificates[0]
			return bytes.Replace(leaf.Raw, leaf.RawSubjectPublicKeyInfo, other.RawSubjectPublicKeyInfo, 1)
		})},

		{name: "a leaf of this trust domain signed by a federated one's authority", attack: 8, rule: "path", holds: domain, chain: func(t *testing.T, tr *trusted) []*x509.Certificate {
			return tr.partner.SVID(t, "/x", named("spiffe://bank.test/payments")).Certificates
		}},
		{name: "a leaf of a federated trust domain signed by this one's authority", attack: 8, rule: "path", holds: domain, chain: leaf(named("spiffe://partner.test/clearing"))},
		{name: "a trust domain that is not trusted", attack: 8, rule: "bundle", holds: domain, chain: func(t *testing.T, _ *trusted) []*x509.Certificate {
			return meshtest.NewCA(t, "evil.test").SVID(t, "/payments").Certificates
		}},
		{name: "a trust domain that begins like the trusted one", attack: 13, rule: "bundle", holds: domain, chain: leaf(named("spiffe://bank.test.evil/payments"))},
		{name: "a trust domain that ends like the trusted one", attack: 13, rule: "bundle", holds: domain, chain: leaf(named("spiffe://evil.bank.test/payments"))},
	}
}

// validityRefusals are chains that are not valid now (ATTACKS 9).
func validityRefusals() []refusal {
	path := spec("X509-SVID §5.1 path-validation")
	return []refusal{
		{name: "an expired leaf", attack: 9, rule: "validity", holds: path, chain: leaf(valid(-time.Hour, -time.Second))},
		{name: "a leaf that is not yet valid", attack: 9, rule: "validity", holds: path, chain: leaf(valid(time.Minute, time.Hour))},
		{name: "an expired intermediate", attack: 9, rule: "validity", holds: path, chain: below(valid(-time.Hour, -time.Second))},
		{name: "an intermediate that is not yet valid", attack: 9, rule: "validity", holds: path, chain: below(valid(time.Minute, time.Hour))},
		{name: "an expired authority", attack: 9, rule: "path", holds: path, chain: under(valid(-time.Hour, -time.Second))},
		{name: "an authority that is not yet valid", attack: 9, rule: "path", holds: path, chain: under(valid(time.Minute, time.Hour))},
	}
}

// bundleRefusals are good chains under a bundle that is not good (ATTACKS 10 and 11).
func bundleRefusals() []refusal {
	// plus returns the bundle with one more certificate.
	plus := func(more func(t *testing.T, tr *trusted) *x509.Certificate) func(*testing.T, *trusted) x509bundle.Source {
		return func(t *testing.T, tr *trusted) x509bundle.Source {
			bundle := tr.ca.Bundle()
			bundle.AddX509Authority(more(t, tr))
			return bundle
		}
	}
	root := func(templates ...meshtest.Template) func(*testing.T, *trusted) *x509.Certificate {
		return func(t *testing.T, _ *trusted) *x509.Certificate {
			return meshtest.NewCA(t, "bank.test", templates...).Bundle().X509Authorities()[0]
		}
	}
	svid := func(t *testing.T, tr *trusted) *x509.Certificate { return tr.ca.SVID(t, "/ledger").Certificates[0] }
	return []refusal{
		{
			name: "an empty bundle", attack: 10, rule: "bundle", holds: spec("Trust Domain and Bundle §4.1.3 empty-bundle"), chain: leaf(),
			bundles: func(_ *testing.T, tr *trusted) x509bundle.Source { return x509bundle.New(tr.ca.TrustDomain()) },
		},
		{
			name: "a bundle that is another trust domain's", attack: 8, rule: "bundle", chain: leaf(), ordinary: true,
			holds: spec("Trust Domain and Bundle §3 own-bundle", "Federation §4.2 not-merged"),
			bundles: func(_ *testing.T, tr *trusted) x509bundle.Source {
				return answer{x509bundle.FromX509Authorities(tr.partner.TrustDomain(), tr.ca.Bundle().X509Authorities())}
			},
		},
		{
			name: "a bundle with an SVID in it", attack: 11, rule: "bundle-authorities", chain: leaf(), ordinary: true,
			holds: spec("X509-SVID §4.1 signer-ca-true"), bundles: plus(svid),
		},
		{
			name: "a bundle with an authority without keyCertSign", attack: 11, rule: "bundle-authorities", chain: leaf(), ordinary: true,
			holds: spec("X509-SVID §4.3 signer-key-cert-sign"), bundles: plus(root(usage(x509.KeyUsageDigitalSignature))),
		},
		{
			name: "a bundle with an authority that has a workload's ID", rule: "bundle-authorities", chain: leaf(), ordinary: true,
			holds: spec("X509-SVID §3.2 signer-without-path"), bundles: plus(root(named("spiffe://bank.test/payments"))),
		},
	}
}
