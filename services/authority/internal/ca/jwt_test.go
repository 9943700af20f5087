package ca

import (
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"encoding/json"
	"errors"
	"strings"
	"testing"
	"time"

	"github.com/go-jose/go-jose/v4"
	"github.com/go-jose/go-jose/v4/jwt"
	"github.com/spiffe/go-spiffe/v2/bundle/jwtbundle"
	"github.com/spiffe/go-spiffe/v2/svid/jwtsvid"
)

func TestAJWTSVIDIsAsTheStandardAsks(t *testing.T) {
	t.Parallel()
	c := newCA(t, bankConfig(), time.Now)
	token, err := c.IssueJWT(ledger, []string{"audit", "risk"})
	if err != nil {
		t.Fatal(err)
	}
	document, err := c.JWTBundle()
	if err != nil {
		t.Fatal(err)
	}
	bundle, err := jwtbundle.Parse(bankTD, document)
	if err != nil {
		t.Fatal(err)
	}
	svid, err := jwtsvid.ParseAndValidate(token, bundle, []string{"audit"})
	if err != nil {
		t.Fatalf("go-spiffe refuses it: %v", err)
	}
	if svid.ID != ledger || time.Until(svid.Expiry) > 5*time.Minute {
		t.Errorf("it is %s until %s", svid.ID, svid.Expiry)
	}
	parsed, err := jwt.ParseSigned(token, []jose.SignatureAlgorithm{jose.ES256})
	if err != nil {
		t.Fatal(err)
	}
	if typ := parsed.Headers[0].ExtraHeaders[jose.HeaderType]; typ != "JWT" {
		t.Errorf("typ %v", typ)
	}
	if _, ok := svid.Claims["iat"]; !ok {
		t.Error("iat is missing")
	}
}

// ATTACKS 24: a JWT bundle holds keys for JWT-SVIDs and no other.
func TestAJWTBundleSaysWhatItsKeysAreFor(t *testing.T) {
	t.Parallel()
	c := newCA(t, bankConfig(), newClock().Now)
	document, err := c.JWTBundle()
	if err != nil {
		t.Fatal(err)
	}
	var set struct{ Keys []map[string]any }
	if err := json.Unmarshal(document, &set); err != nil {
		t.Fatal(err)
	}
	for _, key := range set.Keys {
		if key["use"] != "jwt-svid" || key["kty"] != "EC" || key["kid"] == "" || key["d"] != nil {
			t.Errorf("key %v", key)
		}
	}
	if len(set.Keys) != 1 {
		t.Errorf("%d keys", len(set.Keys))
	}
}

// ATTACKS 24: the empty audience.
func TestAJWTSVIDNeedsAnAudience(t *testing.T) {
	t.Parallel()
	c := newCA(t, bankConfig(), newClock().Now)
	for _, audience := range [][]string{nil, {}, {""}, {"a", ""}} {
		if _, err := c.IssueJWT(ledger, audience); err == nil {
			t.Errorf("audience %q was accepted", audience)
		}
	}
}

// forge signs claims with the authority's own key and any header: what is refused then is refused for that alone.
func forge(t *testing.T, alg jose.SignatureAlgorithm, key any, options *jose.SignerOptions, claims map[string]any) string {
	t.Helper()
	sign, err := jose.NewSigner(jose.SigningKey{Algorithm: alg, Key: key}, options)
	if err != nil {
		t.Fatal(err)
	}
	token, err := jwt.Signed(sign).Claims(claims).Serialize()
	if err != nil {
		t.Fatal(err)
	}
	return token
}

