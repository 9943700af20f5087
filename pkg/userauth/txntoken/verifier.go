package txntoken

import (
	"context"
	"crypto"
	"crypto/sha256"
	"errors"
	"fmt"
	"maps"
	"slices"
	"time"

	"github.com/go-jose/go-jose/v4"
	lru "github.com/hashicorp/golang-lru/v2"
	"google.golang.org/grpc/metadata"

	"github.com/countersign-mesh/countersign/pkg/authz"
	"github.com/countersign-mesh/countersign/pkg/policy"
	"github.com/countersign-mesh/countersign/pkg/userauth"
	"github.com/countersign-mesh/countersign/pkg/userauth/internal/jws"
)

const (
	// maxBytes bounds a token. The bank's have some 700 bytes, and gRPC's metadata has room for 16 KiB.
	maxBytes = 8192
	// remembered is how many tokens are known by their digest: a token travels with every call that serves a request, and comes back with each retry.
	remembered = 4096

	defaultLeeway = 5 * time.Second
	maxLeeway     = time.Minute
)

// ErrInvalid is wrapped by the error of Verify for a token that is not good.
var ErrInvalid = errors.New("the user's token is not valid")

// Keys finds the public key with a key ID; a jwks.Set does. Its error is userauth.ErrUnknownKey when there is none, and any other when that is not known.
type Keys interface {
	Key(ctx context.Context, kid string) (jose.JSONWebKey, error)
}

// Verifier verifies transaction tokens. It is an authz.Users. It is safe for concurrent use. The zero value is not usable; see NewVerifier.
type Verifier struct {
	keys             Keys
	issuer, audience string
	leeway           time.Duration
	now              func() time.Time
	// verified has tokens whose signature and content are good, by their digest.
	verified *lru.Cache[[sha256.Size]byte, *verified]
}

// verified is what stays to be looked at each time of a token that was verified once.
type verified struct {
	token     *Token
	user      *policy.User
	notBefore time.Time
	keyID     string
	key       any
}

// Option changes a default of NewVerifier.
type Option func(*Verifier)

// WithClock sets the clock; time.Now by default.
func WithClock(now func() time.Time) Option { return func(v *Verifier) { v.now = now } }

// WithIssuer has tokens of another issuer (iss) refused, and those without one. By default it is not looked at: who may sign is for the keys to say.
func WithIssuer(issuer string) Option { return func(v *Verifier) { v.issuer = issuer } }

// WithLeeway sets how far clocks may be apart; 5 s by default, and 60 s at most.
func WithLeeway(d time.Duration) Option { return func(v *Verifier) { v.leeway = min(d, maxLeeway) } }

// NewVerifier returns a Verifier of tokens for the trust domain audience.
func NewVerifier(keys Keys, audience string, opts ...Option) *Verifier {
	cache, err := lru.New[[sha256.Size]byte, *verified](remembered)
	if err != nil {
		panic(err) // only a size below one is an error
	}
	v := &Verifier{keys: keys, audience: audience, leeway: defaultLeeway, now: time.Now, verified: cache}
	for _, opt := range opts {
		opt(v)
	}
	return v
}

// Verify returns what a token says. Its error wraps ErrInvalid when the token is not good, and authz.ErrUnavailable when the keys cannot be had; it does not have the token in it.
func (v *Verifier) Verify(ctx context.Context, raw string) (*Token, error) {
	known, err := v.verify(ctx, raw)
	if err != nil {
		return nil, err
	}
	return known.token, nil
}

// User implements authz.Users: it verifies the token in the metadata of a call, and puts it in the context.
func (v *Verifier) User(ctx context.Context) (context.Context, *policy.User, error) {
	switch raw := metadata.ValueFromIncomingContext(ctx, MetadataKey); len(raw) {
	case 0:
		return ctx, nil, policy.ErrNoUser
	case 1:
		known, err := v.verify(ctx, raw[0])
		if err != nil {
			return ctx, nil, err
		}
		return NewContext(ctx, known.token), known.user, nil
	default: // one of them may be a good one, and it is not for this side to choose
		return ctx, nil, invalid(fmt.Errorf("the call carries %d of them", len(raw)))
	}
}

