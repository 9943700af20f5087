package identity

import (
	"crypto/x509"
	"errors"
	"fmt"
	"time"

	"github.com/spiffe/go-spiffe/v2/spiffeid"
)

const (
	// maxChain bounds what a stranger can make the verifier work through: a leaf, three intermediates and a root.
	maxChain = 5
	// maxChainBytes bounds what a peer makes this process keep for as long as the connection lives.
	maxChainBytes = 32 << 10
	// maxID and maxTrustDomain are the limits of SPIFFE-ID §2.3.
	maxID          = 2048
	maxTrustDomain = 255
	// backdating is how far before the moment of signing an authority may set NotBefore, for the sake of verifiers whose
	// clock is a little behind. It does not count towards the lifetime.
	backdating = time.Minute
)

// rule is one thing that must be true of a chain.
type rule struct {
	name    string
	section string
	check   func(*Verifier, *candidate) error
}

// candidate is a chain on its way through the rules. A rule may rely on what the rules before it have established.
type candidate struct {
	chain []*x509.Certificate
	uri   string
	id    spiffeid.ID
	now   time.Time
	roots []*x509.Certificate
	// paths are all that lead from the leaf to an authority, each leaf first.
	paths [][]*x509.Certificate
	peer  *Peer
}

func (c *candidate) leaf() *x509.Certificate            { return c.chain[0] }
func (c *candidate) intermediates() []*x509.Certificate { return c.chain[1:] }

// rules lists what a chain must satisfy, in the order of checking: what is cheap comes first, signatures last.
func rules() []rule {
	return []rule{
		{"chain-length", "X509-SVID §5.1", (*Verifier).checkLength},
		{"leaf-not-ca", "X509-SVID §5.2", (*Verifier).checkNotCA},
		{"leaf-signs-nothing", "X509-SVID §5.2", (*Verifier).checkSignsNothing},
		{"leaf-one-uri", "X509-SVID §2", (*Verifier).checkOneURI},
		{"leaf-name-critical", "X509-SVID §3.1", (*Verifier).checkNameCritical},
		{"spiffe-id-length", "SPIFFE-ID §2.3", (*Verifier).checkIDLength},
		{"spiffe-id-grammar", "SPIFFE-ID §2", (*Verifier).checkIDGrammar},
		{"spiffe-id-path", "X509-SVID §5.2", (*Verifier).checkIDPath},
		{"leaf-digital-signature", "X509-SVID §4.3", (*Verifier).checkDigitalSignature},
		{"key-usage-critical", "X509-SVID §4.3", (*Verifier).checkKeyUsageCritical},
		{"leaf-extended-key-usage", "X509-SVID §4.4", (*Verifier).checkExtKeyUsage},
		{"leaf-lifetime", "policy of the verifier", (*Verifier).checkLifetime},
		{"validity", "RFC 5280 §4.1.2.5", (*Verifier).checkValidity},
		{"intermediate-ca", "X509-SVID §3.2", (*Verifier).checkSigners},
		{"intermediate-key-usage", "RFC 5280 §4.2.1.12", (*Verifier).checkSignersKeyUsage},
		{"intermediate-trust-domain", "X509-SVID §3.2", (*Verifier).checkSignersTrustDomain},
		{"bundle", "Workload API §4.6", (*Verifier).findBundle},
		{"bundle-authorities", "X509-SVID §3.2", (*Verifier).checkBundle},
		{"path", "X509-SVID §5.1", (*Verifier).checkPath},
		{"not-revoked", "policy of the verifier", (*Verifier).checkNotRevoked},
	}
}

// RuleNames returns the name of every rule that a RuleError can name, in the order of checking.
func RuleNames() []string {
	all := rules()
	names := make([]string, len(all))
	for i, r := range all {
		names[i] = r.name
	}
	return names
}

func (v *Verifier) checkLength(c *candidate) error {
	switch n := len(c.chain); {
	case n == 0:
		return errors.New("no certificate")
	case n > maxChain:
		return fmt.Errorf("%d certificates, at most %d are accepted", n, maxChain)
	}
	size := 0
	for i, cert := range c.chain {
		if cert == nil || len(cert.Raw) == 0 {
			return fmt.Errorf("certificate %d was not parsed from DER", i)
		}
		size += len(cert.Raw)
	}
	if size > maxChainBytes {
		return fmt.Errorf("the certificates have %d bytes, at most %d are accepted", size, maxChainBytes)
	}
	return nil
}

