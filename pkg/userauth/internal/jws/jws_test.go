package jws_test

import (
	"crypto/ecdsa"
	"crypto/ed25519"
	"crypto/elliptic"
	"crypto/hmac"
	"crypto/rand"
	"crypto/rsa"
	"crypto/sha256"
	"crypto/x509"
	"encoding/base64"
	"maps"
	"strings"
	"testing"

	"github.com/go-jose/go-jose/v4"
	"github.com/go-jose/go-jose/v4/json"

	"github.com/countersign-mesh/countersign/pkg/userauth/internal/jws"
)

const content = `{"sub":"alice"}`

func options() jws.Options {
	return jws.Options{Types: []string{"at+jwt", "application/at+jwt"}, Algorithms: jws.Algorithms()}
}

// member is a header parameter; nil takes it out.
type member map[string]any

// forge signs whatever header and content, as no library would.
func forge(t testing.TB, key any, header, payload string) string {
	t.Helper()
	input := encode([]byte(header)) + "." + encode([]byte(payload))
	digest := sha256.Sum256([]byte(input))
	switch key := key.(type) {
	case *ecdsa.PrivateKey:
		r, s, err := ecdsa.Sign(rand.Reader, key, digest[:])
		if err != nil {
			t.Fatal(err)
		}
		size := (key.Params().BitSize + 7) / 8
		return input + "." + encode(append(r.FillBytes(make([]byte, size)), s.FillBytes(make([]byte, size))...))
	case ed25519.PrivateKey:
		return input + "." + encode(ed25519.Sign(key, []byte(input)))
	case []byte:
		mac := hmac.New(sha256.New, key)
		mac.Write([]byte(input))
		return input + "." + encode(mac.Sum(nil))
	}
	t.Fatalf("no way to sign with a %T", key)
	return ""
}

func encode(b []byte) string { return base64.RawURLEncoding.EncodeToString(b) }

func header(t testing.TB, changes member) string {
	t.Helper()
	all := map[string]any{"alg": "ES256", "typ": "at+jwt", "kid": "k1"}
	maps.Copy(all, changes)
	maps.DeleteFunc(all, func(_ string, v any) bool { return v == nil })
	text, err := json.Marshal(all)
	if err != nil {
		t.Fatal(err)
	}
	return string(text)
}

func newKey(t testing.TB) *ecdsa.PrivateKey {
	t.Helper()
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	return key
}

func public(key any) jose.JSONWebKey { return jose.JSONWebKey{Key: key, KeyID: "k1"} }

