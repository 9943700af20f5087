package bank

import (
	"crypto/ecdsa"
	"crypto/hmac"
	"crypto/rand"
	"crypto/sha256"
	"encoding/base64"
	"encoding/json"
	"maps"
	"strings"
	"testing"
)

// JWS is a signed token that is taken to pieces, to be put together otherwise (RFC 7515). It is no library's, so that nothing stands in the way of
// what no library would write.
type JWS struct {
	Header, Claims map[string]any
	Signature      string // as it was
}

// ParseJWS takes a token to pieces.
func ParseJWS(t testing.TB, token string) JWS {
	t.Helper()
	parts := strings.Split(token, ".")
	if len(parts) != 3 {
		t.Fatalf("a token has %d parts", len(parts))
	}
	j := JWS{Signature: parts[2]}
	for i, to := range []*map[string]any{&j.Header, &j.Claims} {
		text, err := base64.RawURLEncoding.DecodeString(parts[i])
		if err != nil {
			t.Fatal(err)
		}
		if err := json.Unmarshal(text, to); err != nil {
			t.Fatal(err)
		}
	}
	return j
}

// With returns a copy with other members of the header or the claims. One that is nil is left out.
func (j JWS) With(header, claims map[string]any) JWS {
	changed := func(before, changes map[string]any) map[string]any {
		after := maps.Clone(before)
		maps.Copy(after, changes)
		maps.DeleteFunc(after, func(_ string, v any) bool { return v == nil })
		return after
	}
	return JWS{Header: changed(j.Header, header), Claims: changed(j.Claims, claims), Signature: j.Signature}
}

// body is what is signed.
func (j JWS) body(t testing.TB) string {
	t.Helper()
	var parts []string
	for _, part := range []map[string]any{j.Header, j.Claims} {
		text, err := json.Marshal(part)
		if err != nil {
			t.Fatal(err)
		}
		parts = append(parts, base64.RawURLEncoding.EncodeToString(text))
	}
	return strings.Join(parts, ".")
}

// Unsigned returns the token with the signature that it had before it was changed.
func (j JWS) Unsigned(t testing.TB) string {
	t.Helper()
	return j.body(t) + "." + j.Signature
}

// None returns the token as one that nobody has signed (RFC 7519 §6).
func (j JWS) None(t testing.TB) string {
	t.Helper()
	return j.With(map[string]any{"alg": "none"}, nil).body(t) + "."
}

// HS256 returns the token signed with a secret.
func (j JWS) HS256(t testing.TB, secret []byte) string {
	t.Helper()
	body := j.With(map[string]any{"alg": "HS256"}, nil).body(t)
	mac := hmac.New(sha256.New, secret)
	mac.Write([]byte(body))
	return body + "." + base64.RawURLEncoding.EncodeToString(mac.Sum(nil))
}

// ES256 returns the token signed with a key of P-256 (RFC 7518 §3.4).
func (j JWS) ES256(t testing.TB, key *ecdsa.PrivateKey) string {
	t.Helper()
	body := j.body(t)
	digest := sha256.Sum256([]byte(body))
	r, s, err := ecdsa.Sign(rand.Reader, key, digest[:])
	if err != nil {
		t.Fatal(err)
	}
	signature := make([]byte, 64)
	r.FillBytes(signature[:32])
	s.FillBytes(signature[32:])
	return body + "." + base64.RawURLEncoding.EncodeToString(signature)
}
