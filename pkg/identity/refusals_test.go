package identity_test

import (
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/asn1"
	"fmt"
	"net/url"
	"strings"
	"testing"
	"time"

	"github.com/spiffe/go-spiffe/v2/bundle/x509bundle"
	"github.com/spiffe/go-spiffe/v2/spiffeid"

	"github.com/countersign-mesh/countersign/pkg/identity"
	"github.com/countersign-mesh/countersign/pkg/meshtest"
)

// refusal is a chain that must be refused.
type refusal struct {
	name string
	// attack is its number in the catalogue of attacks; 0 if it has none.
	attack int
	// rule is the one that refuses it.
	rule string
	// holds are the requirements of the standards that its refusal shows to be held, the nearest first.
	holds []string
	// chain makes the chain.
	chain maker
	// bundles is what is trusted; trusted.bundles if nil.
	bundles func(t *testing.T, tr *trusted) x509bundle.Source
	// revoked is who was revoked; nobody if nil.
	revoked func(tr *trusted, chain []*x509.Certificate) *identity.Revocations
	// ordinary: go-spiffe's verifier lets it in. The test shows that too.
	ordinary bool
}

// title begins with the section of the standard and ends with the number of the attack.
func (r refusal) title() string {
	title := section(r.holds) + ": " + r.name
	if r.attack != 0 {
		title += fmt.Sprintf(" (ATTACKS %d)", r.attack)
	}
	return title
}

func allRefusals() []refusal {
	var all []refusal
	for _, some := range [][]refusal{
		leafRefusals(), usageRefusals(), idRefusals(), rawIDRefusals(), signerRefusals(), pathRefusals(), validityRefusals(), bundleRefusals(), houseRefusals(), revocationRefusals(),
	} {
		all = append(all, some...)
	}
	return all
}

// trusted is what the verifier of a test trusts: one authority, and one of a federated trust domain.
type trusted struct {
	ca      *meshtest.CA
	partner *meshtest.CA
}

func newTrusted(t testing.TB) *trusted {
	t.Helper()
	return &trusted{ca: meshtest.NewCA(t, "bank.test"), partner: meshtest.NewCA(t, "partner.test")}
}

func (tr *trusted) bundles() x509bundle.Source {
	return x509bundle.NewSet(tr.ca.Bundle(), tr.partner.Bundle())
}

// maker makes a chain for the verifier that trusts tr.
type maker func(t *testing.T, tr *trusted) []*x509.Certificate

// leaf returns a maker of chains whose leaf was changed.
func leaf(templates ...meshtest.Template) maker {
	return func(t *testing.T, tr *trusted) []*x509.Certificate {
		return tr.ca.SVID(t, "/payments", templates...).Certificates
	}
}

// below returns a maker of chains with an intermediate that was changed.
func below(templates ...meshtest.Template) maker {
	return func(t *testing.T, tr *trusted) []*x509.Certificate {
		return tr.ca.Intermediate(t, templates...).SVID(t, "/payments").Certificates
	}
}

// under returns a maker of chains below a root that was changed, which is the trusted one from then on.
func under(templates ...meshtest.Template) maker {
	return func(t *testing.T, tr *trusted) []*x509.Certificate {
		tr.ca = meshtest.NewCA(t, "bank.test", templates...)
		return tr.ca.SVID(t, "/payments").Certificates
	}
}

// rewritten returns a maker of chains whose leaf had this URI put in place of its own after it was parsed. crypto/x509 refuses to parse
// some names; whether it does is not for the verifier to rely on.
func rewritten(uri string) maker {
	return func(t *testing.T, tr *trusted) []*x509.Certificate {
		chain := tr.ca.SVID(t, "/payments").Certificates
		rename(t, chain[0], uri)
		return chain
	}
}

func rename(t testing.TB, cert *x509.Certificate, uri string) {
	t.Helper()
	cert.URIs = nil
	if parsed, err := url.Parse(uri); err == nil {
		cert.URIs = []*url.URL{parsed}
	}
	for i := range cert.Extensions {
		if cert.Extensions[i].Id.Equal(asn1.ObjectIdentifier{2, 5, 29, 17}) {
			cert.Extensions[i].Value = uriSANs(uri)
			return
		}
	}
	t.Fatal("the certificate has no subject alternative name")
}

// altered returns a maker of chains whose leaf was changed after it was signed.
func altered(change func(t *testing.T, tr *trusted, leaf *x509.Certificate) []byte) maker {
	return func(t *testing.T, tr *trusted) []*x509.Certificate {
		der := change(t, tr, tr.ca.SVID(t, "/payments").Certificates[0])
		cert, err := x509.ParseCertificate(der)
		if err != nil {
			t.Fatal(err)
		}
		return []*x509.Certificate{cert}
	}
}

// named puts URI SANs into a certificate byte for byte, as net/url would not.
func named(uris ...string) meshtest.Template {
	return func(c *x509.Certificate) {
		c.URIs = nil
		c.ExtraExtensions = append(c.ExtraExtensions, pkix.Extension{Id: asn1.ObjectIdentifier{2, 5, 29, 17}, Value: uriSANs(uris...)})
	}
}

func uriSANs(uris ...string) []byte {
	var names []asn1.RawValue
	for _, uri := range uris {
		names = append(names, asn1.RawValue{Class: asn1.ClassContextSpecific, Tag: 6, Bytes: []byte(uri)})
	}
	value, err := asn1.Marshal(names)
	if err != nil {
		panic(err)
	}
	return value
}

// uncriticalUsage puts in a key usage extension that is not marked critical. The byte holds the bits, the highest first.
func uncriticalUsage(bits byte) meshtest.Template {
	value, err := asn1.Marshal(asn1.BitString{Bytes: []byte{bits}, BitLength: 8})
	if err != nil {
		panic(err)
	}
	return func(c *x509.Certificate) {
		c.ExtraExtensions = append(c.ExtraExtensions, pkix.Extension{Id: asn1.ObjectIdentifier{2, 5, 29, 15}, Value: value})
	}
}

func usage(u x509.KeyUsage) meshtest.Template {
	return func(c *x509.Certificate) { c.KeyUsage = u }
}

func extUsage(u ...x509.ExtKeyUsage) meshtest.Template {
	return func(c *x509.Certificate) { c.ExtKeyUsage = u }
}

func noSubject(c *x509.Certificate) { c.Subject = pkix.Name{} }

func valid(from, to time.Duration) meshtest.Template {
	return func(c *x509.Certificate) { c.NotBefore, c.NotAfter = time.Now().Add(from), time.Now().Add(to) }
}

// spec returns requirements by their names in docs/conformance/spiffe.yaml: section and key.
func spec(requirements ...string) []string { return requirements }

// section is what stands before the key of the first requirement.
func section(requirements []string) string {
	if len(requirements) == 0 {
		return "no section"
	}
	return requirements[0][:strings.LastIndexByte(requirements[0], ' ')]
}

// holds says in the log of the test which requirements it shows to be held. docs/spiffe-conformance.md is made of that.
func holds(t *testing.T, requirements ...string) {
	t.Helper()
	for _, r := range requirements {
		t.Attr("spiffe.requirement", r)
	}
}

// answer is a source that gives one bundle, whatever it is asked for.
type answer struct{ bundle *x509bundle.Bundle }

func (a answer) GetX509BundleForTrustDomain(spiffeid.TrustDomain) (*x509bundle.Bundle, error) {
	return a.bundle, nil
}
