package identity_test

import (
	"crypto/ecdsa"
	"crypto/rand"
	"crypto/sha256"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/asn1"
	"math/big"
	"regexp"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/spiffe/go-spiffe/v2/bundle/x509bundle"
	"github.com/spiffe/go-spiffe/v2/spiffeid"

	"github.com/countersign-mesh/countersign/pkg/identity"
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

// judged verifies a chain at the moment its leaf begins, and fails the test when the answer is not as it must be, whatever the chain:
// a refusal that names a rule that there is, or a peer whose chain an independent reading finds nothing wrong with.
func judged(t *testing.T, chain []*x509.Certificate, bundles x509bundle.Source) {
	t.Helper()
	now := chain[0].NotBefore
	peer, err := identity.NewVerifier(bundles, identity.WithClock(func() time.Time { return now })).Verify(chain)
	if (peer == nil) == (err == nil) {
		t.Fatalf("Verify = %v, %v", peer, err)
	}
	if err != nil {
		if rule := ruleOf(err); !slices.Contains(identity.Rules(), rule) {
			t.Errorf("refused by %q, which is no rule: %v", rule, err)
		}
		return
	}
	if !peer.Chain[0].Equal(chain[0]) || len(peer.Chain) < 2 {
		t.Fatalf("a chain of %d vouches for %v", len(peer.Chain), peer.ID)
	}
	for _, problem := range problems(t, peer.Chain[0].Raw, peer.ID.String(), now) {
		t.Errorf("believed as %q, but %s", peer.ID, problem)
	}
	end := peer.Chain[0].NotAfter
	for i, signer := range peer.Chain[1:] {
		if !signer.IsCA || signer.KeyUsage&x509.KeyUsageCertSign == 0 {
			t.Errorf("certificate %d of the path may not sign", i+1)
		}
		if err := peer.Chain[i].CheckSignatureFrom(signer); err != nil {
			t.Errorf("certificate %d of the path is not signed by the next: %v", i, err)
		}
		if signer.NotAfter.Before(end) {
			end = signer.NotAfter
		}
	}
	if !peer.NotAfter.Equal(end) || now.After(end) {
		t.Errorf("good until %v at %v, want %v", peer.NotAfter, now, end)
	}
}

// certificate is RFC 5280 §4.1 as far as a leaf is judged by it. It is read by encoding/asn1, which crypto/x509 does not use.
type certificate struct {
	TBS struct {
		Version   int `asn1:"optional,explicit,default:0,tag:0"`
		Serial    *big.Int
		Algorithm asn1.RawValue
		Issuer    asn1.RawValue
		Validity  struct{ NotBefore, NotAfter time.Time }
		Subject   asn1.RawValue
		PublicKey asn1.RawValue
		IssuerID  asn1.RawValue    `asn1:"optional,tag:1"`
		SubjectID asn1.RawValue    `asn1:"optional,tag:2"`
		Extension []pkix.Extension `asn1:"optional,explicit,tag:3"`
	}
	Algorithm asn1.RawValue
	Signature asn1.BitString
}

// extension reads an extension of RFC 5280 §4.2.1 by its number and reports whether it is there, and critical.
func (c *certificate) extension(t *testing.T, number int, value any) (there, critical bool) {
	t.Helper()
	for _, ext := range c.TBS.Extension {
		if ext.Id.Equal(asn1.ObjectIdentifier{2, 5, 29, number}) {
			if _, err := asn1.Unmarshal(ext.Value, value); err != nil {
				t.Errorf("extension %d: %v", number, err)
			}
			return true, ext.Critical
		}
	}
	return false, false
}

// problems lists what is wrong with a leaf. It shares no code with the verifier.
func problems(t *testing.T, der []byte, id string, now time.Time) []string {
	t.Helper()
	var c certificate
	if rest, err := asn1.Unmarshal(der, &c); err != nil || len(rest) != 0 {
		return []string{"it does not read as a certificate"}
	}
	var found []string
	wrong := func(is bool, what string) {
		if is {
			found = append(found, what)
		}
	}
	var names []asn1.RawValue
	_, critical := c.extension(t, 17, &names)
	var uris []string
	for _, name := range names {
		if name.Class == asn1.ClassContextSpecific && name.Tag == 6 {
			uris = append(uris, string(name.Bytes))
		}
	}
	wrong(len(uris) != 1 || uris[0] != id, "its URIs are others")
	wrong(!wellFormed(id), "that is not well formed")
	wrong(len(c.TBS.Subject.Bytes) == 0 && !critical, "it has no critical name")

	var keyUsage asn1.BitString
	_, critical = c.extension(t, 15, &keyUsage)
	wrong(keyUsage.At(0) == 0, "it has no digitalSignature")
	wrong(keyUsage.At(5) == 1 || keyUsage.At(6) == 1, "it may sign certificates or lists")
	wrong(!critical, "its key usage is not critical")

	var basic struct {
		CA      bool `asn1:"optional"`
		PathLen int  `asn1:"optional,default:-1"`
	}
	c.extension(t, 19, &basic)
	wrong(basic.CA, "it is a CA")

	var purposes []asn1.ObjectIdentifier
	limited, _ := c.extension(t, 37, &purposes)
	for _, purpose := range []int{1, 2} { // serverAuth and clientAuth
		has := slices.ContainsFunc(purposes, asn1.ObjectIdentifier{1, 3, 6, 1, 5, 5, 7, 3, purpose}.Equal)
		wrong(limited && !has, "it is not for servers and clients")
	}
	begin, end := c.TBS.Validity.NotBefore, c.TBS.Validity.NotAfter
	wrong(now.Before(begin) || now.After(end), "it is not valid")
	wrong(end.Sub(begin) > 24*time.Hour+time.Minute, "it lives too long")
	return found
}

// FuzzVerify feeds chains of certificates to a verifier that trusts the last of them.
func FuzzVerify(f *testing.F) {
	f.Fuzz(func(t *testing.T, der []byte) {
		chain, err := x509.ParseCertificates(der)
		if err != nil || len(chain) == 0 {
			return
		}
		judged(t, chain, lastOfChain(chain))
	})
}

// FuzzSigned feeds leaves that the trusted authority has signed, whatever is in them: behind the signature is where the rules are on
// their own.
func FuzzSigned(f *testing.F) {
	root := fuzzIssuer(f)
	f.Fuzz(func(t *testing.T, tbs []byte) {
		leaf, err := x509.ParseCertificate(root.signRaw(t, tbs))
		if err != nil {
			return
		}
		judged(t, []*x509.Certificate{leaf}, lastOfChain{root.cert})
	})
}

// FuzzID holds that a URI SAN is believed if and only if it is a SPIFFE ID with a path, byte for byte, also if crypto/x509 would not
// have parsed it.
func FuzzID(f *testing.F) {
	root := fuzzIssuer(f)
	cert := root.leaf(f)
	f.Fuzz(func(t *testing.T, uri string) {
		leaf := *cert
		leaf.Extensions = slices.Clone(cert.Extensions)
		rename(t, &leaf, uri)
		peer, err := identity.NewVerifier(lastOfChain{root.cert}).Verify([]*x509.Certificate{&leaf})
		if (err == nil) != wellFormed(uri) {
			t.Errorf("%q: %v", uri, err)
		}
		if err == nil && peer.ID.String() != uri {
			t.Errorf("%q became %q", uri, peer.ID)
		}
		if rule := ruleOf(err); err != nil && !strings.HasPrefix(rule, "spiffe-id-") {
			t.Errorf("%q is refused by %q: %v", uri, rule, err)
		}
	})
}

// FuzzRevocation holds that what is taken for a serial number or a subject key ID has one form only, in which it is found again.
func FuzzRevocation(f *testing.F) {
	forms := regexp.MustCompile(`^[0-9a-f]+$`)
	f.Fuzz(func(t *testing.T, text string) {
		for name, parse := range map[string]func(string) (string, error){"serial": identity.ParseSerial, "authority": identity.ParseAuthority} {
			got, err := parse(text)
			if (err == nil) != (got != "") || err == nil && !forms.MatchString(got) {
				t.Errorf("%s %q became %q, %v", name, text, got, err)
			}
			if again, err := parse(got); got != "" && (again != got || err != nil) {
				t.Errorf("%s %q became %q, then %q, %v", name, text, got, again, err)
			}
		}
		if n, ok := new(big.Int).SetString(text, 16); ok && n.Sign() > 0 && text[0] != '+' {
			if got, err := identity.ParseSerial(text); err != nil || got != n.Text(16) {
				t.Errorf("serial %q became %q, %v", text, got, err)
			}
		}
	})
}

// fuzzIssuer returns a root whose name is that of the issuer in the seeds.
func fuzzIssuer(f *testing.F) *issuer {
	f.Helper()
	return newIssuer(f, "root", nil, nil, func(c *x509.Certificate) {
		c.NotBefore, c.NotAfter = time.Date(2000, 1, 1, 0, 0, 0, 0, time.UTC), time.Date(2049, 1, 1, 0, 0, 0, 0, time.UTC)
	})
}

// signRaw makes a certificate of a part to be signed, whatever that is.
func (i *issuer) signRaw(t testing.TB, tbs []byte) []byte {
	t.Helper()
	digest := sha256.Sum256(tbs)
	signature, err := ecdsa.SignASN1(rand.Reader, i.key, digest[:])
	if err != nil {
		t.Fatal(err)
	}
	ecdsaWithSHA256 := pkix.AlgorithmIdentifier{Algorithm: asn1.ObjectIdentifier{1, 2, 840, 10045, 4, 3, 2}}
	der, err := asn1.Marshal(struct {
		TBS       asn1.RawValue
		Algorithm pkix.AlgorithmIdentifier
		Signature asn1.BitString
	}{asn1.RawValue{FullBytes: tbs}, ecdsaWithSHA256, asn1.BitString{Bytes: signature, BitLength: 8 * len(signature)}})
	if err != nil {
		t.Fatal(err)
	}
	return der
}
