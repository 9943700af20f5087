package userauth_test

import (
	"crypto/hmac"
	"crypto/sha256"
	"crypto/tls"
	"crypto/x509"
	"encoding/base64"
	"encoding/json"
	"fmt"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/countersign-mesh/countersign/pkg/userauth/userauthtest"
)

// attack is a call that must be refused.
type attack struct {
	name string
	// number is its number in the catalogue of attacks.
	number int
	// holds are the requirements of the standards that its refusal shows to be held.
	holds []string
	// values are the authorization values.
	values func(w *world) []string
	// by is who calls; the phone if nil.
	by func(w *world) tls.Certificate
	// ordinary are the ordinary configurations that let it in.
	ordinary []string
}

const (
	withJose = "auth with go-jose"
	withOIDC = "go-oidc"
)

// claims is the attack of a token with changed claims, which the issuer has signed.
func claims(changes userauthtest.Claims) func(w *world) []string {
	return func(w *world) []string { return []string{"Bearer " + w.token(changes)} }
}

// header is that of a token with a changed header.
func header(changes userauthtest.Claims) func(w *world) []string {
	return func(w *world) []string {
		return []string{"Bearer " + w.issuer.Sign(w.t, changes, w.issuer.Claims(w.phone.Leaf, nil))}
	}
}

// altered is that of a good token, changed after it was signed.
func altered(change func(w *world, parts []string) string) func(w *world) []string {
	return func(w *world) []string { return []string{"Bearer " + change(w, strings.Split(w.token(nil), "."))} }
}

// from is a date so far from the moment at which a token is signed.
type from time.Duration

// MarshalJSON implements json.Marshaler.
func (f from) MarshalJSON() ([]byte, error) {
	return strconv.AppendInt(nil, time.Now().Add(time.Duration(f)).Unix(), 10), nil
}

func base64JSON(v any) string {
	text, err := json.Marshal(v)
	if err != nil {
		panic(err)
	}
	return base64.RawURLEncoding.EncodeToString(text)
}

// hs256 is a token that is signed with what everybody knows, the public key, as if it were a secret.
func hs256(w *world, parts []string) string {
	key, err := w.issuer.Key(w.t.Context(), "key-1")
	if err != nil {
		w.t.Fatal(err)
	}
	der, err := x509.MarshalPKIXPublicKey(key.Key)
	if err != nil {
		w.t.Fatal(err)
	}
	input := base64JSON(userauthtest.Claims{"alg": "HS256", "typ": "at+jwt", "kid": "key-1"}) + "." + parts[1]
	mac := hmac.New(sha256.New, der)
	mac.Write([]byte(input))
	return input + "." + base64.RawURLEncoding.EncodeToString(mac.Sum(nil))
}

func unsigned(_ *world, parts []string) string {
	return base64JSON(userauthtest.Claims{"alg": "none", "typ": "at+jwt", "kid": "key-1"}) + "." + parts[1] + "."
}

