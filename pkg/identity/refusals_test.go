package identity_test

import (
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/asn1"
	"net/url"
	"strings"
	"testing"
	"time"

	"github.com/spiffe/go-spiffe/v2/bundle/x509bundle"

	"github.com/countersign-mesh/countersign/pkg/identity"
	"github.com/countersign-mesh/countersign/pkg/meshtest"
)

// refusal is a chain that must be refused.
type refusal struct {
	name string
	// rule is the one that refuses it.
	rule string
	// chain makes the chain.
	chain func(t *testing.T, tr *trusted) []*x509.Certificate
	// bundles is what is trusted; trusted.bundles if nil.
	bundles func(tr *trusted) x509bundle.Source
	// revoked is who was revoked; nobody if nil.
	revoked func(tr *trusted, chain []*x509.Certificate) *identity.Revocations
	// ordinary: go-spiffe's verifier lets it in. The test shows that too.
	ordinary bool
}

// leaf returns a maker of chains whose leaf was changed.
func leaf(templates ...meshtest.Template) func(*testing.T, *trusted) []*x509.Certificate {
	return func(t *testing.T, tr *trusted) []*x509.Certificate {
		return tr.ca.SVID(t, "/payments", templates...).Certificates
	}
}

// below returns a maker of chains with an intermediate that was changed.
func below(templates ...meshtest.Template) func(*testing.T, *trusted) []*x509.Certificate {
	return func(t *testing.T, tr *trusted) []*x509.Certificate {
		return tr.ca.Intermediate(t, templates...).SVID(t, "/payments").Certificates
	}
}

// named puts URI SANs into a certificate byte for byte, as net/url would not.
func named(uris ...string) meshtest.Template {
	return func(c *x509.Certificate) {
		var names []asn1.RawValue
		for _, uri := range uris {
			names = append(names, asn1.RawValue{Class: asn1.ClassContextSpecific, Tag: 6, Bytes: []byte(uri)})
		}
		value, err := asn1.Marshal(names)
		if err != nil {
			panic(err)
		}
		c.URIs = nil
		c.ExtraExtensions = append(c.ExtraExtensions, pkix.Extension{Id: asn1.ObjectIdentifier{2, 5, 29, 17}, Value: value})
	}
}

func usage(u x509.KeyUsage) meshtest.Template {
	return func(c *x509.Certificate) { c.KeyUsage = u }
}

func extUsage(u ...x509.ExtKeyUsage) meshtest.Template {
	return func(c *x509.Certificate) { c.ExtKeyUsage = u }
}

func valid(from, to time.Duration) meshtest.Template {
	return func(c *x509.Certificate) { c.NotBefore, c.NotAfter = time.Now().Add(from), time.Now().Add(to) }
}

