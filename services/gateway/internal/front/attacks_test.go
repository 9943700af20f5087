package front_test

import (
	"encoding/base64"
	"net/http"
	"slices"
	"strings"
	"testing"
	"time"

	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"

	"github.com/countersign-mesh/countersign/pkg/userauth/userauthtest"
	loginv1 "github.com/countersign-mesh/countersign/proto/gen/bank/login/v1"
	mobilev1 "github.com/countersign-mesh/countersign/proto/gen/bank/mobile/v1"
)

// soon is within how long what is revoked, or has ended, is out: the promise.
const soon = time.Second

// ATTACKS 54 to 58, over both doors. Package userauth has more of each kind.
func TestWhoIsLetIn(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	p := w.phone(t, w.alice)
	claims := w.login.access.Claims(w.alice.Leaf, userauthtest.Claims{"scope": allScopes})
	changed := func(changes userauthtest.Claims) string { return "Bearer " + w.token(t, changes) }
	header := func(changes userauthtest.Claims) string { return "Bearer " + w.login.access.Sign(t, changes, claims) }
	now := time.Now().Unix()
	parts := strings.Split(w.token(t, nil), ".")
	unsigned := base64.RawURLEncoding.EncodeToString([]byte(`{"alg":"none","typ":"at+jwt"}`)) + "." + parts[1] + "."
	other := w.login.devices.Device(t, "dev-other")
	good := "Bearer " + w.token(t, nil)
	for name, c := range map[string]struct {
		authorization []string
		in            bool
	}{
		"a good token":                           {[]string{good}, true},
		"ATTACKS 54: alg none":                   {[]string{"Bearer " + unsigned}, false},
		"ATTACKS 54: HS256":                      {[]string{header(userauthtest.Claims{"alg": "HS256"})}, false},
		"ATTACKS 54: crit":                       {[]string{header(userauthtest.Claims{"crit": []string{"exp"}})}, false},
		"ATTACKS 54: jwk":                        {[]string{header(userauthtest.Claims{"jwk": map[string]string{"kty": "EC"}})}, false},
		"ATTACKS 54: jku":                        {[]string{header(userauthtest.Claims{"jku": "https://evil.test/jwks"})}, false},
		"ATTACKS 54: x5u":                        {[]string{header(userauthtest.Claims{"x5u": "https://evil.test/x"})}, false},
		"ATTACKS 54: JWE":                        {[]string{good + ".x.y"}, false},
		"ATTACKS 54: typ JWT":                    {[]string{header(userauthtest.Claims{"typ": "JWT"})}, false},
		"ATTACKS 54: typ of a transaction token": {[]string{header(userauthtest.Claims{"typ": "txntoken+jwt"})}, false},
		"ATTACKS 55: no exp":                     {[]string{changed(userauthtest.Claims{"exp": nil})}, false},
		"ATTACKS 55: no aud":                     {[]string{changed(userauthtest.Claims{"aud": nil})}, false},
		"ATTACKS 55: another iss":                {[]string{changed(userauthtest.Claims{"iss": "https://login.bank.test.evil"})}, false},
		"ATTACKS 55: another aud":                {[]string{changed(userauthtest.Claims{"aud": "https://bank.test/other"})}, false},
		"ATTACKS 55: nbf ahead":                  {[]string{changed(userauthtest.Claims{"nbf": now + 90})}, false},
		"ATTACKS 55: iat ahead":                  {[]string{changed(userauthtest.Claims{"iat": now + 90})}, false},
		"ATTACKS 55: expired":                    {[]string{changed(userauthtest.Claims{"iat": now - 400, "exp": now - 90})}, false},
		"ATTACKS 56: no cnf":                     {[]string{changed(userauthtest.Claims{"cnf": nil})}, false},
		"ATTACKS 56: another certificate's":      {[]string{"Bearer " + w.login.access.Token(t, other.Leaf, nil)}, false},
		"ATTACKS 57: a kid that nobody knows":    {[]string{header(userauthtest.Claims{"kid": "evil"})}, false},
		"ATTACKS 58: two values":                 {[]string{good, good}, false},
		"ATTACKS 58: a good and a bad value":     {[]string{good, "Bearer x"}, false},
		"none":                                   {nil, false},
		"Basic":                                  {[]string{"Basic YWxpY2U6eA=="}, false},
	} {
		for door, got := range p.list(t, c.authorization...) {
			want := answer{code: codes.OK}
			if !c.in {
				want = answer{codes.Unauthenticated, "INVALID_TOKEN", "the access token is missing or not valid"}
			}
			if got != want {
				t.Errorf("%s: %s: %+v, want %+v", door, name, got, want)
			}
		}
	}
	// A stolen token is worth nothing with another device's certificate, though that is a good one.
	for door, got := range w.phone(t, other).list(t, good) {
		if got.code != codes.Unauthenticated {
			t.Errorf("%s: stolen: %+v", door, got)
		}
	}
}

