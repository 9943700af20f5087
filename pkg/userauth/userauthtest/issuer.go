package userauthtest

import (
	"context"
	"crypto/ecdsa"
	"crypto/rand"
	"crypto/sha256"
	"crypto/x509"
	"encoding/base64"
	"encoding/json"
	"fmt"
	"maps"
	"sync"
	"testing"
	"time"

	"github.com/go-jose/go-jose/v4"

	"github.com/countersign-mesh/countersign/pkg/userauth"
)

// Claims are claims of a token, or parameters of its header. Where they change others, nil takes one out.
type Claims map[string]any

// Issuer issues access tokens. It is a userauth.Keys, and safe for concurrent use.
type Issuer struct {
	url, audience string

	mu   sync.Mutex
	keys []issuerKey // the last one signs
	made int
}

type issuerKey struct {
	id  string
	key *ecdsa.PrivateKey
}

// NewIssuer returns an issuer with one key, of tokens for audience.
func NewIssuer(t testing.TB, url, audience string) *Issuer {
	t.Helper()
	i := &Issuer{url: url, audience: audience}
	i.NewKey(t)
	return i
}

// NewKey has the issuer sign with a new key from now on. The keys before it stay published until Withdraw.
func (i *Issuer) NewKey(t testing.TB) {
	t.Helper()
	key := newKey(t)
	i.mu.Lock()
	defer i.mu.Unlock()
	i.made++
	i.keys = append(i.keys, issuerKey{fmt.Sprintf("key-%d", i.made), key})
}

// Withdraw withdraws every key but the newest.
func (i *Issuer) Withdraw() {
	i.mu.Lock()
	defer i.mu.Unlock()
	i.keys = i.keys[len(i.keys)-1:]
}

// Claims returns those of a good access token for the holder of a certificate, with changes. It is the customer alice's, and lives five minutes.
func (i *Issuer) Claims(cert *x509.Certificate, changes Claims) Claims {
	now := time.Now().Unix()
	claims := Claims{
		"iss": i.url, "aud": i.audience, "iat": now, "exp": now + 300, "sub": "alice", "client_id": cert.Subject.CommonName, "jti": rand.Text(), "sid": "session-1",
		"scope": "accounts.read transfer", "acr": "urn:bank:acr:1", "auth_time": now, "cnf": Claims{"x5t#S256": Thumbprint(cert)},
	}
	return merge(claims, changes)
}

// Token returns a good access token for the holder of a certificate, but for changes of its claims.
func (i *Issuer) Token(t testing.TB, cert *x509.Certificate, changes Claims) string {
	t.Helper()
	return i.Sign(t, nil, i.Claims(cert, changes))
}

// Sign signs claims with ES256 whatever is in them, and whatever the header then says.
func (i *Issuer) Sign(t testing.TB, header, claims Claims) string {
	t.Helper()
	return i.sign(t, header, marshal(t, claims))
}

// SignText signs a content that need not even be JSON.
func (i *Issuer) SignText(t testing.TB, content string) string {
	t.Helper()
	return i.sign(t, nil, []byte(content))
}

func (i *Issuer) sign(t testing.TB, header Claims, content []byte) string {
	t.Helper()
	signer := i.signer()
	protected := marshal(t, merge(Claims{"alg": "ES256", "typ": "at+jwt", "kid": signer.id}, header))
	input := base64.RawURLEncoding.EncodeToString(protected) + "." + base64.RawURLEncoding.EncodeToString(content)
	digest := sha256.Sum256([]byte(input))
	r, s, err := ecdsa.Sign(rand.Reader, signer.key, digest[:])
	if err != nil {
		t.Fatalf("sign a token: %v", err)
	}
	signature := make([]byte, 64) // RFC 7518 §3.4
	r.FillBytes(signature[:32])
	s.FillBytes(signature[32:])
	return input + "." + base64.RawURLEncoding.EncodeToString(signature)
}

// JWKS returns the public keys as a JWK Set.
func (i *Issuer) JWKS(t testing.TB) []byte {
	t.Helper()
	i.mu.Lock()
	defer i.mu.Unlock()
	var set jose.JSONWebKeySet
	for _, k := range i.keys {
		set.Keys = append(set.Keys, k.public())
	}
	text, err := json.Marshal(set)
	if err != nil {
		t.Fatalf("write a JWK Set: %v", err)
	}
	return text
}

// Key implements userauth.Keys.
func (i *Issuer) Key(_ context.Context, kid string) (jose.JSONWebKey, error) {
	i.mu.Lock()
	defer i.mu.Unlock()
	for _, k := range i.keys {
		if k.id == kid {
			return k.public(), nil
		}
	}
	return jose.JSONWebKey{}, userauth.ErrUnknownKey
}

// Thumbprint is the x5t#S256 of a certificate (RFC 8705 §3.1).
func Thumbprint(cert *x509.Certificate) string {
	sum := sha256.Sum256(cert.Raw)
	return base64.RawURLEncoding.EncodeToString(sum[:])
}

func (i *Issuer) signer() issuerKey {
	i.mu.Lock()
	defer i.mu.Unlock()
	return i.keys[len(i.keys)-1]
}

func (k issuerKey) public() jose.JSONWebKey {
	return jose.JSONWebKey{Key: &k.key.PublicKey, KeyID: k.id, Algorithm: string(jose.ES256), Use: "sig"}
}

func merge(claims, changes Claims) Claims {
	maps.Copy(claims, changes)
	maps.DeleteFunc(claims, func(_ string, value any) bool { return value == nil })
	return claims
}

func marshal(t testing.TB, claims Claims) []byte {
	t.Helper()
	text, err := json.Marshal(claims)
	if err != nil {
		t.Fatalf("write a token: %v", err)
	}
	return text
}