// formAttacks are those of case 54.
func formAttacks() []attack {
	another := func(w *world) []string {
		other := userauthtest.NewIssuer(w.t, issuer, audience) // with a key of its own, of the same name
		return []string{"Bearer " + other.Token(w.t, w.phone.Leaf, nil)}
	}
	return []attack{
		{name: "alg none", number: 54, holds: spec("RFC 8725 §3.2 no-none", "RFC 9068 §4 no-none", "RFC 9068 §2.1 signed"), values: altered(unsigned)},
		{name: "HS256 with the public key", number: 54, holds: spec("RFC 8725 §3.1 algorithms-of-the-caller", "RFC 8725 §3.1 one-algorithm-a-key"), values: altered(hs256)},
		{name: "an algorithm that the signature is not of", number: 54, holds: spec("RFC 8725 §3.1 alg-is-what-is-used", "RFC 8725 §3.1 one-algorithm-a-key"), values: header(userauthtest.Claims{"alg": "EdDSA"})},
		{name: "RS256", number: 54, holds: spec("RFC 8725 §3.1 algorithms-of-the-caller", "RFC 8725 §3.2 current-algorithms"), values: header(userauthtest.Claims{"alg": "RS256"})},
		{name: "an unknown crit", number: 54, holds: spec("RFC 8725 §3.3 all-operations"), values: header(userauthtest.Claims{"crit": []string{"x"}, "x": 1})},
		{name: "jwk", number: 54, holds: spec("RFC 8725 §3.10 key-from-elsewhere"), values: func(w *world) []string {
			key, err := w.issuer.Key(w.t.Context(), "key-1")
			if err != nil {
				w.t.Fatal(err)
			}
			return header(userauthtest.Claims{"jwk": key})(w)
		}, ordinary: []string{withJose, withOIDC}},
		{name: "jku", number: 54, holds: spec("RFC 8725 §3.10 key-from-elsewhere"), values: header(userauthtest.Claims{"jku": "https://evil.test/jwks.json"}), ordinary: []string{withJose, withOIDC}},
		{name: "x5u", number: 54, holds: spec("RFC 8725 §3.10 key-from-elsewhere"), values: header(userauthtest.Claims{"x5u": "https://evil.test/cert.pem"}), ordinary: []string{withJose, withOIDC}},
		{name: "b64", number: 54, values: header(userauthtest.Claims{"b64": true}), ordinary: []string{withJose, withOIDC}},
		{name: "a JWE", number: 54, holds: spec("RFC 9068 §4 no-encryption-agreed"), values: altered(func(_ *world, parts []string) string {
			return base64JSON(userauthtest.Claims{"alg": "ECDH-ES", "enc": "A256GCM", "typ": "at+jwt"}) + ".." + parts[1] + "." + parts[2] + "." + parts[2]
		})},
		{name: "a token within a token", number: 54, holds: spec("RFC 8725 §3.3 nested"), values: header(userauthtest.Claims{"cty": "JWT"}), ordinary: []string{withJose, withOIDC}},
		{name: "the typ of an ID token", number: 54, holds: spec("RFC 9068 §4 typ", "RFC 8725 §3.11 explicit-typing", "RFC 8725 §3.12 exclusive-rules", "RFC 8725 §2.8 cross-jwt-confusion"), values: header(userauthtest.Claims{"typ": "JWT"}), ordinary: []string{withJose, withOIDC}},
		{name: "no typ", number: 54, holds: spec("RFC 9068 §4 typ", "RFC 8725 §3.11 explicit-typing"), values: header(userauthtest.Claims{"typ": nil}), ordinary: []string{withJose, withOIDC}},
		{name: "the typ in other letters", number: 54, holds: spec("RFC 9068 §4 typ"), values: header(userauthtest.Claims{"typ": "at+JWT"}), ordinary: []string{withJose, withOIDC}},
		{name: "a transaction token", number: 54, holds: spec("RFC 9068 §4 typ", "RFC 8725 §3.12 exclusive-rules", "RFC 8725 §2.8 cross-jwt-confusion"), values: header(userauthtest.Claims{"typ": "txntoken+jwt"}), ordinary: []string{withJose, withOIDC}},
		{name: "a key of no issuer's that has the name of one", number: 54, holds: spec("RFC 8725 §3.8 keys-are-the-issuers", "RFC 9068 §4 keys-of-the-issuer"), values: another},
		{name: "no kid", number: 54, values: header(userauthtest.Claims{"kid": nil}), ordinary: []string{withJose, withOIDC}},
		{name: "a kid that is an injection", number: 54, holds: spec("RFC 8725 §3.10 kid-is-a-strangers"), values: header(userauthtest.Claims{"kid": "' OR 1=1 --"}), ordinary: []string{withJose, withOIDC}},
		{name: "a content that was changed", number: 54, holds: spec("RFC 9068 §4 signature", "RFC 8725 §3.3 all-operations"), values: altered(func(w *world, parts []string) string {
			return parts[0] + "." + base64JSON(w.issuer.Claims(w.phone.Leaf, userauthtest.Claims{"sub": "mallory"})) + "." + parts[2]
		})},
		{name: "a claim that is not UTF-8", number: 54, holds: spec("RFC 8725 §3.7 utf-8"), values: rawContent(`"acr":"`, "\"acr\":\"\xff"), ordinary: []string{withJose, withOIDC}},
		{name: "a content in UTF-16", number: 54, holds: spec("RFC 8725 §3.7 utf-8"), values: func(w *world) []string {
			text, err := json.Marshal(w.issuer.Claims(w.phone.Leaf, nil))
			if err != nil {
				w.t.Fatal(err)
			}
			wide := strings.Join(strings.Split(string(text), ""), "\x00") + "\x00" // all of it is ASCII
			return []string{"Bearer " + w.issuer.SignText(w.t, wide)}
		}},
		{name: "a claim that stands twice", number: 54, values: rawContent(`"sub":`, `"sub":"bob","sub":`), ordinary: []string{withOIDC}},
		{name: "another spelling of a good token", number: 54, values: altered(func(_ *world, parts []string) string {
			return parts[0] + "." + parts[1] + "." + spelt(parts[2])
		}), ordinary: []string{withJose, withOIDC}},
	}
}

