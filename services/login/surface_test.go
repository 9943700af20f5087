package main

import (
	"bytes"
	"context"
	"encoding/json"
	"net/http"
	"net/url"
	"strconv"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"

	"github.com/countersign-mesh/countersign/pkg/database/databasetest"
	"github.com/countersign-mesh/countersign/services/login/internal/grant"
)

func request(t *testing.T, method, path, contentType, body string) *http.Request {
	t.Helper()
	r, err := http.NewRequestWithContext(context.Background(), method, testIssuer+path, strings.NewReader(body))
	if err != nil {
		t.Fatal(err)
	}
	r.Header.Set("Content-Type", contentType)
	return r
}

func TestRequestsOfAnotherFormAreRefused(t *testing.T) {
	t.Parallel()
	w := newWorld(t, databasetest.SQLite(t))
	phone := w.enrol(t)
	const form, object = "application/x-www-form-urlencoded", "application/json"
	for name, test := range map[string]struct {
		request *http.Request
		status  int
		code    string
	}{
		"GET of the token endpoint":      {request(t, http.MethodGet, "/token", form, ""), http.StatusMethodNotAllowed, ""},
		"PUT of the challenge endpoint":  {request(t, http.MethodPut, "/authorize-challenge", form, ""), http.StatusMethodNotAllowed, ""},
		"POST of the keys":               {request(t, http.MethodPost, "/jwks.json", form, ""), http.StatusMethodNotAllowed, ""},
		"nothing that is there":          {request(t, http.MethodGet, "/", form, ""), http.StatusNotFound, ""},
		"JSON for a form":                {request(t, http.MethodPost, "/token", object, "{}"), http.StatusUnsupportedMediaType, "invalid_request"},
		"a form for JSON":                {request(t, http.MethodPost, "/enrol", form, "a=b"), http.StatusUnsupportedMediaType, "invalid_request"},
		"parameters in the URL":          {request(t, http.MethodPost, "/token?grant_type=refresh_token", form, ""), http.StatusBadRequest, "invalid_request"},
		"a parameter twice":              {request(t, http.MethodPost, "/token", form, "grant_type=a&grant_type=b"), http.StatusBadRequest, "invalid_request"},
		"a form that is too large":       {request(t, http.MethodPost, "/token", form, "a="+strings.Repeat("x", 17<<10)), http.StatusRequestEntityTooLarge, "invalid_request"},
		"an object that is too large":    {request(t, http.MethodPost, "/enrol", object, `{"csr":"`+strings.Repeat("x", 17<<10)+`"}`), http.StatusRequestEntityTooLarge, "invalid_request"},
		"an object with unknown members": {request(t, http.MethodPost, "/enrol", object, `{"admin":true}`), http.StatusBadRequest, "invalid_request"},
		"two objects":                    {request(t, http.MethodPost, "/enrol", object, `{}{}`), http.StatusBadRequest, "invalid_request"},
		"another grant":                  {request(t, http.MethodPost, "/token", form, "grant_type=password&client_id="+phone.ID()), http.StatusBadRequest, "unsupported_grant_type"},
		"no grant":                       {request(t, http.MethodPost, "/token", form, "client_id="+phone.ID()), http.StatusBadRequest, "invalid_request"},
		"no client":                      {request(t, http.MethodPost, "/token", form, "grant_type=refresh_token"), http.StatusUnauthorized, "invalid_client"},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			a := w.send(t, phone, test.request)
			want(t, name, a, test.status, test.code)
			if a.header.Get("Cache-Control") != "no-store" {
				t.Error("the answer may be stored")
			}
		})
	}
}

func TestAuthorizationRequestsOfAnotherFormAreRefused(t *testing.T) {
	t.Parallel()
	w := newWorld(t, databasetest.SQLite(t))
	phone := w.enrol(t)
	for name, test := range map[string]struct {
		changes url.Values
		code    string
	}{
		"no scope":               {url.Values{"scope": {""}}, "invalid_scope"},
		"a scope there is not":   {url.Values{"scope": {"accounts.read admin"}}, "invalid_scope"},
		"a scope twice":          {url.Values{"scope": {strings.Repeat("transfer ", 2) + "accounts.read"}}, "invalid_scope"},
		"no PKCE":                {url.Values{"code_challenge": {""}}, "invalid_request"},
		"plain PKCE":             {url.Values{"code_challenge_method": {"plain"}}, "invalid_request"},
		"an acr there is not":    {url.Values{"acr_values": {"urn:bank:acr:9"}}, "invalid_request"},
		"acr 2 without a code":   {url.Values{"acr_values": {"urn:bank:acr:2"}}, "insufficient_authorization"},
		"an endless password":    {url.Values{"password": {strings.Repeat("x", 2000)}}, "invalid_request"},
		"a control in passwords": {url.Values{"password": {"a\x00b"}}, "invalid_grant"},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			want(t, name, w.post(t, phone, "/authorize-challenge", challenge(phone, test.changes)), http.StatusBadRequest, test.code)
		})
	}
}

