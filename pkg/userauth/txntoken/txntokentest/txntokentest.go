// Package txntokentest is for tests of services that are called with transaction tokens: an issuer under the test's control.
package txntokentest

import (
	"context"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"encoding/json"
	"testing"
	"time"

	"github.com/go-jose/go-jose/v4"

	"github.com/countersign-mesh/countersign/pkg/userauth"
	"github.com/countersign-mesh/countersign/pkg/userauth/txntoken"
)

const (
	keyID    = "key-1"
	lifetime = 2 * time.Minute
)

// Issuer issues transaction tokens for a trust domain. It is a txntoken.Keys, and safe for concurrent use.
type Issuer struct {
	audience string
	key      *ecdsa.PrivateKey
}

// New returns an issuer with a key of its own, for a trust domain.
func New(t testing.TB, trustDomain string) *Issuer {
	t.Helper()
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		t.Fatalf("generate a key: %v", err)
	}
	return &Issuer{audience: trustDomain, key: key}
}

// Verifier returns what a server verifies the issuer's tokens with.
func (i *Issuer) Verifier() *txntoken.Verifier { return txntoken.NewVerifier(i, i.audience) }

// Token returns a token that was issued that long ago, and lives two minutes from then.
func (i *Issuer) Token(t testing.TB, token txntoken.Token, ago time.Duration) string {
	t.Helper()
	raw, err := i.issuer(ago).Issue(token)
	if err != nil {
		t.Fatalf("issue a transaction token: %v", err)
	}
	return raw
}

// Context returns a context whose calls are made with a token that is issued now, over connections that send tokens (mesh.WithTransactionTokens).
func (i *Issuer) Context(t testing.TB, ctx context.Context, token txntoken.Token) context.Context { //nolint:revive // the test comes first, as in all that tests call
	t.Helper()
	return i.ContextAgo(t, ctx, token, 0)
}

// ContextAgo is Context with a token that was issued that long ago, such as one that has expired since.
func (i *Issuer) ContextAgo(t testing.TB, ctx context.Context, token txntoken.Token, ago time.Duration) context.Context { //nolint:revive // as above
	t.Helper()
	then := txntoken.NewVerifier(i, i.audience, txntoken.WithClock(clock(ago)))
	verified, err := then.Verify(ctx, i.Token(t, token, ago))
	if err != nil {
		t.Fatalf("verify a transaction token: %v", err)
	}
	return txntoken.NewContext(ctx, verified)
}

// Key implements txntoken.Keys.
func (i *Issuer) Key(_ context.Context, kid string) (jose.JSONWebKey, error) {
	if kid != keyID {
		return jose.JSONWebKey{}, userauth.ErrUnknownKey
	}
	return i.public(), nil
}

// JWKS returns the public key as a JWK Set.
func (i *Issuer) JWKS(t testing.TB) []byte {
	t.Helper()
	text, err := json.Marshal(jose.JSONWebKeySet{Keys: []jose.JSONWebKey{i.public()}})
	if err != nil {
		t.Fatalf("write a JWK Set: %v", err)
	}
	return text
}

func (i *Issuer) issuer(ago time.Duration) *txntoken.Issuer {
	signer := func() (jose.JSONWebKey, error) { return i.jwk(i.key), nil }
	return txntoken.NewIssuer(signer, "", i.audience, lifetime, txntoken.WithIssuerClock(clock(ago)))
}

func (i *Issuer) public() jose.JSONWebKey { return i.jwk(&i.key.PublicKey) }

func (i *Issuer) jwk(key any) jose.JSONWebKey {
	return jose.JSONWebKey{Key: key, KeyID: keyID, Algorithm: string(jose.ES256), Use: "sig"}
}

func clock(ago time.Duration) func() time.Time {
	return func() time.Time { return time.Now().Add(-ago) }
}