func TestVerify(t *testing.T) {
	t.Parallel()
	key := newKey(t)
	edPublic, edKey, err := ed25519.GenerateKey(rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	for _, c := range []struct {
		name, token string
		key         jose.JSONWebKey
	}{
		{"ES256", forge(t, key, header(t, nil), content), public(&key.PublicKey)},
		{"EdDSA", forge(t, edKey, header(t, member{"alg": "EdDSA"}), content), public(edPublic)},
		{"the type written out", forge(t, key, header(t, member{"typ": "application/at+jwt"}), content), public(&key.PublicKey)},
		{"a parameter that is not understood (RFC 7515 §4)", forge(t, key, header(t, member{"x-new": []int{1}}), content), public(&key.PublicKey)},
	} {
		t.Run(c.name, func(t *testing.T) {
			t.Parallel()
			parsed, err := jws.Parse(c.token, options())
			if err != nil {
				t.Fatal(err)
			}
			payload, err := parsed.Verify(c.key)
			if err != nil || string(payload) != content {
				t.Errorf("content %q, error %v", payload, err)
			}
		})
	}
}

func TestParseRefuses(t *testing.T) {
	t.Parallel()
	key := newKey(t)
	der, err := x509.MarshalPKIXPublicKey(&key.PublicKey)
	if err != nil {
		t.Fatal(err)
	}
	good := forge(t, key, header(t, nil), content)
	parts := strings.Split(good, ".")
	with := func(changes member) string { return forge(t, key, header(t, changes), content) }
	raw := func(header string) string { return forge(t, key, header, content) }
	for _, c := range []struct{ name, token, want string }{
		{"nothing", "", "three parts"},
		{"no algorithm", with(member{"alg": nil}), "lacks alg"},
		{"alg none", encode([]byte(header(t, member{"alg": "none"}))) + "." + parts[1] + ".", "empty"},
		{"alg none with a signature", with(member{"alg": "none"}), `alg is "none"`},
		{"HS256 with the public key", forge(t, der, header(t, member{"alg": "HS256"}), content), `alg is "HS256"`},
		{"RS256", with(member{"alg": "RS256"}), `alg is "RS256"`},
		{"alg in lower case", with(member{"alg": "es256"}), `alg is "es256"`},
		{"alg that is no text", with(member{"alg": []string{"ES256"}}), "lacks alg"},
		{"no type", with(member{"typ": nil}), "lacks typ"},
		{"the type of any JWT", with(member{"typ": "JWT"}), `typ is "JWT"`},
		{"another token's type", with(member{"typ": "txntoken+jwt"}), `typ is "txntoken+jwt"`},
		{"no key's name", with(member{"kid": nil}), "lacks kid"},
		{"an empty key's name", with(member{"kid": ""}), "lacks kid"},
		{"a key's name without end", with(member{"kid": strings.Repeat("k", 129)}), "kid has over"},
		{"an unknown crit", with(member{"crit": []string{"exp"}, "exp": 1}), "has crit"},
		{"an empty crit", with(member{"crit": []string{}}), "has crit"},
		{"crit null", raw(`{"alg":"ES256","typ":"at+jwt","kid":"k1","crit":null}`), "has crit"},
		{"b64", with(member{"b64": false}), "has b64"},
		{"jwk", with(member{"jwk": jose.JSONWebKey{Key: &key.PublicKey}}), "has jwk"},
		{"jku", with(member{"jku": "https://evil.test/jwks.json"}), "has jku"},
		{"x5u", with(member{"x5u": "https://evil.test/cert.pem"}), "has x5u"},
		{"x5c", with(member{"x5c": []string{"AA=="}}), "has x5c"},
		{"zip", with(member{"zip": "DEF"}), "has zip"},
		{"a token within", with(member{"cty": "JWT"}), "has cty"},
		{"a JWE", good + ".AAAA.AAAA", "five would be a JWE"},
		{"JSON Serialization", `{"payload":"` + parts[1] + `","protected":"` + parts[0] + `","signature":"` + parts[2] + `"}`, "three parts"},
		{"a name twice", raw(`{"alg":"none","alg":"ES256","typ":"at+jwt","kid":"k1"}`), "twice"},
		{"a name in another case", raw(`{"ALG":"ES256","typ":"at+jwt","kid":"k1"}`), "lacks alg"},
		{"a header that is not UTF-8", raw("{\"alg\":\"ES256\",\"typ\":\"at+jwt\",\"kid\":\"\xff\"}"), "UTF-8"},
		{"a header that is null", raw(`null`), "not a JSON object"},
		{"a header with more behind it", raw(header(t, nil) + `{}`), "not JSON"},
		{"a line break", parts[0][:4] + "\n" + parts[0][4:] + "." + parts[1] + "." + parts[2], "line break"},
		{"padding", good + "=", "base64url"},
		{"a space before", " " + good, "base64url"},
		{"bits that belong to no byte", good[:len(good)-1] + next(good[len(good)-1]), "base64url"},
		{"the other alphabet", parts[0] + "." + parts[1] + ".+/" + parts[2][2:], "base64url"},
		{"too long", forge(t, key, header(t, nil), `{"sub":"`+strings.Repeat("a", 8192)+`"}`), "over 8192 bytes"},
	} {
		t.Run(c.name, func(t *testing.T) {
			t.Parallel()
			if _, err := jws.Parse(c.token, options()); err == nil || !strings.Contains(err.Error(), c.want) {
				t.Errorf("error %v lacks %q", err, c.want)
			}
		})
	}
	if _, err := jws.Parse(good, jws.Options{Types: []string{"at+jwt"}}); err == nil {
		t.Error("no list of algorithms is taken for all of them")
	}
	if _, err := jws.Parse(good, jws.Options{Algorithms: jws.Algorithms()}); err == nil {
		t.Error("no list of types is taken for all of them")
	}
}

// next returns the base64url letter after one whose last bits are zero.
func next(letter byte) string {
	const alphabet = "ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789-_"
	return string(alphabet[strings.IndexByte(alphabet, letter)+1])
}

func TestVerifyRefuses(t *testing.T) {
	t.Parallel()
	key, other := newKey(t), newKey(t)
	p384, err := ecdsa.GenerateKey(elliptic.P384(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	rsaKey, err := rsa.GenerateKey(rand.Reader, 2048)
	if err != nil {
		t.Fatal(err)
	}
	edPublic, _, err := ed25519.GenerateKey(rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	good := forge(t, key, header(t, nil), content)
	parts := strings.Split(good, ".")
	for _, c := range []struct {
		name, token string
		key         jose.JSONWebKey
	}{
		{"another key", good, public(&other.PublicKey)},
		{"a key of another name", good, jose.JSONWebKey{Key: &key.PublicKey, KeyID: "k2"}},
		{"a key of another algorithm", good, public(edPublic)},
		{"a key that says it is for another algorithm", good, jose.JSONWebKey{Key: &key.PublicKey, KeyID: "k1", Algorithm: "ES384"}},
		{"a key for encryption", good, jose.JSONWebKey{Key: &key.PublicKey, KeyID: "k1", Use: "enc"}},
		{"a private key", good, public(key)},
		{"a key on another curve", forge(t, p384, header(t, nil), content), public(&p384.PublicKey)},
		{"an RSA key", good, public(&rsaKey.PublicKey)},
		{"a secret", good, public([]byte("0123456789abcdef0123456789abcdef"))},
		{"no key", good, public(nil)},
		{"a content that was changed", parts[0] + "." + encode([]byte(`{"sub":"mallory"}`)) + "." + parts[2], public(&key.PublicKey)},
		{"a header that was changed", encode([]byte(header(t, member{"x": 1}))) + "." + parts[1] + "." + parts[2], public(&key.PublicKey)},
		{"a signature of zeros (CVE-2022-21449)", parts[0] + "." + parts[1] + "." + encode(make([]byte, 64)), public(&key.PublicKey)},
		{"a signature in DER", derSigned(t, key, parts), public(&key.PublicKey)},
		{"half a signature", parts[0] + "." + parts[1] + "." + encode(make([]byte, 32)), public(&key.PublicKey)},
	} {
		t.Run(c.name, func(t *testing.T) {
			t.Parallel()
			parsed, err := jws.Parse(c.token, options())
			if err != nil {
				t.Fatalf("it is refused before its signature is looked at: %v", err)
			}
			if payload, err := parsed.Verify(c.key); err == nil {
				t.Errorf("let in: %s", payload)
			}
		})
	}
}

func derSigned(t *testing.T, key *ecdsa.PrivateKey, parts []string) string {
	t.Helper()
	digest := sha256.Sum256([]byte(parts[0] + "." + parts[1]))
	signature, err := ecdsa.SignASN1(rand.Reader, key, digest[:])
	if err != nil {
		t.Fatal(err)
	}
	return parts[0] + "." + parts[1] + "." + encode(signature)
}

// What an attacker has to say in a token must not get into a log with it.
func TestErrorsHoldLittleOfTheToken(t *testing.T) {
	t.Parallel()
	key := newKey(t)
	long := strings.Repeat("secret\n", 50)
	for _, changes := range []member{{"alg": long}, {"typ": long}, {"kid": long}, {"crit": long}} {
		_, err := jws.Parse(forge(t, key, header(t, changes), content), options())
		if err == nil || len(err.Error()) > 150 || strings.Contains(err.Error(), "\n") {
			t.Errorf("error %v", err)
		}
	}
}

func TestDecode(t *testing.T) {
	t.Parallel()
	for _, c := range []struct{ name, text string }{
		{"a name twice", `{"sub":"alice","sub":"bob"}`},
		{"a name twice further in", `{"cnf":{"x5t#S256":"a","x5t#S256":"b"}}`},
		{"a list", `[{"sub":"alice"}]`},
		{"null", `null`},
		{"nothing", ``},
		{"not UTF-8", "{\"sub\":\"\xff\"}"},
		{"more behind", `{"sub":"alice"} {}`},
		{"not closed", `{"sub":"alice"`},
	} {
		t.Run(c.name, func(t *testing.T) {
			t.Parallel()
			var got map[string]any
			if err := jws.Decode([]byte(c.text), &got); err == nil {
				t.Errorf("read as %v", got)
			}
		})
	}
	var got struct {
		Subject string `json:"sub"`
	}
	if err := jws.Decode([]byte(`{"SUB":"mallory","other":1}`), &got); err != nil || got.Subject != "" {
		t.Errorf("a name in another case is taken for it: %+v, %v", got, err)
	}
}
