package ca

import (
	"crypto/rand"
	"crypto/x509"
	"crypto/x509/pkix"
	"fmt"
	"net/url"
	"time"

	"github.com/spiffe/go-spiffe/v2/spiffeid"
)

// svidBackdate is how far back an SVID is valid, for a peer whose clock is behind.
const svidBackdate = 30 * time.Second

// Request asks for one X.509-SVID. The zero TTL means the authority's default.
type Request struct {
	ID       spiffeid.ID
	DNSNames []string
	TTL      time.Duration
}

// SVID is one X.509-SVID with its key, which exists nowhere else.
type SVID struct {
	ID spiffeid.ID
	// Certificates is the chain in DER, leaf first, without the authority: authorities sign leaves directly.
	Certificates []byte
	// Key is the private key in PKCS #8 DER.
	Key []byte
	// Serial is in lower-case hexadecimal.
	Serial   string
	NotAfter time.Time
}

// Issue is a set of SVIDs and the bundle that they verify against, taken at one moment.
type Issue struct {
	SVIDs []SVID
	// Bundle is the trust domain's authorities in DER, one after another.
	Bundle []byte
	// Issued and NotAfter bound the time in which all the SVIDs are valid.
	Issued   time.Time
	NotAfter time.Time
}

// IssueX509 makes an SVID with a fresh key for each request. None lives longer than the authority that signs it.
func (c *CA) IssueX509(requests ...Request) (*Issue, error) {
	var longest time.Duration
	for _, r := range requests {
		longest = max(longest, c.svidTTL(r))
	}
	s, err := c.begin(x509Ring, longest)
	if err != nil {
		return nil, err
	}
	issue := &Issue{Issued: s.now, NotAfter: s.with.NotAfter, Bundle: s.ring.bundle()}
	for _, r := range requests {
		svid, err := s.issueX509(r, c.svidTTL(r))
		if err != nil {
			return nil, fmt.Errorf("issue an X.509-SVID for %s: %w", r.ID, err)
		}
		if svid.NotAfter.Before(issue.NotAfter) {
			issue.NotAfter = svid.NotAfter
		}
		issue.SVIDs = append(issue.SVIDs, svid)
	}
	return issue, nil
}

// X509Bundle returns the trust domain's authorities in DER, one after another.
func (c *CA) X509Bundle() []byte {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.rings.X509.bundle()
}

func (c *CA) svidTTL(r Request) time.Duration {
	if r.TTL == 0 {
		return c.config.SVIDTTL
	}
	return min(r.TTL, MaxTTL)
}

// bundle returns all certificates of the ring: what is prepared and what is old is published too.
func (r ring) bundle() []byte {
	var der []byte
	for _, key := range r {
		der = append(der, key.Cert.Raw...)
	}
	return der
}

func (s signing) issueX509(r Request, ttl time.Duration) (SVID, error) {
	key, ski, err := newKey()
	if err != nil {
		return SVID{}, err
	}
	template, err := s.leaf(r, ttl)
	if err != nil {
		return SVID{}, err
	}
	template.SubjectKeyId = ski
	der, err := x509.CreateCertificate(rand.Reader, template, s.with.Cert, &key.PublicKey, s.with.Key)
	if err != nil {
		return SVID{}, fmt.Errorf("sign the certificate: %w", err)
	}
	encoded, err := x509.MarshalPKCS8PrivateKey(key)
	if err != nil {
		return SVID{}, fmt.Errorf("encode the key: %w", err)
	}
	return SVID{
		ID: r.ID, Certificates: der, Key: encoded,
		Serial: fmt.Sprintf("%x", template.SerialNumber), NotAfter: template.NotAfter,
	}, nil
}

// leaf is what X509-SVID §2 to §5.2 ask of a leaf: one URI SAN, no CA, digitalSignature and nothing else, both server and client.
func (s signing) leaf(r Request, ttl time.Duration) (*x509.Certificate, error) {
	serial, err := newSerial()
	if err != nil {
		return nil, err
	}
	notAfter := seconds(s.now.Add(ttl))
	if notAfter.After(s.with.NotAfter) {
		notAfter = s.with.NotAfter
	}
	if !s.now.Before(notAfter) {
		return nil, ErrNotReady
	}
	notBefore := seconds(s.now.Add(-svidBackdate))
	if earliest := notAfter.Add(-MaxTTL); notBefore.Before(earliest) {
		notBefore = earliest
	}
	subject := pkix.Name{Country: []string{"US"}, Organization: []string{"SPIFFE"}}
	if len(r.DNSNames) > 0 && len(r.DNSNames[0]) <= maxCommonName {
		subject.CommonName = r.DNSNames[0]
	}
	return &x509.Certificate{
		SerialNumber: serial, Subject: subject, NotBefore: notBefore, NotAfter: notAfter,
		URIs: []*url.URL{r.ID.URL()}, DNSNames: r.DNSNames,
		KeyUsage:              x509.KeyUsageDigitalSignature,
		ExtKeyUsage:           []x509.ExtKeyUsage{x509.ExtKeyUsageServerAuth, x509.ExtKeyUsageClientAuth},
		BasicConstraintsValid: true,
	}, nil
}

// maxCommonName is ub-common-name of RFC 5280 appendix A.
const maxCommonName = 64