func (v *Verifier) checkNotCA(c *candidate) error {
	if c.leaf().IsCA {
		return errors.New("leaf has the CA flag; a signing certificate identifies nobody")
	}
	return nil
}

func (v *Verifier) checkSignsNothing(c *candidate) error {
	if c.leaf().KeyUsage&(x509.KeyUsageCertSign|x509.KeyUsageCRLSign) != 0 {
		return errors.New("leaf has keyCertSign or cRLSign")
	}
	return nil
}

// checkOneURI counts every URI SAN, not only those of the spiffe scheme, and takes it as it was signed. The parsed form
// will not do: net/url drops an empty fragment and lowers the scheme, so that two different names would look the same.
func (v *Verifier) checkOneURI(c *candidate) error {
	uris, err := uriNames(c.leaf())
	if err != nil {
		return err
	}
	if len(uris) != 1 {
		return fmt.Errorf("leaf has %d URI SANs, must have exactly one", len(uris))
	}
	c.uri = uris[0]
	return nil
}

// checkNameCritical looks at the leaf's URI SAN where it is the certificate's only name (RFC 5280 §4.1.2.6).
func (v *Verifier) checkNameCritical(c *candidate) error {
	if len(c.leaf().Subject.Names) == 0 && !markedCritical(c.leaf(), alternativeNameExtension) {
		return errors.New("leaf has neither a subject nor a critical subject alternative name")
	}
	return nil
}

func (v *Verifier) checkIDLength(c *candidate) error {
	if len(c.uri) > maxID {
		return fmt.Errorf("SPIFFE ID of %d bytes, at most %d are allowed", len(c.uri), maxID)
	}
	return nil
}

func (v *Verifier) checkIDGrammar(c *candidate) error {
	id, err := spiffeid.FromString(c.uri)
	if err != nil {
		return fmt.Errorf("URI SAN %q is not a SPIFFE ID: %w", c.uri, err)
	}
	if n := len(id.TrustDomain().Name()); n > maxTrustDomain {
		return fmt.Errorf("trust domain name of %d bytes, at most %d are allowed", n, maxTrustDomain)
	}
	c.id = id
	return nil
}

func (v *Verifier) checkIDPath(c *candidate) error {
	if c.id.Path() == "" {
		return fmt.Errorf("%q names a trust domain, not a workload: it has no path", c.id)
	}
	return nil
}

func (v *Verifier) checkDigitalSignature(c *candidate) error {
	if c.leaf().KeyUsage&x509.KeyUsageDigitalSignature == 0 {
		return errors.New("leaf lacks digitalSignature")
	}
	return nil
}

// checkKeyUsageCritical looks at all that the peer has sent. An authority may be older than SPIFFE; it is believed because it is in
// the bundle.
func (v *Verifier) checkKeyUsageCritical(c *candidate) error {
	for i, cert := range c.chain {
		if !markedCritical(cert, keyUsageExtension) {
			return fmt.Errorf("certificate %d has a key usage that is not critical", i)
		}
	}
	return nil
}

// checkExtKeyUsage lets anyExtendedKeyUsage stand beside the two usages but not in their place: X509-SVID §4.4 asks for the two
// by name, and RFC 5280 §4.2.1.12 lets an application insist on that.
func (v *Verifier) checkExtKeyUsage(c *candidate) error {
	leaf := c.leaf()
	if len(leaf.ExtKeyUsage)+len(leaf.UnknownExtKeyUsage) == 0 {
		return nil
	}
	if !hasUsage(leaf, x509.ExtKeyUsageServerAuth) || !hasUsage(leaf, x509.ExtKeyUsageClientAuth) {
		return errors.New("leaf has an extended key usage without both serverAuth and clientAuth")
	}
	return nil
}

// checkLifetime holds the promise that a stolen key is of use for a bounded time only.
func (v *Verifier) checkLifetime(c *candidate) error {
	life := c.leaf().NotAfter.Sub(c.leaf().NotBefore)
	if v.maxLifetime > 0 && life > v.maxLifetime+backdating {
		return fmt.Errorf("leaf lives %s, at most %s is accepted", life, v.maxLifetime)
	}
	return nil
}

// checkValidity looks at each certificate that was presented; path validation also looks at the authority.
func (v *Verifier) checkValidity(c *candidate) error {
	for i, cert := range c.chain {
		if c.now.Before(cert.NotBefore) {
			return fmt.Errorf("certificate %d is not valid before %s, now is %s", i, stamp(cert.NotBefore), stamp(c.now))
		}
		if c.now.After(cert.NotAfter) {
			return fmt.Errorf("certificate %d expired at %s, now is %s", i, stamp(cert.NotAfter), stamp(c.now))
		}
	}
	return nil
}

