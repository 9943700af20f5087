package txntoken_test

import (
	"context"
	"crypto/ecdsa"
	"crypto/ed25519"
	"crypto/elliptic"
	"crypto/hmac"
	"crypto/rand"
	"crypto/sha256"
	"encoding/base64"
	"encoding/json"
	"errors"
	"maps"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/go-jose/go-jose/v4"

	"github.com/countersign-mesh/countersign/pkg/userauth"
	"github.com/countersign-mesh/countersign/pkg/userauth/txntoken"
)

// begin is when the tests' clock starts.
var begin = time.Date(2026, 3, 1, 12, 0, 0, 0, time.UTC)

// clock is a clock that stands still.
type clock struct{ at atomic.Int64 }

func newClock() *clock {
	c := &clock{}
	c.at.Store(begin.UnixNano())
	return c
}

func (c *clock) now() time.Time          { return time.Unix(0, c.at.Load()) }
func (c *clock) advance(d time.Duration) { c.at.Add(int64(d)) }

var errAway = errors.New("the issuer is away")

// keys are a txntoken.Keys that a test changes, and counts how often it is asked.
type keys struct {
	mu    sync.Mutex
	byID  map[string]jose.JSONWebKey
	away  bool
	asked int
}

func (k *keys) Key(_ context.Context, kid string) (jose.JSONWebKey, error) {
	k.mu.Lock()
	defer k.mu.Unlock()
	k.asked++
	key, ok := k.byID[kid]
	switch {
	case k.away:
		return key, errAway
	case !ok:
		return key, userauth.ErrUnknownKey
	}
	return key, nil
}

func (k *keys) set(key jose.JSONWebKey) {
	k.mu.Lock()
	defer k.mu.Unlock()
	k.byID[key.KeyID] = key.Public()
}

func (k *keys) remove(kid string) {
	k.mu.Lock()
	defer k.mu.Unlock()
	delete(k.byID, kid)
}

func (k *keys) setAway(away bool) {
	k.mu.Lock()
	defer k.mu.Unlock()
	k.away = away
}

func newKey(t testing.TB, kid string) jose.JSONWebKey {
	t.Helper()
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	return jose.JSONWebKey{Key: key, KeyID: kid, Algorithm: "ES256", Use: "sig"}
}

func newEdKey(t testing.TB, kid string) jose.JSONWebKey {
	t.Helper()
	_, key, err := ed25519.GenerateKey(rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	return jose.JSONWebKey{Key: key, KeyID: kid}
}

// bank is an issuer, and a verifier of one of the services behind it.
type bank struct {
	key      jose.JSONWebKey
	keys     *keys
	clock    *clock
	issuer   *txntoken.Issuer
	verifier *txntoken.Verifier
}

const (
	issuerName = "https://login.bank.test"
	audience   = "bank.test"
	lifetime   = 2 * time.Minute
)

func newBank(t testing.TB, opts ...txntoken.Option) *bank {
	t.Helper()
	b := &bank{key: newKey(t, "k1"), keys: &keys{byID: make(map[string]jose.JSONWebKey)}, clock: newClock()}
	b.keys.set(b.key)
	b.issuer = b.issuerOf(issuerName, audience, lifetime)
	b.verifier = txntoken.NewVerifier(b.keys, audience, append([]txntoken.Option{txntoken.WithClock(b.clock.now)}, opts...)...)
	return b
}

func (b *bank) issuerOf(name, audience string, lifetime time.Duration) *txntoken.Issuer {
	signer := func() (jose.JSONWebKey, error) { return b.key, nil }
	return txntoken.NewIssuer(signer, name, audience, lifetime, txntoken.WithIssuerClock(b.clock.now))
}

// transfer is what a customer asks for in the tests.
func transfer() txntoken.Token {
	return txntoken.Token{
		ID: "txn-1", Subject: "alice", Scope: "transfer", Requesters: []string{"spiffe://bank.test/gateway"},
		Context: map[string]string{"payment_id": "pay-1", "amount": "1000"}, RequestContext: map[string]string{"device": "dev-1"},
	}
}

func (b *bank) issue(t testing.TB, token txntoken.Token) string {
	t.Helper()
	raw, err := b.issuer.Issue(token)
	if err != nil {
		t.Fatal(err)
	}
	return raw
}

// object is a JSON object of a token that is forged. nil takes a member out.
type object map[string]any

func with(all, changes object) object {
	all = maps.Clone(all)
	maps.Copy(all, changes)
	maps.DeleteFunc(all, func(_ string, value any) bool { return value == nil })
	return all
}

func goodHeader(changes object) object {
	return with(object{"alg": "ES256", "typ": txntoken.Type, "kid": "k1"}, changes)
}

func goodClaims(changes object) object {
	return with(object{
		"iss": issuerName, "aud": audience, "iat": begin.Unix(), "exp": begin.Add(lifetime).Unix(), "txn": "txn-1", "sub": "alice",
		"scope": "transfer", "req_wl": "spiffe://bank.test/gateway", "tctx": object{"payment_id": "pay-1"},
	}, changes)
}

// forge signs whatever header and claims, as no library would.
func forge(t testing.TB, key any, header, claims object) string {
	t.Helper()
	return forgeText(t, key, marshal(t, header), marshal(t, claims))
}

func forgeText(t testing.TB, key any, header, claims string) string {
	t.Helper()
	input := encode([]byte(header)) + "." + encode([]byte(claims))
	digest := sha256.Sum256([]byte(input))
	switch key := key.(type) {
	case *ecdsa.PrivateKey:
		r, s, err := ecdsa.Sign(rand.Reader, key, digest[:])
		if err != nil {
			t.Fatal(err)
		}
		return input + "." + encode(append(r.FillBytes(make([]byte, 32)), s.FillBytes(make([]byte, 32))...))
	case ed25519.PrivateKey:
		return input + "." + encode(ed25519.Sign(key, []byte(input)))
	case []byte:
		mac := hmac.New(sha256.New, key)
		mac.Write([]byte(input))
		return input + "." + encode(mac.Sum(nil))
	}
	return input + "."
}

func marshal(t testing.TB, o object) string {
	t.Helper()
	text, err := json.Marshal(o)
	if err != nil {
		t.Fatal(err)
	}
	return string(text)
}

func encode(b []byte) string { return base64.RawURLEncoding.EncodeToString(b) }