// verify verifies a token, by what is remembered of it if it was seen before. When it ends and whether its key still stands is looked at each time.
func (v *Verifier) verify(ctx context.Context, raw string) (*verified, error) {
	if len(raw) > maxBytes {
		return nil, invalid(fmt.Errorf("it has over %d bytes", maxBytes))
	}
	digest := sha256.Sum256([]byte(raw))
	known, ok := v.verified.Get(digest)
	if ok {
		key, err := v.key(ctx, known.keyID)
		if err != nil {
			return nil, err
		}
		ok = equal(known.key, key.Key)
	}
	if !ok {
		var err error
		if known, err = v.read(ctx, raw); err != nil {
			return nil, err
		}
	}
	if err := v.checkTime(known); err != nil {
		v.verified.Remove(digest)
		return nil, invalid(err)
	}
	if !ok {
		v.verified.Add(digest, known)
	}
	return known, nil
}

// read verifies a token that is not known yet.
func (v *Verifier) read(ctx context.Context, raw string) (*verified, error) {
	parsed, err := jws.Parse(raw, jws.Options{Types: []string{Type}, Algorithms: jws.Algorithms(), MaxBytes: maxBytes})
	if err != nil {
		return nil, invalid(err)
	}
	key, err := v.key(ctx, parsed.KeyID)
	if err != nil {
		return nil, err
	}
	content, err := parsed.Verify(key)
	if err != nil {
		return nil, invalid(err)
	}
	c, err := parseClaims(content)
	if err != nil {
		return nil, invalid(err)
	}
	token, err := c.token(raw)
	switch {
	case err != nil:
		return nil, invalid(err)
	case !slices.Equal(c.Audience, texts{v.audience}): // §9.2: it is good in one trust domain
		return nil, invalid(errors.New("it is for another trust domain (aud)"))
	case v.issuer != "" && c.Issuer != v.issuer:
		return nil, invalid(errors.New("it is of another issuer (iss)"))
	}
	known := &verified{token: token, keyID: parsed.KeyID, key: key.Key, notBefore: token.Issued, user: &policy.User{
		Subject: token.Subject, Scope: token.Scope, Transaction: token.ID, Requesters: slices.Clone(token.Requesters),
		Context: maps.Clone(token.Context), Expires: token.Expires, // of its own: nothing that a handler does to its token reaches the policy
	}}
	if c.NotBefore != nil {
		known.notBefore = later(known.notBefore, time.Unix(*c.NotBefore, 0))
	}
	return known, nil
}

func later(a, b time.Time) time.Time {
	if b.After(a) {
		return b
	}
	return a
}

// checkTime fails for a token that has ended or not begun.
func (v *Verifier) checkTime(known *verified) error {
	now := v.now()
	if !now.Before(known.token.Expires.Add(v.leeway)) {
		return errors.New("it has expired")
	}
	if now.Before(known.notBefore.Add(-v.leeway)) {
		return errors.New("it is not valid yet (iat, nbf)")
	}
	return nil
}

// key finds the key of a token.
func (v *Verifier) key(ctx context.Context, kid string) (jose.JSONWebKey, error) {
	key, err := v.keys.Key(ctx, kid)
	switch {
	case errors.Is(err, userauth.ErrUnknownKey):
		return key, invalid(errors.New("no key of the issuer has its kid"))
	case err != nil:
		return key, fmt.Errorf("%w: the keys of users' tokens cannot be had: %w", authz.ErrUnavailable, err)
	}
	return key, nil
}

func equal(a, b any) bool {
	public, ok := a.(interface{ Equal(x crypto.PublicKey) bool })
	return ok && public.Equal(b)
}

func invalid(err error) error { return fmt.Errorf("%w: %w", ErrInvalid, err) }
