package userauth

import (
	"context"
	"crypto/sha256"
	"crypto/subtle"
	"crypto/x509"
	"errors"
	"fmt"
	"log/slog"
	"sync/atomic"
	"time"

	"github.com/go-jose/go-jose/v4"
	lru "github.com/hashicorp/golang-lru/v2"
	"golang.org/x/time/rate"

	"github.com/countersign-mesh/countersign/pkg/userauth/internal/jws"
)

const (
	// maxLeeway is how far clocks may be apart at most.
	maxLeeway = time.Minute
	// maxLifetime is the longest life of an access token, from iat to exp: what is bound to a certificate can be renewed often.
	maxLifetime = time.Hour
	// maxVerified bounds how many tokens are remembered as verified. Each takes some 2 KiB.
	maxVerified = 4096
)

// Keys gives the public keys of an issuer by their names. Key fails with ErrUnknownKey when there is none of that name, and with any other error when it
// cannot say. It must be safe for concurrent use. A jwks.Set is one.
//
// A Keys may also have a method Changed() <-chan struct{} that returns a channel which is closed when its keys change: open streams then end when the key
// of their token is withdrawn.
type Keys interface {
	Key(ctx context.Context, kid string) (jose.JSONWebKey, error)
}

// Verifier decides whether an access token is good, for whom it was issued by whom it must be, and whether it is the caller's own. It is safe for
// concurrent use.
//
// A token whose signature was verified is remembered until it ends, by its SHA-256, so that the next call with it costs no signature. All else is
// looked at for each call: the certificate, the time, revocations, and whether the key is still the issuer's.
type Verifier struct {
	keys     Keys
	issuer   string
	audience string
	revoked  *Revocations
	now      func() time.Time
	leeway   time.Duration
	log      *slog.Logger
	// lines bounds what callers can make of the log.
	lines    *rate.Limiter
	verified *lru.Cache[[sha256.Size]byte, *verified]
}

// Option changes a default of NewVerifier.
type Option func(*Verifier)

// WithRevocations refuses what is in a set, and ends open streams when it comes into it.
func WithRevocations(r *Revocations) Option { return func(v *Verifier) { v.revoked = r } }

// WithClock sets the clock; time.Now by default.
func WithClock(now func() time.Time) Option { return func(v *Verifier) { v.now = now } }

// WithLeeway sets how far the clocks of the issuer and of this process may be apart, from 0 to 60 s; 30 s by default. More than that is taken for
// 60 s.
func WithLeeway(d time.Duration) Option {
	return func(v *Verifier) { v.leeway = min(max(d, 0), maxLeeway) }
}

// WithLogger sets where the reasons of refusals go, some ten lines a second at most; nowhere by default.
func WithLogger(log *slog.Logger) Option { return func(v *Verifier) { v.log = log } }

// NewVerifier returns a Verifier of the access tokens that issuer issues for audience. Both are compared letter by letter (RFC 9068 §4).
func NewVerifier(keys Keys, issuer, audience string, opts ...Option) *Verifier {
	remembered, err := lru.New[[sha256.Size]byte, *verified](maxVerified)
	if err != nil {
		panic(err) // it fails for a size that is not positive
	}
	v := &Verifier{
		keys: keys, issuer: issuer, audience: audience, now: time.Now, leeway: maxLeeway / 2,
		log: slog.New(slog.DiscardHandler), lines: rate.NewLimiter(10, 20), verified: remembered,
	}
	for _, opt := range opts {
		opt(v)
	}
	return v
}

// verified is a token whose signature is good. Whether it is to be believed now, and from this caller, is another matter.
type verified struct {
	claims claims
	token  string
	keyID  string
	key    any
	// principal is whom it names, once it was presented with its certificate.
	principal atomic.Pointer[Principal]
}