// rawContent is the attack of a token whose content is no JSON that a library writes, which the issuer has signed.
func rawContent(before, after string) func(w *world) []string {
	return func(w *world) []string {
		text, err := json.Marshal(w.issuer.Claims(w.phone.Leaf, nil))
		if err != nil {
			w.t.Fatal(err)
		}
		return []string{"Bearer " + w.issuer.SignText(w.t, strings.Replace(string(text), before, after, 1))}
	}
}

// spelt changes bits of the last letter that belong to no byte.
func spelt(part string) string {
	const alphabet = "ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789-_"
	last := strings.IndexByte(alphabet, part[len(part)-1])
	return part[:len(part)-1] + alphabet[last+1:last+2]
}

// claimAttacks are those of case 55.
func claimAttacks() []attack {
	both := []string{withJose, withOIDC}
	all := []attack{
		{name: "no exp", number: 55, holds: spec("RFC 9068 §4 exp"), values: claims(userauthtest.Claims{"exp": nil}), ordinary: []string{withJose}},
		{name: "an exp that is a text", number: 55, holds: spec("RFC 9068 §4 exp"), values: claims(userauthtest.Claims{"exp": fmt.Sprint(time.Now().Add(time.Hour / 2).Unix())}), ordinary: []string{withOIDC}},
		{name: "expired", number: 55, holds: spec("RFC 9068 §4 exp", "RFC 6750 §3.1 invalid-token"), values: claims(userauthtest.Claims{"iat": from(-10 * time.Minute), "exp": from(-61 * time.Second)})},
		{name: "expired within the leeway of others", number: 55, holds: spec("RFC 9068 §4 exp"), values: claims(userauthtest.Claims{"iat": from(-10 * time.Minute), "exp": from(-40 * time.Second)}), ordinary: []string{withJose}},
		{name: "an exp that is not after iat", number: 55, values: claims(userauthtest.Claims{"iat": from(20 * time.Second), "exp": from(20 * time.Second)}), ordinary: both},
		{name: "no aud", number: 55, holds: spec("RFC 9068 §4 aud", "RFC 8725 §3.9 audience"), values: claims(userauthtest.Claims{"aud": nil})},
		{name: "another's aud", number: 55, holds: spec("RFC 9068 §4 aud", "RFC 8725 §3.9 audience"), values: claims(userauthtest.Claims{"aud": "https://bank.test/branch"})},
		{name: "several aud, ours not among them", number: 55, holds: spec("RFC 9068 §4 aud", "RFC 8725 §3.9 audience"), values: claims(userauthtest.Claims{"aud": []string{audience + "/", "x"}})},
		{name: "an aud that is a number", number: 55, holds: spec("RFC 9068 §4 aud"), values: claims(userauthtest.Claims{"aud": []any{1, audience}})},
		{name: "another iss", number: 55, holds: spec("RFC 9068 §4 iss", "RFC 8725 §3.8 keys-are-the-issuers"), values: claims(userauthtest.Claims{"iss": "https://login.evil.test"})},
		{name: "an iss with a slash more", number: 55, holds: spec("RFC 9068 §4 iss"), values: claims(userauthtest.Claims{"iss": issuer + "/"})},
		{name: "nbf ahead", number: 55, values: claims(userauthtest.Claims{"nbf": from(4 * time.Minute)}), ordinary: []string{withOIDC}},
		{name: "iat ahead", number: 55, values: claims(userauthtest.Claims{"iat": from(90 * time.Second), "exp": from(5 * time.Minute)}), ordinary: []string{withOIDC}},
		{name: "auth_time ahead", number: 55, values: claims(userauthtest.Claims{"auth_time": from(time.Hour)}), ordinary: both},
		{name: "a life of more than an hour", number: 55, values: claims(userauthtest.Claims{"exp": from(61 * time.Minute)}), ordinary: both},
		{name: "a date that overflows", number: 55, values: claims(userauthtest.Claims{"exp": 1e300})},
		{name: "a sub that is no name", number: 55, holds: spec("RFC 8725 §3.8 subject"), values: claims(userauthtest.Claims{"sub": "alice\n"}), ordinary: both},
		{name: "a scope that is no list", number: 55, values: claims(userauthtest.Claims{"scope": "transfer  accounts.read"}), ordinary: both},
	}
	for _, claim := range []string{"iss", "iat", "sub", "client_id", "jti"} {
		a := attack{name: "no " + claim, number: 55, holds: spec("RFC 9068 §2.2 required-claims"), values: claims(userauthtest.Claims{claim: nil}), ordinary: both}
		if claim == "iss" {
			a.ordinary = nil
		}
		all = append(all, a)
	}
	return all
}

