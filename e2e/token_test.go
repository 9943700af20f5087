package e2e

import (
	"context"
	"crypto/ecdsa"
	"crypto/tls"
	"crypto/x509"
	"encoding/base64"
	"encoding/json"
	"encoding/pem"
	"io"
	"net/http"
	"strings"
	"testing"
	"time"

	"github.com/countersign-mesh/countersign/e2e/internal/bank"
	"github.com/countersign-mesh/countersign/pkg/database"
)

// signingKey reads from login's database which key signs tokens for a purpose now: what is made with it is as good as login's own but for what it says.
func signingKey(ctx context.Context, t *testing.T, mesh *bank.Apart, purpose string) *ecdsa.PrivateKey {
	t.Helper()
	db, err := database.OpenReadOnly(ctx, mesh.DSN("login"))
	if err != nil {
		t.Fatal(err)
	}
	defer db.Close()
	var encoded []byte
	row := db.QueryRowContext(ctx, "SELECT private_key FROM signing_keys WHERE purpose = '"+purpose+"' AND sign_from IS NOT NULL AND sign_until IS NULL")
	if err := row.Scan(&encoded); err != nil {
		t.Fatal(err)
	}
	key, err := x509.ParsePKCS8PrivateKey(encoded)
	if err != nil {
		t.Fatal(err)
	}
	signing, ok := key.(*ecdsa.PrivateKey)
	if !ok {
		t.Fatalf("login signs with a %T", key)
	}
	return signing
}

// jwks returns what login publishes of its keys.
func jwks(t *testing.T, edge bank.Edge) []byte {
	t.Helper()
	transport := &http.Transport{TLSClientConfig: &tls.Config{RootCAs: edge.Roots, MinVersion: tls.VersionTLS13}}
	defer transport.CloseIdleConnections()
	request, err := http.NewRequestWithContext(t.Context(), http.MethodGet, "https://"+edge.Login+"/jwks.json", http.NoBody)
	if err != nil {
		t.Fatal(err)
	}
	response, err := (&http.Client{Transport: transport}).Do(request)
	if err != nil {
		t.Fatal(err)
	}
	defer response.Body.Close()
	text, err := io.ReadAll(response.Body)
	if err != nil || response.StatusCode != http.StatusOK {
		t.Fatalf("%s: %v", response.Status, err)
	}
	return text
}