func TestARevokedTokenOrSessionIsOut(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	p := w.phone(t, w.alice)
	for name, r := range map[string]*loginv1.Revocation{
		"token":   {Subject: &loginv1.Revocation_TokenId{TokenId: "jti-token"}},
		"session": {Subject: &loginv1.Revocation_SessionId{SessionId: "sid-session"}},
	} {
		// Each has both of its own: what is revoked stays revoked, and the other one may come after it.
		authorization := "Bearer " + w.token(t, userauthtest.Claims{"jti": "jti-" + name, "sid": "sid-" + name})
		for door, got := range p.list(t, authorization) {
			if got.code != codes.OK {
				t.Errorf("%s: %s: %+v", door, name, got)
			}
		}
		open := p.watches(t, authorization[len("Bearer "):])
		w.revoke(r)
		began := time.Now()
		for door, watch := range open {
			if err := watch.next(); status.Code(err) != codes.Unauthenticated || time.Since(began) > soon {
				t.Errorf("%s: %s: a watch ends after %v with %v", door, name, time.Since(began), err)
			}
		}
		for door, got := range p.list(t, authorization) {
			if got.code != codes.Unauthenticated {
				t.Errorf("%s: %s revoked: %+v", door, name, got)
			}
		}
	}
}

func TestAWatchEndsWithItsToken(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	p := w.phone(t, w.alice)
	expires := time.Now().Add(2 * time.Second).Truncate(time.Second)
	open := p.watches(t, w.token(t, userauthtest.Claims{"exp": expires.Unix()}))
	for door, watch := range open {
		err := watch.next()
		if late := time.Since(expires.Add(time.Second)); status.Code(err) != codes.Unauthenticated || late < 0 || late > soon {
			t.Errorf("%s: it ends %v after its token with %v", door, late, err)
		}
	}
}

// A device that is revoked is cut, in the middle of what it does, and does not come in again.
func TestARevokedDeviceIsCut(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	p, other := w.phone(t, w.alice), w.phone(t, w.login.devices.Device(t, "dev-other"))
	token := w.token(t, nil)
	open := p.watches(t, token)
	p.list(t, "Bearer "+token) // REST has a connection at rest now, too
	w.revoke(&loginv1.Revocation{Subject: &loginv1.Revocation_CertificateSerial{CertificateSerial: serial(w.alice.Leaf)}})
	began := time.Now()
	for door, watch := range open {
		if err := watch.next(); err == nil || time.Since(began) > soon {
			t.Errorf("%s: after %v: %v", door, time.Since(began), err)
		}
	}
	if _, err := p.client.ListAccounts(with(t.Context(), []string{"Bearer " + token}), &mobilev1.ListAccountsRequest{}); err == nil {
		t.Error("gRPC: it comes in again")
	}
	// What needs no token needs a connection. The one that is at rest is cut by another goroutine than those that end the calls.
	for n := 0; ; n++ {
		request, err := http.NewRequestWithContext(t.Context(), http.MethodGet, "https://"+w.restAt+"/openapi.json", http.NoBody)
		if err != nil {
			t.Fatal(err)
		}
		response, err := p.http.Do(request)
		if err != nil {
			break
		}
		_ = response.Body.Close()
		if time.Since(began) > time.Second {
			t.Fatalf("REST: it was let in %d times, and still is", n+1)
		}
	}
	for door, got := range other.list(t, "Bearer x") { // another one is told what is wrong with its token, and so was let in
		if got.code != codes.Unauthenticated {
			t.Errorf("%s: another device: %+v", door, got)
		}
	}
}