func TestWhoTriesTooOftenHasToWait(t *testing.T) {
	t.Parallel()
	w := newWorld(t, databasetest.SQLite(t))
	phone := w.enrol(t)
	tablet := w.enrol(t)
	wrong := challenge(phone, url.Values{"password": {"wrong"}})
	for range 10 {
		want(t, "an attempt", w.post(t, phone, "/authorize-challenge", wrong), http.StatusBadRequest, "invalid_grant")
	}
	a := w.post(t, phone, "/authorize-challenge", challenge(phone, nil))
	want(t, "one too many, with the right password", a, http.StatusTooManyRequests, "temporarily_unavailable")
	if seconds, err := strconv.Atoi(a.header.Get("Retry-After")); err != nil || seconds < 1 || seconds > 6 {
		t.Errorf("Retry-After: %q", a.header.Get("Retry-After"))
	}
	want(t, "the same customer's other device", w.post(t, tablet, "/authorize-challenge", challenge(tablet, nil)), http.StatusOK, "")
	w.clock.Add(6e9)
	want(t, "after waiting", w.post(t, phone, "/authorize-challenge", challenge(phone, nil)), http.StatusOK, "")

	// Enrolling is limited by user name, also of one that nobody has.
	body, err := json.Marshal(map[string]string{"username": "nobody", "password": "wrong", "otp": "000000", "device_name": "x", "csr": signingRequest(t, nil, nil)})
	if err != nil {
		t.Fatal(err)
	}
	for range 10 {
		want(t, "enrolling", w.send(t, nil, request(t, http.MethodPost, "/enrol", "application/json", string(body))), http.StatusBadRequest, "invalid_grant")
	}
	want(t, "enrolling too often", w.send(t, nil, request(t, http.MethodPost, "/enrol", "application/json", string(body))), http.StatusTooManyRequests, "temporarily_unavailable")
	w.enrol(t) // alice is not kept out
}

func TestTheDocumentsSayWhatIsThere(t *testing.T) {
	t.Parallel()
	w := newWorld(t, databasetest.SQLite(t))
	a := w.send(t, nil, request(t, http.MethodGet, "/.well-known/oauth-authorization-server", "", ""))
	want(t, "metadata", a, http.StatusOK, "")
	// RFC 8414 §2: issuer, response_types_supported, and each endpoint that there is; all URLs are https and of the issuer.
	texts := func(all ...string) []any {
		list := make([]any, len(all))
		for i, text := range all {
			list[i] = text
		}
		return list
	}
	diff := cmp.Diff(map[string]any{
		"issuer": testIssuer, "token_endpoint": testIssuer + "/token", "revocation_endpoint": testIssuer + "/revoke", "jwks_uri": testIssuer + "/jwks.json",
		"authorization_challenge_endpoint": testIssuer + "/authorize-challenge", "device_enrolment_endpoint": testIssuer + "/enrol",
		"scopes_supported": texts(grant.Scopes()...), "acr_values_supported": texts("urn:bank:acr:1", "urn:bank:acr:2"),
		"response_types_supported": texts("code"), "grant_types_supported": texts("authorization_code", "refresh_token"),
		"token_endpoint_auth_methods_supported": texts("tls_client_auth"), "revocation_endpoint_auth_methods_supported": texts("tls_client_auth"),
		"code_challenge_methods_supported": texts("S256"), "tls_client_certificate_bound_access_tokens": true,
	}, a.body)
	if diff != "" {
		t.Errorf("-want +got:\n%s", diff)
	}
	if a.header.Get("Content-Type") != "application/json" {
		t.Errorf("content type %q", a.header.Get("Content-Type"))
	}
	keys := w.send(t, nil, request(t, http.MethodGet, "/jwks.json", "", ""))
	want(t, "keys", keys, http.StatusOK, "")
	var set struct{ Keys []map[string]any }
	if err := json.Unmarshal([]byte(keys.raw), &set); err != nil || len(set.Keys) != 2 {
		t.Fatalf("%d keys, %v; want the one that signs and the next", len(set.Keys), err)
	}
	for _, key := range set.Keys {
		_, private := key["d"]
		if private || key["use"] != "sig" || key["alg"] != "ES256" || key["kid"] == "" {
			t.Errorf("a key has d: %t, use %v, alg %v", private, key["use"], key["alg"])
		}
	}
}

