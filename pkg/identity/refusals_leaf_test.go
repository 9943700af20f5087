package identity_test

import (
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/asn1"
	"testing"
	"time"

	"github.com/countersign-mesh/countersign/pkg/meshtest"
)

// leafRefusals are leaves that are no leaves, or whose name is not one URI (ATTACKS 1 to 3).
func leafRefusals() []refusal {
	ca := func(c *x509.Certificate) { c.IsCA = true }
	notCA := spec("X509-SVID §5.2 ca-flag", "X509-SVID §4.1 leaf-ca-false", "X509-SVID §3.2 signer-not-for-authentication")
	signsNothing := spec("X509-SVID §5.2 signs-nothing", "X509-SVID §4.3 leaf-signs-nothing", "X509-SVID §3.2 signer-not-for-authentication")
	one := spec("X509-SVID §2 exactly-one-uri")
	several := spec("X509-SVID §2 reject-several-uris", "X509-SVID §5.2 reject-several-uris")
	path := spec("X509-SVID §5.2 non-root-path", "X509-SVID §3.1 leaf-path")
	return []refusal{
		{name: "a leaf with the CA flag", attack: 1, rule: "leaf-not-ca", holds: notCA, chain: leaf(ca)},
		{name: "an authority's own certificate as a leaf", attack: 1, rule: "leaf-not-ca", holds: notCA, chain: func(_ *testing.T, tr *trusted) []*x509.Certificate {
			return tr.ca.Bundle().X509Authorities()
		}},
		{name: "an intermediate as a leaf", attack: 1, rule: "leaf-not-ca", holds: notCA, chain: func(t *testing.T, tr *trusted) []*x509.Certificate {
			return below()(t, tr)[1:]
		}},
		{name: "a leaf with keyCertSign", attack: 1, rule: "leaf-signs-nothing", holds: signsNothing, chain: leaf(usage(x509.KeyUsageDigitalSignature | x509.KeyUsageCertSign))},
		{name: "a leaf with cRLSign", attack: 1, rule: "leaf-signs-nothing", holds: signsNothing, chain: leaf(usage(x509.KeyUsageDigitalSignature | x509.KeyUsageCRLSign))},

		{name: "no URI SAN", attack: 2, rule: "leaf-one-uri", holds: one, chain: leaf(func(c *x509.Certificate) { c.URIs = nil })},
		{name: "a DNS name instead of a URI", attack: 2, rule: "leaf-one-uri", holds: one, chain: leaf(func(c *x509.Certificate) {
			c.URIs, c.DNSNames = nil, []string{"payments"}
		})},
		{name: "two SPIFFE IDs", attack: 2, rule: "leaf-one-uri", holds: several, chain: leaf(named("spiffe://bank.test/payments", "spiffe://bank.test/ledger"))},
		{name: "the same SPIFFE ID twice", attack: 2, rule: "leaf-one-uri", holds: several, chain: leaf(named("spiffe://bank.test/payments", "spiffe://bank.test/payments"))},
		{name: "a second URI that is not spiffe", attack: 2, rule: "leaf-one-uri", holds: several, chain: leaf(named("spiffe://bank.test/payments", "https://bank.test/payments"))},
		{name: "a first URI that is not spiffe", attack: 2, rule: "leaf-one-uri", holds: several, chain: leaf(named("https://bank.test/payments", "spiffe://bank.test/payments"))},

		{name: "an ID without a path", attack: 3, rule: "spiffe-id-path", holds: path, chain: leaf(named("spiffe://bank.test")), ordinary: true},
		{name: "an ID with the root path", attack: 3, rule: "spiffe-id-grammar", holds: path, chain: leaf(named("spiffe://bank.test/"))},

		{
			name: "neither a subject nor a critical name", rule: "leaf-name-critical", holds: spec("X509-SVID §3.1 name-critical"),
			chain: leaf(noSubject, named("spiffe://bank.test/payments")), ordinary: true,
		},
	}
}