func TestEachMethodNeedsItsScope(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	p := w.phone(t, w.alice)
	all := strings.Fields(allScopes)
	for _, r := range routes() {
		others := slices.DeleteFunc(slices.Clone(all), func(scope string) bool { return scope == r.scope })
		without := w.token(t, userauthtest.Claims{"scope": strings.Join(others, " ")})
		rest, response, _ := p.fetch(t, r.verb, r.path, bearer(without), r.body)
		want := answer{codes.PermissionDenied, "INSUFFICIENT_SCOPE", "the access token does not have the scope that this needs"}
		if rest != want || !strings.Contains(response.Header.Get("WWW-Authenticate"), `error="insufficient_scope"`) {
			t.Errorf("REST: %s without %s: %+v %s", r.method, r.scope, rest, response.Header)
		}
		if got := told(r.call(with(t.Context(), []string{"Bearer " + without}), p.client)); got != want {
			t.Errorf("gRPC: %s without %s: %+v", r.method, r.scope, got)
		}
	}
	if len(w.login.issued) != 0 || len(w.behind.asked) != 0 {
		t.Errorf("asked: %v, %v", w.login.issued, w.behind.asked)
	}
}

// What somebody sends beside a request does not get to anybody behind.
func TestNothingFromOutsideGoesInside(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	p := w.phone(t, w.alice)
	token := w.token(t, nil)
	names := []string{
		"txn-token", "grpc-metadata-txn-token", "grpc-metadata-x", "x-forwarded-for", "x-forwarded-client-cert", "spiffe-id", "cookie", "grpcgateway-x", "x-customer-id",
	}
	header, pairs := bearer(token), []string{}
	for _, name := range names {
		header.Set(name, "evil")
		pairs = append(pairs, name, "evil")
	}
	header.Set("Grpc-Timeout", "1n")
	if got, _, content := p.fetch(t, http.MethodGet, "/v1/accounts?customer_id=bob&customerId=bob", header, ""); got.code != codes.OK {
		t.Errorf("%+v %s", got, content)
	}
	if _, err := p.client.ListAccounts(with(t.Context(), []string{"Bearer " + token}, pairs...), &mobilev1.ListAccountsRequest{}); err != nil {
		t.Error(err)
	}
	if len(w.behind.metadata) < 4 {
		t.Fatalf("%d calls", len(w.behind.metadata))
	}
	for _, md := range w.behind.metadata {
		for key, values := range md {
			if slices.Contains(values, "evil") || key == "authorization" || strings.Contains(strings.Join(values, " "), token) || key == "x-forwarded-for" {
				t.Errorf("%s: %v", key, values)
			}
		}
		if len(md["txn-token"]) != 1 {
			t.Errorf("%d transaction tokens", len(md["txn-token"]))
		}
	}
}

func TestAnotherCustomersAccountIsLikeNone(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	p := w.phone(t, w.alice)
	for _, r := range routes() {
		if !strings.Contains(r.path+r.body, aliceAccount) {
			continue
		}
		var tellings []answer
		for _, account := range []string{bobAccount, noAccount} {
			got, _, _ := p.fetch(t, r.verb, strings.ReplaceAll(r.path, aliceAccount, account), bearer(w.token(t, nil)), strings.ReplaceAll(r.body, aliceAccount, account))
			tellings = append(tellings, got)
		}
		if want := (answer{codes.NotFound, "NOT_FOUND", "no such account"}); tellings[0] != want || tellings[1] != want {
			t.Errorf("%s: %+v", r.method, tellings)
		}
	}
}