func TestRevokingATokenEndsIt(t *testing.T) {
	t.Parallel()
	w := newWorld(t, databasetest.SQLite(t))
	phone, other := w.enrol(t), w.enrol(t)
	tokens := w.logIn(t, phone)
	revoke := func(token string) url.Values {
		return url.Values{"client_id": {phone.ID()}, "token": {token}}
	}
	want(t, "a token that is none", w.post(t, phone, "/revoke", revoke("unknown")), http.StatusOK, "")
	want(t, "a session that is none", w.post(t, phone, "/revoke", revoke("unknown.x")), http.StatusOK, "")
	want(t, "without a certificate", w.post(t, nil, "/revoke", revoke("x")), http.StatusUnauthorized, "invalid_client")
	strangers := revoke(tokens.get("refresh_token"))
	strangers.Set("client_id", other.ID())
	want(t, "another device's", w.post(t, other, "/revoke", strangers), http.StatusOK, "")
	again := w.post(t, phone, "/token", refresh(phone, tokens.get("refresh_token")))
	want(t, "refreshing after a stranger revoked", again, http.StatusOK, "")

	want(t, "an access token", w.post(t, phone, "/revoke", revoke(again.get("access_token"))), http.StatusOK, "")
	p, err := w.verify(phone, again.get("access_token"))
	if err != nil {
		t.Fatal(err)
	}
	if revoked := w.revoked(t); revoked["token:"+p.TokenID] != 1 || revoked["session:"+p.Session] != 0 {
		t.Errorf("revoked: %v", revoked)
	}
	want(t, "the refresh token", w.post(t, phone, "/revoke", revoke(again.get("refresh_token"))), http.StatusOK, "")
	if revoked := w.revoked(t); revoked["session:"+p.Session] != 1 {
		t.Errorf("revoked: %v", revoked)
	}
	want(t, "refreshing after that", w.post(t, phone, "/token", refresh(phone, again.get("refresh_token"))), http.StatusBadRequest, "invalid_grant")
}

// What is secret is looked for in the log of all that devices do, with everything logged.
func TestNothingSecretIsLogged(t *testing.T) {
	t.Parallel()
	w := newWorld(t, databasetest.SQLite(t))
	phone := w.enrol(t)
	code := w.otp(t)
	challenged := w.post(t, phone, "/authorize-challenge", challenge(phone, url.Values{"otp": {code}}))
	tokens := w.post(t, phone, "/token", exchange(phone, challenged.get("authorization_code")))
	w.post(t, phone, "/token", exchange(phone, challenged.get("authorization_code")))
	w.post(t, phone, "/token", refresh(phone, tokens.get("refresh_token")))
	w.post(t, phone, "/revoke", url.Values{"client_id": {phone.ID()}, "token": {tokens.get("refresh_token")}})
	w.post(t, phone, "/authorize-challenge", challenge(phone, url.Values{"username": {"typed-into-the-wrong-field"}, "password": {"wrong-password"}}))
	log := w.log.String()
	if !strings.Contains(log, "/token") || !strings.Contains(log, phone.ID()) {
		t.Fatal("the log does not have what happened")
	}
	for what, secret := range map[string]string{
		"a password": testPassword, "a wrong password": "wrong-password", "a user name": "typed-into", "a code": challenged.get("authorization_code"), "a verifier": verifier,
		"an access token": tokens.get("access_token"), "a refresh token": tokens.get("refresh_token"), "the secret of one-time codes": w.secret, "a one-time code": "=" + code,
	} {
		if secret == "" || strings.Contains(log, secret) {
			t.Errorf("%s is in the log", what)
		}
	}
	if bytes.Contains([]byte(log), []byte("PRIVATE KEY")) {
		t.Error("a key is in the log")
	}
}