// bindingAttacks are those of cases 56 and 58.
func bindingAttacks() []attack {
	both := []string{withJose, withOIDC}
	thief := func(w *world) tls.Certificate { return w.stolen }
	cnf := func(confirm any) func(w *world) []string { return claims(userauthtest.Claims{"cnf": confirm}) }
	twice := func(values ...func(w *world) []string) func(w *world) []string {
		return func(w *world) []string {
			var all []string
			for _, v := range values {
				all = append(all, v(w)...)
			}
			return all
		}
	}
	good := claims(nil)
	return []attack{
		{name: "another certificate's token", number: 56, holds: spec("RFC 8705 §3 certificate-matches", "RFC 8705 §3 rejected"), values: good, by: thief, ordinary: both},
		{name: "no cnf", number: 56, holds: spec("RFC 8705 §3 certificate-matches", "RFC 8705 §3.1 x5t-member"), values: claims(userauthtest.Claims{"cnf": nil}), ordinary: both},
		{name: "a cnf of another kind", number: 56, holds: spec("RFC 8705 §3 certificate-matches", "RFC 8705 §3.1 x5t-member"), values: cnf(userauthtest.Claims{"jkt": "0ZcOCORZNYy-DWpqq30jZyJGHTN0d2HglBV3uiguA4I"}), ordinary: both},
		{name: "an empty x5t#S256", number: 56, holds: spec("RFC 8705 §3.1 x5t-s256"), values: cnf(userauthtest.Claims{"x5t#S256": ""}), ordinary: both},
		{name: "an x5t#S256 with padding", number: 56, holds: spec("RFC 8705 §3.1 no-padding"), values: func(w *world) []string {
			return cnf(userauthtest.Claims{"x5t#S256": userauthtest.Thumbprint(w.phone.Leaf) + "="})(w)
		}, ordinary: both},
		{name: "an x5t#S256 with a line break", number: 56, holds: spec("RFC 8705 §3.1 no-padding"), values: func(w *world) []string {
			return cnf(userauthtest.Claims{"x5t#S256": userauthtest.Thumbprint(w.phone.Leaf) + "\n"})(w)
		}, ordinary: both},
		{name: "half an x5t#S256", number: 56, holds: spec("RFC 8705 §3.1 x5t-s256"), values: func(w *world) []string {
			return cnf(userauthtest.Claims{"x5t#S256": userauthtest.Thumbprint(w.phone.Leaf)[:22]})(w)
		}, ordinary: both},
		{name: "two authorization values, both good", number: 58, values: twice(good, claims(nil)), ordinary: both},
		{name: "two authorization values, the second one bad", number: 58, values: twice(good, altered(unsigned)), ordinary: both},
		{name: "two tokens in one value", number: 58, values: func(w *world) []string {
			return []string{"Bearer " + w.token(nil) + ", Bearer " + w.token(nil)}
		}},
		{name: "no authorization", number: 58, holds: spec("RFC 6750 §3.1 no-error-code"), values: func(*world) []string { return nil }},
		{name: "another scheme", number: 58, holds: spec("RFC 6750 §3.1 no-error-code"), values: func(w *world) []string { return []string{"DPoP " + w.token(nil)} }},
		{name: "no scheme", number: 58, values: func(w *world) []string { return []string{w.token(nil)} }, ordinary: []string{withOIDC}},
		{name: "a scheme and nothing else", number: 58, values: func(*world) []string { return []string{"Bearer "} }},
	}
}

// Through real listeners, each attack is refused over gRPC and over HTTP, and the ordinary configurations let in what the table says that they do.
func TestAttacks(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	ours, theirs := w.serve(), w.serveOrdinary()
	for _, some := range [][]attack{formAttacks(), claimAttacks(), bindingAttacks()} {
		for _, a := range some {
			t.Run(fmt.Sprintf("%s (ATTACKS %d)", a.name, a.number), func(t *testing.T) {
				t.Parallel()
				holds(t, append(a.holds, "RFC 9068 §4 errors", "RFC 6750 §3 challenge", "RFC 6750 §3 bearer")...)
				by := w.phone
				if a.by != nil {
					by = a.by(w)
				}
				values := a.values(w)
				w.assertRefused(t, ours, by, values...)
				if diff := cmp.Diff(a.ordinary, w.letIn(theirs, by, values...)); diff != "" {
					t.Errorf("let in by the ordinary configurations (-want +got):\n%s", diff)
				}
			})
		}
	}
}

func spec(requirements ...string) []string { return requirements }

// holds says in the log of the test which requirements it shows to be held. docs/token-conformance.md is made of that.
func holds(t *testing.T, requirements ...string) {
	t.Helper()
	for _, r := range requirements {
		t.Attr("token.requirement", r)
	}
}