// Verify decides on a token that was presented over a connection whose other end has proven to have cert's key. Its error is an *Error.
//
// It does not look at who issued the certificate: that is for the TLS handshake, and the token names this very certificate (RFC 8705 §3).
func (v *Verifier) Verify(ctx context.Context, token string, cert *x509.Certificate) (*Principal, error) {
	if cert == nil {
		return nil, invalid("there is no client certificate on the connection (RFC 8705 §3)")
	}
	digest := sha256.Sum256([]byte(token))
	known, ok := v.verified.Get(digest)
	if !ok {
		fresh, err := v.verifySignature(ctx, token)
		if err != nil {
			return nil, err
		}
		known = fresh
	}
	if err := v.checkBinding(known, cert); err != nil {
		return nil, err
	}
	p := known.principalWith(cert)
	if err := v.Recheck(ctx, p); err != nil {
		if ok && errors.Is(err, ErrInvalidToken) {
			v.verified.Remove(digest)
		}
		return nil, err
	}
	if !ok {
		v.verified.Add(digest, known)
	}
	return p, nil
}

// Recheck decides whether a principal that was verified before is still to be believed: by the time, by revocations, and by whether the key is still
// the issuer's. It costs no signature. Its error is an *Error.
func (v *Verifier) Recheck(ctx context.Context, p *Principal) error {
	now := v.now()
	if !now.Before(p.Expires.Add(v.leeway)) {
		return invalid("the token has expired (exp)")
	}
	if !p.certUntil.IsZero() && now.After(p.certUntil) {
		return invalid("the certificate has expired")
	}
	if what, revoked := v.revoked.check(p); revoked {
		return invalid("the %s is revoked", what)
	}
	if p.key == nil { // it was not made by a Verifier
		return nil
	}
	key, err := v.key(ctx, p.keyID)
	if err != nil {
		return err
	}
	if !sameKey(key.Key, p.key) {
		return invalid("the key of this name is another one now")
	}
	return nil
}

// verifySignature reads a token that is not known yet, and everything in it that does not change with time.
func (v *Verifier) verifySignature(ctx context.Context, token string) (*verified, error) {
	parsed, err := jws.Parse(token, jws.Options{Types: types(), Algorithms: jws.Algorithms()})
	if err != nil {
		return nil, invalid("the token cannot be read: %v", err)
	}
	key, err := v.key(ctx, parsed.KeyID)
	if err != nil {
		return nil, err
	}
	payload, err := parsed.Verify(key)
	if err != nil {
		return nil, invalid("the token is not the issuer's: %v", err)
	}
	c, err := parseClaims(payload)
	if err != nil {
		return nil, invalid("the claims: %v", err)
	}
	if err := v.checkClaims(&c); err != nil {
		return nil, invalid("the claims: %v", err)
	}
	return &verified{claims: c, token: token, keyID: parsed.KeyID, key: key.Key}, nil
}

// types are those of an access token (RFC 9068 §4, step 1).
func types() []string { return []string{"at+jwt", "application/at+jwt"} }

// key returns a key of the issuer.
func (v *Verifier) key(ctx context.Context, kid string) (jose.JSONWebKey, error) {
	key, err := v.keys.Key(ctx, kid)
	switch {
	case err == nil:
		return key, nil
	case errors.Is(err, ErrUnknownKey):
		return key, invalid("the issuer has no key of the name that the token gives")
	default:
		return key, &Error{kind: ErrUnavailable, reason: fmt.Sprintf("the issuer's keys are not known: %v", err)}
	}
}

// checkBinding holds the token against the certificate of the connection (RFC 8705 §3).
func (v *Verifier) checkBinding(known *verified, cert *x509.Certificate) error {
	presented := thumbprint(cert)
	if subtle.ConstantTimeCompare(presented[:], known.claims.thumbprint[:]) != 1 {
		return invalid("the token is bound to another certificate (cnf)")
	}
	if v.now().Before(cert.NotBefore.Add(-v.leeway)) {
		return invalid("the certificate is not valid yet")
	}
	return nil
}

// principalWith returns whom a token names that was presented with its certificate. There is one certificate for a token, and so one principal.
func (known *verified) principalWith(cert *x509.Certificate) *Principal {
	if p := known.principal.Load(); p != nil {
		return p
	}
	p := known.claims.principal()
	p.CertSerial = fmt.Sprintf("%x", cert.SerialNumber)
	p.certUntil = cert.NotAfter
	p.token, p.keyID, p.key = known.token, known.keyID, known.key
	known.principal.Store(p)
	return p
}
