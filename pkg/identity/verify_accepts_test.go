package identity_test

import (
	"bytes"
	"crypto/x509"
	"fmt"
	"net"
	"strings"
	"testing"
	"time"

	"github.com/countersign-mesh/countersign/pkg/identity"
	"github.com/countersign-mesh/countersign/pkg/meshtest"
)

// acceptance is a chain that must be believed: a verifier that refuses all would pass every test of refusals.
type acceptance struct {
	name  string
	holds []string
	chain maker
	want  string // the peer's ID
}

const payments = "spiffe://bank.test/payments"

// standardAcceptances are what the standards allow or demand to be supported.
func standardAcceptances() []acceptance {
	none := func(c *x509.Certificate) { c.URIs = nil }
	only := func(c *x509.Certificate) {
		c.PermittedURIDomains, c.PermittedDNSDomainsCritical = []string{"bank.test"}, true
	}
	longest := "spiffe://bank.test/" + strings.Repeat("a", 2048-len("spiffe://bank.test/"))
	keys := x509.KeyUsageDigitalSignature | x509.KeyUsageKeyEncipherment | x509.KeyUsageKeyAgreement
	return []acceptance{
		{"a plain SVID", spec("X509-SVID §2 exactly-one-uri", "SPIFFE-ID §2 scheme"), leaf(), payments},
		{"a path of several segments", spec("SPIFFE-ID §2.2 path-characters"), leaf(named("spiffe://bank.test/ns/prod/sa/Pay-1_a.b")), "spiffe://bank.test/ns/prod/sa/Pay-1_a.b"},
		{"segments of three dots and more", spec("SPIFFE-ID §2.2 no-empty-or-relative-segment"), leaf(named("spiffe://bank.test/.../a..b/.c")), "spiffe://bank.test/.../a..b/.c"},
		{"an ID of 2,048 bytes", spec("SPIFFE-ID §2.3 length"), leaf(named(longest)), longest},
		{"a critical name and no subject", spec("X509-SVID §3.1 name-critical"), leaf(noSubject), payments},
		{"no EKU", spec("X509-SVID §4.4 both-usages"), leaf(extUsage()), payments},
		{
			"anyExtendedKeyUsage beside the two", spec("X509-SVID §4.4 both-usages"),
			leaf(extUsage(x509.ExtKeyUsageAny, x509.ExtKeyUsageServerAuth, x509.ExtKeyUsageClientAuth)), payments,
		},
		{"keyEncipherment and keyAgreement beside digitalSignature", spec("X509-SVID §4.3 leaf-digital-signature"), leaf(usage(keys)), payments},
		{"DNS names and addresses beside the ID", spec("X509-SVID §2 exactly-one-uri"), leaf(func(c *x509.Certificate) {
			c.DNSNames, c.IPAddresses = []string{"payments", "localhost"}, []net.IP{net.IPv4(127, 0, 0, 1)}
		}), payments},
		{"a day's life, dated half a minute back", spec("Countersign lifetime"), leaf(valid(-30*time.Second, 24*time.Hour)), payments},
		{"two certificates of almost 32 KiB together", spec("Countersign chain-length"), func(t *testing.T, tr *trusted) []*x509.Certificate {
			return tr.ca.Intermediate(t, padded(15<<10)).SVID(t, "/payments", padded(15<<10)).Certificates
		}, payments},
		{"an intermediate", spec("X509-SVID §5.1 path-validation"), below(), payments},
		{"an intermediate without a URI", spec("X509-SVID §3.2 signer-without-path"), below(none), payments},
		{"an intermediate that may sign for both usages", spec("X509-SVID §5.1 path-validation"), below(extUsage(x509.ExtKeyUsageServerAuth, x509.ExtKeyUsageClientAuth)), payments},
		{"an ID inside what an intermediate may sign", spec("X509-SVID §4.2 name-constraints"), below(only), payments},
		{"an ID inside what a root may sign", spec("X509-SVID §4.2 name-constraints"), under(only), payments},
		// As in the example of Trust Domain and Bundle, appendix A.
		{"an authority whose ID has the root path", spec("X509-SVID §3.2 signer-without-path"), under(named("spiffe://bank.test/")), payments},
		{"a federated trust domain", spec("Trust Domain and Bundle §3 own-bundle", "Workload API §4.6 own-bundle"), func(t *testing.T, tr *trusted) []*x509.Certificate {
			return tr.partner.SVID(t, "/clearing").Certificates
		}, "spiffe://partner.test/clearing"},
		{"an older authority that is still in the bundle", spec("X509-SVID §5.1 path-validation"), func(t *testing.T, tr *trusted) []*x509.Certificate {
			chain := tr.ca.SVID(t, "/payments").Certificates
			tr.ca.NewRoot(t)
			return chain
		}, payments},
	}
}