func (v *Verifier) checkSigners(c *candidate) error {
	for i, cert := range c.intermediates() {
		if err := checkAuthority(cert); err != nil {
			return fmt.Errorf("certificate %d: %w", i+1, err)
		}
	}
	return nil
}

// checkSignersKeyUsage reads an intermediate's extended key usage as a limit on what stands below it, as path validators commonly do.
func (v *Verifier) checkSignersKeyUsage(c *candidate) error {
	for i, cert := range c.intermediates() {
		limited := len(cert.ExtKeyUsage)+len(cert.UnknownExtKeyUsage) > 0 && !hasUsage(cert, x509.ExtKeyUsageAny)
		if limited && (!hasUsage(cert, x509.ExtKeyUsageServerAuth) || !hasUsage(cert, x509.ExtKeyUsageClientAuth)) {
			return fmt.Errorf("certificate %d may not sign for serverAuth and clientAuth", i+1)
		}
	}
	return nil
}

// checkSignersTrustDomain is stricter than the standard, which only recommends that an authority is of its leaf's trust domain:
// one that says it is of another has no business here.
func (v *Verifier) checkSignersTrustDomain(c *candidate) error {
	want := c.id.TrustDomain().IDString()
	for i, cert := range c.intermediates() {
		uris, err := uriNames(cert)
		if err != nil {
			return fmt.Errorf("certificate %d: %w", i+1, err)
		}
		if len(uris) > 1 || len(uris) == 1 && uris[0] != want {
			return fmt.Errorf("certificate %d has URI SANs %q, may have none but %q", i+1, uris, want)
		}
	}
	return nil
}

// findBundle takes the bundle of the leaf's own trust domain. No other may vouch for it, a federated one included.
func (v *Verifier) findBundle(c *candidate) error {
	if v.bundles == nil {
		return errors.New("the verifier has no bundles")
	}
	td := c.id.TrustDomain()
	bundle, err := v.bundles.GetX509BundleForTrustDomain(td)
	if err == nil && bundle == nil {
		err = errors.New("its bundle is missing")
	}
	if err != nil {
		return fmt.Errorf("trust domain %q is not trusted: %w", td, err)
	}
	if got := bundle.TrustDomain(); got != td {
		return fmt.Errorf("trust domain %q is not trusted: the bundle at hand is that of %q", td, got)
	}
	// Trust Domain and Bundle §4.1.3: an empty bundle means that nothing of the domain is trusted.
	if c.roots = bundle.X509Authorities(); len(c.roots) == 0 {
		return fmt.Errorf("trust domain %q is not trusted: its bundle is empty", td)
	}
	return nil
}

// checkBundle refuses a bundle as a whole. A leaf that got into one would vouch for itself: crypto/x509 accepts a certificate
// that is among the roots without looking further.
func (v *Verifier) checkBundle(c *candidate) error { return checkAuthorities(c.roots) }

func (v *Verifier) checkPath(c *candidate) error {
	paths, err := c.leaf().Verify(x509.VerifyOptions{
		Roots:         pool(c.roots),
		Intermediates: pool(c.intermediates()),
		CurrentTime:   c.now,
		// checkExtKeyUsage and checkSignersKeyUsage have asked for both usages; this could only ask for one of them.
		KeyUsages: []x509.ExtKeyUsage{x509.ExtKeyUsageAny},
	})
	if err != nil {
		return fmt.Errorf("no valid path from %q to an authority of %q: %w", c.id, c.id.TrustDomain(), err)
	}
	c.paths = paths
	return nil
}

// checkNotRevoked takes the path that holds longest of those that no revoked authority is on.
func (v *Verifier) checkNotRevoked(c *candidate) error {
	peer := &Peer{ID: c.id, Serial: serialOf(c.leaf()), presented: c.chain}
	if err := v.checkPeer(peer); err != nil {
		return err
	}
	var revoked error
	for _, path := range c.paths {
		if err := v.checkSignersOf(path); err != nil {
			revoked = err
			continue
		}
		if end := earliestExpiry(path); end.After(peer.NotAfter) {
			peer.NotAfter, peer.Chain = end, path
		}
	}
	if peer.Chain == nil {
		return revoked
	}
	c.peer = peer
	return nil
}