// leafRefusals are leaves that break a rule (ATTACKS 1 to 7, 12).
func leafRefusals() []refusal {
	ca := func(c *x509.Certificate) { c.IsCA = true }
	noUsage := usage(x509.KeyUsageKeyEncipherment)
	return []refusal{
		// ATTACKS 1
		{name: "a leaf with the CA flag", rule: "leaf-not-ca", chain: leaf(ca)},
		{name: "a leaf with keyCertSign", rule: "leaf-signs-nothing", chain: leaf(usage(x509.KeyUsageDigitalSignature | x509.KeyUsageCertSign))},
		{name: "a leaf with cRLSign", rule: "leaf-signs-nothing", chain: leaf(usage(x509.KeyUsageDigitalSignature | x509.KeyUsageCRLSign))},
		// ATTACKS 2
		{name: "no URI SAN", rule: "leaf-one-uri", chain: leaf(func(c *x509.Certificate) { c.URIs = nil })},
		{name: "a DNS name instead of a URI", rule: "leaf-one-uri", chain: leaf(func(c *x509.Certificate) { c.URIs, c.DNSNames = nil, []string{"payments"} })},
		{name: "two SPIFFE IDs", rule: "leaf-one-uri", chain: leaf(named("spiffe://bank.test/payments", "spiffe://bank.test/ledger"))},
		{name: "the same SPIFFE ID twice", rule: "leaf-one-uri", chain: leaf(named("spiffe://bank.test/payments", "spiffe://bank.test/payments"))},
		{name: "a second URI that is not spiffe", rule: "leaf-one-uri", chain: leaf(named("spiffe://bank.test/payments", "https://bank.test/payments"))},
		{name: "a first URI that is not spiffe", rule: "leaf-one-uri", chain: leaf(named("https://bank.test/payments", "spiffe://bank.test/payments"))},
		// ATTACKS 3
		{name: "an ID without a path", rule: "spiffe-id-path", chain: leaf(named("spiffe://bank.test")), ordinary: true},
		// ATTACKS 4
		{name: "an ID over 2,048 bytes", rule: "spiffe-id-length", chain: leaf(named("spiffe://bank.test/" + strings.Repeat("a", 2048))), ordinary: true},
		{name: "a trust domain over 255 bytes", rule: "spiffe-id-grammar", chain: leaf(named("spiffe://" + strings.Repeat("a.", 128) + "a/payments"))},
		// ATTACKS 5
		{name: "no digitalSignature", rule: "leaf-digital-signature", chain: leaf(noUsage), ordinary: true},
		{name: "no key usage at all", rule: "leaf-digital-signature", chain: leaf(usage(0)), ordinary: true},
		// ATTACKS 6
		{name: "an EKU with serverAuth alone", rule: "leaf-extended-key-usage", chain: leaf(extUsage(x509.ExtKeyUsageServerAuth)), ordinary: true},
		{name: "an EKU with clientAuth alone", rule: "leaf-extended-key-usage", chain: leaf(extUsage(x509.ExtKeyUsageClientAuth)), ordinary: true},
		{name: "an EKU for signing code", rule: "leaf-extended-key-usage", chain: leaf(extUsage(x509.ExtKeyUsageCodeSigning)), ordinary: true},
		{name: "anyExtendedKeyUsage in place of the two", rule: "leaf-extended-key-usage", chain: leaf(extUsage(x509.ExtKeyUsageAny)), ordinary: true},
		{name: "an EKU that is unknown", rule: "leaf-extended-key-usage", ordinary: true, chain: leaf(extUsage(), func(c *x509.Certificate) {
			c.UnknownExtKeyUsage = []asn1.ObjectIdentifier{{1, 3, 6, 1, 4, 1, 99999, 1}}
		})},
		// ATTACKS 9
		{name: "an expired leaf", rule: "validity", chain: leaf(valid(-time.Hour, -time.Second))},
		{name: "a leaf that is not yet valid", rule: "validity", chain: leaf(valid(time.Minute, time.Hour))},
		// ATTACKS 12
		{name: "a leaf that lives a year", rule: "leaf-lifetime", chain: leaf(valid(-time.Minute, 365*24*time.Hour)), ordinary: true},
		{name: "an unknown critical extension", rule: "path", chain: leaf(func(c *x509.Certificate) {
			c.ExtraExtensions = []pkix.Extension{{Id: asn1.ObjectIdentifier{1, 3, 6, 1, 4, 1, 99999, 2}, Critical: true, Value: []byte{5, 0}}}
		})},
	}
}

// grammarRefusals are leaves whose one URI is not a SPIFFE ID (ATTACKS 7).
func grammarRefusals() []refusal {
	var all []refusal
	for _, c := range []struct {
		name, uri string
		ordinary  bool
	}{
		{"an upper-case trust domain", "spiffe://Bank.test/payments", false},
		{"an upper-case scheme", "SPIFFE://bank.test/payments", true},
		{"another scheme", "https://bank.test/payments", false},
		{"a port", "spiffe://bank.test:8443/payments", false},
		{"an empty port", "spiffe://bank.test:/payments", false},
		{"userinfo", "spiffe://root@bank.test/payments", false},
		{"empty userinfo", "spiffe://@bank.test/payments", false},
		{"a query", "spiffe://bank.test/payments?admin=1", false},
		{"an empty query", "spiffe://bank.test/payments?", false},
		{"a fragment", "spiffe://bank.test/payments#x", false},
		{"an empty fragment", "spiffe://bank.test/payments#", true},
		{"percent-encoding", "spiffe://bank.test/%70ayments", false},
		{"a percent-encoded slash", "spiffe://bank.test/a%2fpayments", false},
		{"an empty segment", "spiffe://bank.test//payments", false},
		{"a dot segment", "spiffe://bank.test/./payments", false},
		{"a double dot segment", "spiffe://bank.test/x/../payments", false},
		{"a trailing slash", "spiffe://bank.test/payments/", false},
		{"a root path", "spiffe://bank.test/", false},
		{"no trust domain", "spiffe:///payments", false},
		{"one slash", "spiffe:/bank.test/payments", false},
		{"an opaque URI", "spiffe:bank.test/payments", false},
		{"a space", "spiffe://bank.test/pay ments", false},
		{"an empty URI", "", false},
	} {
		all = append(all, refusal{name: c.name, rule: "spiffe-id-grammar", chain: leaf(named(c.uri)), ordinary: c.ordinary})
	}
	return all
}