// domainAcceptances are trust domains that are IP addresses, DNS names, or neither.
func domainAcceptances() []acceptance {
	var all []acceptance
	for _, c := range []struct{ name, domain, holds string }{
		{"a trust domain that is an IPv4 address", "10.0.0.1", "SPIFFE-ID §2.1 names-treated-alike"},
		{"a trust domain that is no DNS name", "_bank-.t_", "SPIFFE-ID §2.1 names-treated-alike"},
		{"a trust domain with a label of 64 letters", strings.Repeat("b", 64), "SPIFFE-ID §2.1 names-treated-alike"},
		{"a trust domain with every character", "abcdefghijklmnopqrstuvwxyz.0123456789-_", "SPIFFE-ID §2.1 host-characters"},
		{"a trust domain of 255 bytes", strings.Repeat("a.", 127) + "a", "SPIFFE-ID §2.3 length"},
	} {
		all = append(all, acceptance{c.name, spec(c.holds), func(t *testing.T, tr *trusted) []*x509.Certificate {
			tr.ca = meshtest.NewCA(t, c.domain, func(c *x509.Certificate) { c.Subject.CommonName = "root" })
			return tr.ca.SVID(t, "/payments").Certificates
		}, "spiffe://" + c.domain + "/payments"})
	}
	// crypto/x509 does not parse names with an empty label. The verifier does not mind them.
	for _, domain := range []string{"bank.test.", "bank..test"} {
		id := "spiffe://" + domain + "/payments"
		all = append(all, acceptance{"the trust domain " + domain, spec("SPIFFE-ID §2.1 names-treated-alike"), func(t *testing.T, tr *trusted) []*x509.Certificate {
			tr.ca = meshtest.NewCA(t, domain, func(c *x509.Certificate) { c.URIs = nil })
			chain := tr.ca.SVID(t, "/payments", named("spiffe://stand.in/payments")).Certificates
			rename(t, chain[0], id)
			return chain
		}, id})
	}
	return all
}

func TestVerifyAccepts(t *testing.T) {
	t.Parallel()
	for _, c := range append(standardAcceptances(), domainAcceptances()...) {
		t.Run(section(c.holds)+": "+c.name, func(t *testing.T) {
			t.Parallel()
			holds(t, c.holds...)
			tr := newTrusted(t)
			chain := c.chain(t, tr)
			peer, err := identity.NewVerifier(tr.bundles()).Verify(chain)
			if err != nil {
				t.Fatal(err)
			}
			if peer.ID.String() != c.want || peer.Serial != fmt.Sprintf("%x", chain[0].SerialNumber) || !peer.Chain[0].Equal(chain[0]) {
				t.Errorf("peer = %+v", peer)
			}
		})
	}
}

// crypto/x509 refuses to parse a URI whose host has an empty label, before any verifier sees it: such a trust domain, though the
// standard allows it, has no SVID that crypto/tls takes.
func TestCryptoX509ParsesNoEmptyLabel(t *testing.T) {
	t.Parallel()
	der := newIssuer(t, "root", nil, nil).leaf(t).Raw
	for uri, parses := range map[string]bool{
		payments:                      true,
		"spiffe://bank-test/payments": true,
		"spiffe://bank..est/payments": false,
		"spiffe://bank.tes./payments": false,
	} {
		// The signature is of no interest to the parser.
		_, err := x509.ParseCertificate(bytes.Replace(der, []byte(payments), []byte(uri), 1))
		if (err == nil) != parses {
			t.Errorf("%s: %v; if it is parsed now, say so in docs/conformance/spiffe.yaml", uri, err)
		}
	}
}