// usageRefusals are leaves whose key is for something else (ATTACKS 5 and 6).
func usageRefusals() []refusal {
	signature := spec("X509-SVID §4.3 leaf-digital-signature")
	set := spec("X509-SVID §4.3 key-usage-set", "X509-SVID §4.3 leaf-digital-signature")
	critical := spec("X509-SVID §4.3 key-usage-critical")
	both := spec("X509-SVID §4.4 both-usages")
	all := []refusal{
		{name: "no digitalSignature", attack: 5, rule: "leaf-digital-signature", holds: signature, chain: leaf(usage(x509.KeyUsageKeyEncipherment))},
		{name: "no key usage at all", attack: 5, rule: "leaf-digital-signature", holds: set, chain: leaf(usage(0))},
		{name: "a leaf's key usage that is not critical", rule: "key-usage-critical", holds: critical, chain: leaf(uncriticalUsage(0x80))},
		{name: "an intermediate's key usage that is not critical", rule: "key-usage-critical", holds: critical, chain: below(uncriticalUsage(0x06))},
		{name: "an EKU with serverAuth alone", attack: 6, rule: "leaf-extended-key-usage", holds: both, chain: leaf(extUsage(x509.ExtKeyUsageServerAuth))},
		{name: "an EKU with clientAuth alone", attack: 6, rule: "leaf-extended-key-usage", holds: both, chain: leaf(extUsage(x509.ExtKeyUsageClientAuth))},
		{name: "an EKU for signing code", attack: 6, rule: "leaf-extended-key-usage", holds: both, chain: leaf(extUsage(x509.ExtKeyUsageCodeSigning))},
		{name: "anyExtendedKeyUsage in place of the two", attack: 6, rule: "leaf-extended-key-usage", holds: both, chain: leaf(extUsage(x509.ExtKeyUsageAny))},
		{name: "an EKU that is unknown", attack: 6, rule: "leaf-extended-key-usage", holds: both, chain: leaf(extUsage(), func(c *x509.Certificate) {
			c.UnknownExtKeyUsage = []asn1.ObjectIdentifier{{1, 3, 6, 1, 4, 1, 99999, 1}}
		})},
	}
	for i := range all {
		all[i].ordinary = true
	}
	return all
}

// houseRefusals break what this verifier asks for beyond the standards (ATTACKS 8 and 12).
func houseRefusals() []refusal {
	lifetime, foreign := spec("Countersign lifetime"), spec("Countersign intermediate-trust-domain")
	return []refusal{
		{name: "a leaf that lives a year", attack: 12, rule: "leaf-lifetime", holds: lifetime, chain: leaf(valid(-time.Minute, 365*24*time.Hour)), ordinary: true},
		{name: "a leaf that lives a day and two minutes", attack: 12, rule: "leaf-lifetime", holds: lifetime, chain: leaf(valid(-time.Minute, 24*time.Hour+time.Minute)), ordinary: true},
		{
			name: "an intermediate with a foreign trust domain's ID", attack: 8, rule: "intermediate-trust-domain", holds: foreign,
			chain: below(named("spiffe://partner.test")), ordinary: true,
		},
		{
			name: "an intermediate with two URIs", attack: 8, rule: "intermediate-trust-domain", holds: foreign,
			chain: below(named("spiffe://bank.test", "spiffe://partner.test")), ordinary: true,
		},
		{name: "a chain of six", rule: "chain-length", holds: spec("Countersign chain-length"), ordinary: true, chain: func(t *testing.T, tr *trusted) []*x509.Certificate {
			ca := tr.ca
			for range 5 {
				ca = ca.Intermediate(t)
			}
			return ca.SVID(t, "/payments").Certificates
		}},
		{name: "a leaf of more than 32 KiB", rule: "chain-length", holds: spec("Countersign chain-length"), chain: leaf(padded(32 << 10)), ordinary: true},
		{name: "two certificates of more than 32 KiB together", rule: "chain-length", holds: spec("Countersign chain-length"), ordinary: true, chain: func(t *testing.T, tr *trusted) []*x509.Certificate {
			return tr.ca.Intermediate(t, padded(16<<10)).SVID(t, "/payments", padded(16<<10)).Certificates
		}},
	}
}

// padded makes a certificate larger by so many bytes, with an extension that nobody needs to know.
func padded(size int) meshtest.Template {
	return func(c *x509.Certificate) {
		c.ExtraExtensions = append(c.ExtraExtensions, pkix.Extension{Id: asn1.ObjectIdentifier{1, 3, 6, 1, 4, 1, 99999, 1}, Value: make([]byte, size)})
	}
}