// ATTACKS 54 and 55, as far as they fall on a JWT-SVID.
func TestValidateJWTRefuses(t *testing.T) {
	t.Parallel()
	clk := newClock()
	c := newCA(t, bankConfig(), clk.Now)
	own := c.rings.JWT[0]
	now := clk.Now()
	claims := func(change func(map[string]any)) map[string]any {
		m := map[string]any{"sub": ledger.String(), "aud": "audit", "exp": now.Add(time.Minute).Unix(), "iat": now.Unix()}
		change(m)
		return m
	}
	as := func(m map[string]any) string {
		return forge(t, jose.ES256, jose.JSONWebKey{Key: own.Key, KeyID: own.ID}, (&jose.SignerOptions{}).WithType("JWT"), m)
	}
	set := func(name string, value any) string {
		return as(claims(func(m map[string]any) {
			if m[name] = value; value == nil {
				delete(m, name)
			}
		}))
	}
	good := claims(func(map[string]any) {})
	if _, _, err := c.ValidateJWT(as(good), "audit"); err != nil {
		t.Fatalf("the good one is refused, so that the others show nothing: %v", err)
	}
	foreign, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	withHeader := func(name jose.HeaderKey, value any) string {
		return forge(t, jose.ES256, jose.JSONWebKey{Key: own.Key, KeyID: own.ID}, (&jose.SignerOptions{}).WithHeader(name, value), good)
	}
	public, err := c.JWTBundle()
	if err != nil {
		t.Fatal(err)
	}
	for name, token := range map[string]string{
		"nothing":                    "",
		"no JWT":                     "a.b.c",
		"alg none":                   "eyJhbGciOiJub25lIiwia2lkIjoiIn0." + strings.Split(as(good), ".")[1] + ".",
		"HS256 with public material": forge(t, jose.HS256, jose.JSONWebKey{Key: public, KeyID: own.ID}, nil, good),
		"another's key with our kid": forge(t, jose.ES256, jose.JSONWebKey{Key: foreign, KeyID: own.ID}, nil, good),
		"an unknown kid":             forge(t, jose.ES256, jose.JSONWebKey{Key: own.Key, KeyID: "x"}, nil, good),
		"no kid":                     forge(t, jose.ES256, own.Key, nil, good),
		"a key that it brings along": forge(t, jose.ES256, jose.JSONWebKey{Key: foreign, KeyID: own.ID}, &jose.SignerOptions{EmbedJWK: true}, good),
		"jku":                        withHeader("jku", "https://evil.test/keys"),
		"x5u":                        withHeader("x5u", "https://evil.test/cert"),
		"an unknown critical header": withHeader("crit", []string{"evil"}),
		"a foreign typ":              withHeader("typ", "at+jwt"),
		"no subject":                 set("sub", nil),
		"a subject that is no ID":    set("sub", "alice"),
		"another trust domain":       set("sub", "spiffe://evil.test/ledger"),
		"a trust domain as subject":  set("sub", "spiffe://bank.test"),
		"another audience":           set("aud", []string{"risk"}),
		"no audience":                set("aud", nil),
		"no expiry":                  set("exp", nil),
		"expired":                    set("exp", now.Add(-time.Second).Unix()),
		"not valid yet":              set("nbf", now.Add(5*time.Minute).Unix()),
		"issued in the future":       set("iat", now.Add(5*time.Minute).Unix()),
	} {
		if id, _, err := c.ValidateJWT(token, "audit"); !errors.Is(err, ErrToken) {
			t.Errorf("%s: %s, %v; want ErrToken", name, id, err)
		}
	}
	if _, _, err := c.ValidateJWT(as(claims(func(m map[string]any) { m["aud"] = "" })), ""); !errors.Is(err, ErrToken) {
		t.Errorf("an empty audience: %v", err)
	}
}

func TestAJWTSVIDIsValidOverRotations(t *testing.T) {
	t.Parallel()
	w := newWorld(t, 20*time.Second, 4*time.Second)
	type held struct {
		token string
		until time.Time
	}
	var tokens []held
	for range 400 {
		w.tick(200 * time.Millisecond)
		token, err := w.ca.IssueJWT(ledger, []string{"audit"})
		if err != nil {
			t.Fatal(err)
		}
		tokens = append(tokens, held{token, w.clock.Now().Add(3 * time.Second)})
		for _, h := range tokens {
			if _, _, err := w.ca.ValidateJWT(h.token, "audit"); err != nil && w.clock.Now().Before(h.until) {
				t.Fatal(err)
			}
		}
		if len(tokens) > 20 {
			tokens = tokens[1:]
		}
	}
}
