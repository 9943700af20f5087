package jwks_test

import (
	"bytes"
	"crypto/ecdsa"
	"crypto/ed25519"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/rsa"
	"encoding/json"
	"errors"
	"log/slog"
	"maps"
	"strings"
	"testing"
	"time"

	"github.com/go-jose/go-jose/v4"

	"github.com/countersign-mesh/countersign/pkg/userauth"
	"github.com/countersign-mesh/countersign/pkg/userauth/jwks"
)

// What is no JWK Set is no reason to forget the keys.
func TestADocumentThatIsNone(t *testing.T) {
	t.Parallel()
	for name, document := range map[string]string{
		"an error page": "<html>502", "nothing": "", "no keys": "{}", "null": `{"keys":null}`, "keys that are none": `{"keys":{}}`, "two lists": `{"keys":[],"keys":[]}`,
		"without end": `{"keys":[` + strings.Repeat(" ", 300<<10) + `]}`, "too many keys": `{"keys":[` + strings.Repeat(`{},`, 100) + `{}]}`,
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			e := new(endpoint)
			e.publish(newKey("a"))
			run(t, e, func(t *testing.T, s *jwks.Set) {
				e.answer([]byte(document), nil)
				sleep(2 * time.Minute)
				has(t, s, "a")
				if _, err := s.Key(t.Context(), "b"); err == nil || errors.Is(err, userauth.ErrUnknownKey) {
					t.Errorf("of another key it is said: %v", err)
				}
			})
		})
	}
}

// One bad key among good ones is left out, and said to be, once.
func TestOneBadKeyAmongGood(t *testing.T) {
	t.Parallel()
	private, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	p384, err := ecdsa.GenerateKey(elliptic.P384(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	rsaKey, err := rsa.GenerateKey(rand.Reader, 2048)
	if err != nil {
		t.Fatal(err)
	}
	change := func(changes func(k *jose.JSONWebKey)) any {
		k := newKey("bad")
		changes(&k)
		return k
	}
	raw := func(changes map[string]any) any {
		text, err := json.Marshal(newKey("bad"))
		if err != nil {
			t.Fatal(err)
		}
		var members map[string]any
		if err := json.Unmarshal(text, &members); err != nil {
			t.Fatal(err)
		}
		maps.Copy(members, changes)
		return members
	}
	for _, c := range []struct {
		name, want string
		bad        any
	}{
		{"a private one", "public key", jose.JSONWebKey{Key: private, KeyID: "bad", Algorithm: "ES256", Use: "sig"}},
		{"a secret", "public key", jose.JSONWebKey{Key: []byte("0123456789abcdef0123456789abcdef"), KeyID: "bad", Algorithm: "HS256", Use: "sig"}},
		{"one of RSA", "public key", jose.JSONWebKey{Key: &rsaKey.PublicKey, KeyID: "bad", Algorithm: "RS256", Use: "sig"}},
		{"one on another curve", "P-256", jose.JSONWebKey{Key: &p384.PublicKey, KeyID: "bad", Algorithm: "ES384", Use: "sig"}},
		{"one that is no point of its curve", "cannot be read", raw(map[string]any{"x": "AAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAA"})},
		{"one for encryption", "use", change(func(k *jose.JSONWebKey) { k.Use = "enc" })},
		{"one for anything", "use", change(func(k *jose.JSONWebKey) { k.Use = "" })},
		{"one of another algorithm", "algorithm", change(func(k *jose.JSONWebKey) { k.Algorithm = "ES384" })},
		{"one of any algorithm", "alg", change(func(k *jose.JSONWebKey) { k.Algorithm = "" })},
		{"one without a name", "kid", change(func(k *jose.JSONWebKey) { k.KeyID = "" })},
		{"a name that is a number", "JSON", raw(map[string]any{"kid": 1})},
		{"one of an unknown kind", "cannot be read", raw(map[string]any{"kty": "XYZ"})},
		{"null", "JSON", nil},
		{"a text", "JSON", "bad"},
	} {
		t.Run(c.name, func(t *testing.T) {
			t.Parallel()
			e := new(endpoint)
			e.publish(newKey("a"), c.bad, newKey("b"))
			var log bytes.Buffer
			run(t, e, func(t *testing.T, s *jwks.Set) {
				has(t, s, "ab")
				hasNot(t, s, "bad", userauth.ErrUnknownKey)
				hasNot(t, s, "", userauth.ErrUnknownKey)
				sleep(10 * time.Minute)
			}, jwks.WithLogger(slog.New(slog.NewTextHandler(&log, nil))))
			if text := log.String(); strings.Count(text, "\n") != 1 || !strings.Contains(text, c.want) {
				t.Errorf("log:\n%s", text)
			}
		})
	}
}

// Of two keys of one name nobody knows which is meant, be the first good or bad.
func TestTwoKeysOfOneName(t *testing.T) {
	t.Parallel()
	bad := newKey("a")
	bad.Use = "enc"
	for _, two := range [][]any{{newKey("a"), newKey("a")}, {bad, newKey("a")}, {newKey("a"), bad}} {
		e := new(endpoint)
		e.publish(append(two, newKey("b"))...)
		run(t, e, func(t *testing.T, s *jwks.Set) {
			hasNot(t, s, "a", userauth.ErrUnknownKey)
			has(t, s, "b")
		})
	}
}

func TestEdDSA(t *testing.T) {
	t.Parallel()
	public, _, err := ed25519.GenerateKey(rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	e := new(endpoint)
	e.publish(jose.JSONWebKey{Key: public, KeyID: "a", Algorithm: "EdDSA", Use: "sig"})
	run(t, e, func(t *testing.T, s *jwks.Set) { has(t, s, "a") })
}
