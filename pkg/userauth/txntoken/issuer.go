package txntoken

import (
	"encoding/json"
	"errors"
	"fmt"
	"time"

	"github.com/go-jose/go-jose/v4"

	"github.com/countersign-mesh/countersign/pkg/userauth/internal/jws"
)

// Issuer makes transaction tokens. Whether the customer has granted what a token says, and whether who asks may have it, is for its owner to know: it signs
// what it is given. It is safe for concurrent use. The zero value is not usable; see NewIssuer.
type Issuer struct {
	signer           func() (jose.JSONWebKey, error)
	issuer, audience string
	lifetime         time.Duration
	now              func() time.Time
}

// IssuerOption changes a default of NewIssuer.
type IssuerOption func(*Issuer)

// WithIssuerClock sets the clock; time.Now by default.
func WithIssuerClock(now func() time.Time) IssuerOption { return func(i *Issuer) { i.now = now } }

// NewIssuer returns an Issuer that signs with the private key that signer returns at that moment, in the name of issuer (iss, left out when empty), for the trust domain
// audience. A token lives for lifetime, which is MaxLifetime at most.
func NewIssuer(signer func() (jose.JSONWebKey, error), issuer, audience string, lifetime time.Duration, opts ...IssuerOption) *Issuer {
	i := &Issuer{signer: signer, issuer: issuer, audience: audience, lifetime: lifetime, now: time.Now}
	for _, opt := range opts {
		opt(i)
	}
	return i
}

// Issue signs what t says and returns the token. When it begins and ends is the issuer's to say; of an Expires that is earlier than the end of the
// lifetime it takes heed. It fails for what a Verifier would not take.
func (i *Issuer) Issue(t Token) (string, error) {
	t.Issued = i.now().Truncate(time.Second)
	if end := t.Issued.Add(i.lifetime); t.Expires.IsZero() || end.Before(t.Expires) {
		t.Expires = end
	}
	t.Expires = t.Expires.Truncate(time.Second)
	if i.audience == "" {
		return "", errors.New("issue a transaction token: there is no audience")
	}
	if err := t.check(); err != nil {
		return "", fmt.Errorf("issue a transaction token: %w", err)
	}
	issued, expires := t.Issued.Unix(), t.Expires.Unix()
	content, err := json.Marshal(claims{
		Issuer: i.issuer, Audience: texts{i.audience}, Issued: &issued, Expires: &expires,
		Transaction: t.ID, Subject: t.Subject, Scope: t.Scope, Requesters: t.Requesters,
		Context: pointers(t.Context), RequestContext: pointers(t.RequestContext),
	})
	if err != nil {
		return "", fmt.Errorf("issue a transaction token: %w", err)
	}
	raw, err := i.sign(content)
	switch {
	case err != nil:
		return "", fmt.Errorf("sign a transaction token: %w", err)
	case len(raw) > maxBytes:
		return "", fmt.Errorf("issue a transaction token: it would have %d bytes; no more than %d are taken", len(raw), maxBytes)
	}
	return raw, nil
}

func (i *Issuer) sign(content []byte) (string, error) {
	key, err := i.signer()
	if err != nil {
		return "", err
	}
	if key.KeyID == "" {
		return "", errors.New("the key has no kid")
	}
	algorithm, err := jws.AlgorithmOf(key.Public())
	if err != nil {
		return "", err
	}
	signer, err := jose.NewSigner(jose.SigningKey{Algorithm: algorithm, Key: key}, (&jose.SignerOptions{}).WithType(Type))
	if err != nil {
		return "", err
	}
	signed, err := signer.Sign(content)
	if err != nil {
		return "", err
	}
	return signed.CompactSerialize()
}