// testTokens brings tokens to the edge that are not good, each in one way only, and a good one that is put together in the same way. ATTACKS 54, 55, 56, 58.
func testTokens(t *testing.T, mesh *bank.Apart, alice, bob *bank.Phone) {
	edge := mesh.Edge(t)
	token, err := alice.Session.Token(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	bobs, err := bob.Session.Token(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	good := bank.ParseJWS(t, token)
	key := signingKey(t.Context(), t, mesh, "access")
	forged := func(header, claims map[string]any) string { return good.With(header, claims).ES256(t, bank.NewKey(t)) }
	own := func(header, claims map[string]any) string { return good.With(header, claims).ES256(t, key) }
	all := []attempt{
		{"the customer", alice.TLS(), []string{"Bearer " + token}, letInside},
		{"login's key says the same again", alice.TLS(), []string{"Bearer " + own(nil, nil)}, letInside},
		{"no token", alice.TLS(), nil, notBelieved},
		{"the token of another customer", alice.TLS(), []string{"Bearer " + bobs}, notBelieved},
		{"the certificate of another customer", bob.TLS(), []string{"Bearer " + token}, notBelieved},
		{"two values, both good", alice.TLS(), []string{"Bearer " + token, "Bearer " + token}, notBelieved},
		{"two values, the second of another scheme", alice.TLS(), []string{"Bearer " + token, "Basic YWxpY2U6YWxpY2U="}, notBelieved},
		{"another scheme", alice.TLS(), []string{"Basic YWxpY2U6YWxpY2U="}, notBelieved},
		{"an empty token", alice.TLS(), []string{"Bearer "}, notBelieved},
		{"two tokens in one value", alice.TLS(), []string{"Bearer " + token + ", Bearer " + token}, notBelieved},
	}
	for name, bad := range badTokens(t, mesh, alice, good, forged, own) {
		all = append(all, attempt{name, alice.TLS(), []string{"Bearer " + bad}, notBelieved})
	}
	all = append(all, attempt{"the customer after all that", alice.TLS(), []string{"Bearer " + token}, letInside})
	tryAll(t, edge, all)
	t.Logf("%d attempts at each of %d doors", len(all), len(doors()))
}

// badTokens returns tokens that no server of the bank may believe, by what is wrong with them. What is forged has a good signature of a stranger's key,
// and what is login's own is wrong in nothing but what it says.
func badTokens(t *testing.T, mesh *bank.Apart, alice *bank.Phone, good bank.JWS, forged, own func(header, claims map[string]any) string) map[string]string {
	t.Helper()
	type m = map[string]any
	now := time.Now()
	published := jwks(t, mesh.Edge(t))
	stranger := bank.NewKey(t)
	x5c := []string{"MIIB"}
	bad := map[string]string{
		"a stranger's key under login's key ID": forged(nil, nil),
		"a stranger's key in the header":        good.With(m{"jwk": jwk(t, stranger)}, nil).ES256(t, stranger),
		"a stranger's key and no key ID":        forged(m{"kid": nil}, nil),
		"a key ID that there is not":            forged(m{"kid": "nobody's"}, nil),
		"where to get a stranger's key":         forged(m{"jku": "https://" + mesh.Edge(t).Login + "/jwks.json"}, nil),
		"claims changed under the signature":    good.With(nil, m{"sub": "bob"}).Unsigned(t),
		"no signature":                          strings.TrimSuffix(good.Unsigned(t), good.Signature),
		"alg none":                              good.None(t),
		"alg None, with the signature":          good.With(m{"alg": "None"}, nil).Unsigned(t),
		"HS256 with what login publishes":       good.HS256(t, published),
		"HS256 with login's public key":         good.HS256(t, publicPEM(t, mesh)),
		"HS256 with nothing":                    good.HS256(t, nil),
		"five parts, as of a JWE":               good.Unsigned(t) + ".AAAA.AAAA",
		"no token at all":                       "nonsense",
		"far too long":                          forged(nil, m{"filler": strings.Repeat("a", 9000)}),

		"login's own, of another type":                own(m{"typ": "JWT"}, nil),
		"login's own, of no type":                     own(m{"typ": nil}, nil),
		"login's own, critical in what nobody knows":  own(m{"crit": []string{"mood"}, "mood": "good"}, nil),
		"login's own, critical in what everybody has": own(m{"crit": []string{"exp"}}, nil),
		"login's own, with a key in the header":       own(m{"jwk": jwk(t, stranger)}, nil),
		"login's own, with the URL of keys":           own(m{"jku": "https://evil.test/jwks.json"}, nil),
		"login's own, with the URL of certificates":   own(m{"x5u": "https://evil.test/chain.pem"}, nil),
		"login's own, with certificates":              own(m{"x5c": x5c}, nil),
		"login's own, without its key ID":             own(m{"kid": nil}, nil),
		"login's own, that never ends":                own(nil, m{"exp": nil}),
		"login's own, that has ended":                 own(nil, m{"exp": now.Add(-2 * time.Minute).Unix(), "iat": now.Add(-4 * time.Minute).Unix()}),
		"login's own, that lives for a day":           own(nil, m{"exp": now.Add(24 * time.Hour).Unix()}),
		"login's own, of tomorrow":                    own(nil, m{"iat": now.Add(2 * time.Minute).Unix()}),
		"login's own, not good yet":                   own(nil, m{"nbf": now.Add(2 * time.Minute).Unix()}),
		"login's own, for nobody":                     own(nil, m{"aud": nil}),
		"login's own, for somebody else":              own(nil, m{"aud": "https://elsewhere.test"}),
		"login's own, by somebody else":               own(nil, m{"iss": "https://login.elsewhere.test"}),
		"login's own, by nobody":                      own(nil, m{"iss": nil}),
		"login's own, of nobody":                      own(nil, m{"sub": nil}),
		"login's own, bound to nothing":               own(nil, m{"cnf": nil}),
		"login's own, bound to nothing that is known": own(nil, m{"cnf": m{"jkt": strings.Repeat("A", 43)}}),
		"login's own, bound to another certificate":   own(nil, m{"cnf": m{"x5t#S256": strings.Repeat("A", 43)}}),
	}
	// Good for the services behind the gateway, and no access token.
	transaction, err := bank.NewExchange(alice, mesh.Dial(t, mesh.Identity(t, "gateway"), "login")).Token(t.Context(), "accounts.read", nil)
	if err != nil {
		t.Fatal(err)
	}
	bad["a transaction token"] = transaction
	return bad
}

// jwk is a key as a header would have it (RFC 7515 §4.1.3).
func jwk(t *testing.T, key *ecdsa.PrivateKey) map[string]any {
	t.Helper()
	encoded, err := key.PublicKey.Bytes() // 0x04 and the coordinates
	if err != nil {
		t.Fatal(err)
	}
	const coordinate = 32
	return map[string]any{
		"kty": "EC", "crv": "P-256", "x": base64.RawURLEncoding.EncodeToString(encoded[1 : 1+coordinate]), "y": base64.RawURLEncoding.EncodeToString(encoded[1+coordinate:]),
	}
}

// publicPEM is the key that login's tokens are verified by, in the form that libraries used to take for a secret.
func publicPEM(t *testing.T, mesh *bank.Apart) []byte {
	t.Helper()
	der, err := x509.MarshalPKIXPublicKey(&signingKey(t.Context(), t, mesh, "access").PublicKey)
	if err != nil {
		t.Fatal(err)
	}
	return pem.EncodeToMemory(&pem.Block{Type: "PUBLIC KEY", Bytes: der})
}

// testPublished wants nothing in what login publishes that only login may know, and every key with its use.
func testPublished(t *testing.T, mesh *bank.Apart, _, _ *bank.Phone) {
	var set struct{ Keys []map[string]any }
	if err := json.Unmarshal(jwks(t, mesh.Edge(t)), &set); err != nil {
		t.Fatal(err)
	}
	if len(set.Keys) < 2 {
		t.Errorf("want the key that signs and the next one, got %v", set.Keys)
	}
	for _, key := range set.Keys {
		if key["d"] != nil || key["k"] != nil || key["use"] != "sig" || key["kid"] == nil || key["alg"] == nil {
			t.Errorf("a key is published as %v", key)
		}
	}
}

// testHandshakesAtTheEdge brings the customer's good token with what is no certificate of a device of the bank. ATTACKS 17, 56.
func testHandshakesAtTheEdge(t *testing.T, mesh *bank.Apart, alice, bob *bank.Phone) {
	token, err := alice.Session.Token(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	authorization := []string{"Bearer " + token}
	with := func(certificates ...tls.Certificate) *tls.Config {
		return &tls.Config{RootCAs: mesh.Edge(t).Roots, ServerName: "gateway.bank.test", Certificates: certificates, MinVersion: tls.VersionTLS12}
	}
	name := alice.Device.ID()
	older := alice.TLS()
	older.MinVersion, older.MaxVersion = tls.VersionTLS12, tls.VersionTLS12
	raw := alice.Device.Certificate().Raw
	tryAll(t, mesh.Edge(t), []attempt{
		{"the customer", alice.TLS(), authorization, letInside},
		{"no certificate", with(), authorization, shutOut},
		{"a certificate of one's own making", with(bank.SelfSignedDevice(t, name)), authorization, shutOut},
		{"a certificate of another authority", with(bank.NewForger(t, "bank.test").ForgeDevice(t, name)), authorization, shutOut},
		{"an SVID of the mesh", with(mesh.Identity(t, "operator").Certificate), authorization, shutOut},
		{"the device's certificate without its key", with(tls.Certificate{Certificate: [][]byte{raw}, PrivateKey: bank.NewKey(t)}), authorization, shutOut},
		{"TLS 1.2", older, authorization, shutOut},
		{"another customer's device", bob.TLS(), authorization, notBelieved},
		{"the customer after all that", alice.TLS(), authorization, letInside},
	})
}