// pathRefusals are chains and bundles that break a rule (ATTACKS 8 to 11).
func pathRefusals() []refusal {
	foreign := func(c *x509.Certificate) {
		c.URIs = []*url.URL{{Scheme: "spiffe", Host: "partner.test"}}
	}
	return []refusal{
		{name: "no certificate", rule: "chain-length", chain: func(*testing.T, *trusted) []*x509.Certificate { return nil }},
		{name: "a nil certificate", rule: "chain-length", chain: func(*testing.T, *trusted) []*x509.Certificate { return []*x509.Certificate{nil} }},
		{name: "a certificate that was not parsed", rule: "chain-length", chain: func(*testing.T, *trusted) []*x509.Certificate { return []*x509.Certificate{{}} }},
		{name: "a chain of six", rule: "chain-length", ordinary: true, chain: func(t *testing.T, tr *trusted) []*x509.Certificate {
			ca := tr.ca
			for range 5 {
				ca = ca.Intermediate(t)
			}
			return ca.SVID(t, "/payments").Certificates
		}},
		// ATTACKS 8
		{name: "a leaf of this trust domain signed by a federated one's authority", rule: "path", chain: func(t *testing.T, tr *trusted) []*x509.Certificate {
			return tr.partner.SVID(t, "/x", named("spiffe://bank.test/payments")).Certificates
		}},
		{name: "a trust domain that is not trusted", rule: "bundle", chain: func(t *testing.T, _ *trusted) []*x509.Certificate {
			return meshtest.NewCA(t, "evil.test").SVID(t, "/payments").Certificates
		}},
		{name: "an authority that is not in the bundle", rule: "path", chain: func(t *testing.T, _ *trusted) []*x509.Certificate {
			return meshtest.NewCA(t, "bank.test").SVID(t, "/payments").Certificates
		}},
		{name: "a trust domain that begins like the trusted one", rule: "bundle", chain: leaf(named("spiffe://bank.test.evil/payments"))}, // ATTACKS 13
		{name: "an intermediate with a foreign trust domain's ID", rule: "intermediate-trust-domain", chain: below(foreign), ordinary: true},
		{name: "an intermediate with a workload's ID", rule: "intermediate-trust-domain", chain: below(named("spiffe://bank.test/payments")), ordinary: true},
		{name: "an intermediate with two URIs", rule: "intermediate-trust-domain", chain: below(named("spiffe://bank.test", "spiffe://partner.test")), ordinary: true},
		{name: "an intermediate that is no CA", rule: "intermediate-ca", chain: below(func(c *x509.Certificate) { c.IsCA = false })},
		{name: "an intermediate without keyCertSign", rule: "intermediate-ca", chain: below(usage(x509.KeyUsageDigitalSignature))},
		{name: "an intermediate that may only sign for signing code", rule: "intermediate-key-usage", chain: below(extUsage(x509.ExtKeyUsageCodeSigning)), ordinary: true},
		{name: "another workload's SVID as an intermediate", rule: "intermediate-ca", ordinary: true, chain: func(t *testing.T, tr *trusted) []*x509.Certificate {
			return append(tr.ca.SVID(t, "/payments").Certificates, tr.ca.SVID(t, "/ledger").Certificates...)
		}},
		{name: "an intermediate whose path length is used up", rule: "path", chain: func(t *testing.T, tr *trusted) []*x509.Certificate {
			last := func(c *x509.Certificate) { c.MaxPathLen, c.MaxPathLenZero = 0, true }
			return tr.ca.Intermediate(t, last).Intermediate(t).SVID(t, "/payments").Certificates
		}},
		{name: "a DNS name outside the intermediate's name constraints", rule: "path", chain: func(t *testing.T, tr *trusted) []*x509.Certificate {
			limited := func(c *x509.Certificate) { c.PermittedDNSDomains = []string{"bank.test"} }
			other := func(c *x509.Certificate) { c.DNSNames = []string{"evil.test"} }
			return tr.ca.Intermediate(t, limited).SVID(t, "/payments", other).Certificates
		}},
		// ATTACKS 9
		{name: "an expired intermediate", rule: "validity", chain: below(valid(-time.Hour, -time.Second))},
		{name: "an intermediate that is not yet valid", rule: "validity", chain: below(valid(time.Minute, time.Hour))},
		{name: "an expired authority", rule: "path", chain: func(t *testing.T, tr *trusted) []*x509.Certificate {
			tr.ca = meshtest.NewCA(t, "bank.test", valid(-time.Hour, -time.Second))
			return tr.ca.SVID(t, "/payments").Certificates
		}},
		// ATTACKS 10
		{name: "an empty bundle", rule: "bundle", chain: leaf(), bundles: func(tr *trusted) x509bundle.Source {
			return x509bundle.New(tr.ca.TrustDomain())
		}},
	}
}
