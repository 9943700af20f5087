package main

import (
	"context"
	"crypto/sha256"
	"encoding/base64"
	"maps"
	"net/http"
	"net/url"
	"strings"
	"sync"
	"testing"
	"time"

	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"

	"github.com/countersign-mesh/countersign/pkg/database/databasetest"
	"github.com/countersign-mesh/countersign/pkg/userauth"
	"github.com/countersign-mesh/countersign/pkg/userauth/device"
	loginv1 "github.com/countersign-mesh/countersign/proto/gen/bank/login/v1"
)

const verifier = "a-code-verifier-that-is-as-long-as-it-has-to-be-0"

func challengeOf(verifier string) string {
	sum := sha256.Sum256([]byte(verifier))
	return base64.RawURLEncoding.EncodeToString(sum[:])
}

// challenge is a good authorization request, with changes.
func challenge(d *device.Device, changes url.Values) url.Values {
	form := url.Values{
		"client_id": {d.ID()}, "username": {"alice"}, "password": {testPassword}, "scope": {"accounts.read transfer"},
		"code_challenge": {challengeOf(verifier)}, "code_challenge_method": {"S256"},
	}
	maps.Copy(form, changes)
	return form
}

// log in over the raw endpoints; it returns the tokens.
func (w *world) logIn(t *testing.T, d *device.Device) answer {
	t.Helper()
	a := w.post(t, d, "/authorize-challenge", challenge(d, nil))
	if a.status != http.StatusOK {
		t.Fatalf("authorize-challenge: %d %s", a.status, a.raw)
	}
	tokens := w.post(t, d, "/token", exchange(d, a.get("authorization_code")))
	if tokens.status != http.StatusOK {
		t.Fatalf("token: %d %s", tokens.status, tokens.raw)
	}
	return tokens
}

func exchange(d *device.Device, code string) url.Values {
	return url.Values{"grant_type": {"authorization_code"}, "client_id": {d.ID()}, "code": {code}, "code_verifier": {verifier}}
}

func refresh(d *device.Device, token string) url.Values {
	return url.Values{"grant_type": {"refresh_token"}, "client_id": {d.ID()}, "refresh_token": {token}}
}

func (w *world) verify(d *device.Device, token string) (*userauth.Principal, error) {
	return userauth.NewVerifier(w.login.access, testIssuer, testAudience, userauth.WithClock(w.clock.Now)).Verify(context.Background(), token, d.Certificate())
}

func want(t *testing.T, what string, a answer, status int, code string) {
	t.Helper()
	if a.status != status || a.code() != code {
		t.Errorf("%s: %d %q, want %d %q", what, a.status, a.raw, status, code)
	}
}

func TestADeviceFromItsEnrolmentToItsRevocation(t *testing.T) {
	t.Parallel()
	databasetest.Each(t, func(t *testing.T, dsn string) {
		w := newWorld(t, dsn)
		phone := w.enrol(t)
		session, err := phone.Login(t.Context(), w.server, "alice", testPassword, w.otp(t), "accounts.read", "transfer")
		if err != nil {
			t.Fatal(err)
		}
		token, err := session.Token(t.Context())
		if err != nil {
			t.Fatal(err)
		}
		p, err := w.verify(phone, token)
		if err != nil {
			t.Fatal(err)
		}
		if p.Subject != "alice" || p.Client != phone.ID() || p.ACR != "urn:bank:acr:2" || !p.HasScope("transfer") || p.HasScope("accounts.open") {
			t.Errorf("the token is %+v", p)
		}
		issuer := loginv1.NewTransactionTokenServiceClient(w.gateway(t))
		request := &loginv1.IssueTransactionTokenRequest{AccessToken: token, Scope: "transfer", Context: map[string]string{"payee": "bob"}}
		if _, err := issuer.IssueTransactionToken(t.Context(), request); err != nil {
			t.Fatal(err)
		}
		request.Scope = "accounts.open"
		if _, err := issuer.IssueTransactionToken(t.Context(), request); status.Code(err) != codes.PermissionDenied {
			t.Errorf("a scope that was not granted: %v", err)
		}
		request.Scope = "transfer"
		if _, err := w.customers(t).RevokeDevice(t.Context(), &loginv1.RevokeDeviceRequest{DeviceId: phone.ID()}); err != nil {
			t.Fatal(err)
		}
		if _, err := issuer.IssueTransactionToken(t.Context(), request); status.Code(err) != codes.Unauthenticated {
			t.Errorf("a revoked device's token: %v", err)
		}
		want(t, "a revoked device", w.post(t, phone, "/authorize-challenge", challenge(phone, nil)), http.StatusUnauthorized, "invalid_client")
		devices, err := w.customers(t).ListDevices(t.Context(), &loginv1.ListDevicesRequest{CustomerId: "alice"})
		if err != nil || len(devices.GetDevices()) != 1 || devices.GetDevices()[0].GetRevokeTime() == nil {
			t.Errorf("devices: %v, %v", devices, err)
		}
	})
}

func TestWhoIsNotWhoTheySayGetsTheSameAnswer(t *testing.T) {
	t.Parallel()
	w := newWorld(t, databasetest.SQLite(t))
	phone := w.enrol(t)
	code := w.otp(t)
	first := w.post(t, phone, "/authorize-challenge", challenge(phone, url.Values{"otp": {code}}))
	want(t, "the right ones", first, http.StatusOK, "")
	var texts []string
	for name, changes := range map[string]url.Values{
		"a wrong password":       {"password": {"wrong"}},
		"nobody":                 {"username": {"nobody"}},
		"a name that is none":    {"username": {"' OR 1=1"}},
		"a wrong code":           {"otp": {"000000"}},
		"a code that was used":   {"otp": {code}},
		"a code that is no code": {"otp": {"x"}},
	} {
		a := w.post(t, phone, "/authorize-challenge", challenge(phone, changes))
		want(t, name, a, http.StatusBadRequest, "invalid_grant")
		texts = append(texts, a.raw)
	}
	for _, text := range texts {
		if text != texts[0] {
			t.Errorf("answers differ: %s and %s", texts[0], text)
		}
	}
}

func TestACodeIsGoodOnceForItsDeviceAndVerifier(t *testing.T) {
	t.Parallel()
	databasetest.Each(t, func(t *testing.T, dsn string) {
		w := newWorld(t, dsn)
		phone, other := w.enrol(t), w.enrol(t)
		code := func() string {
			return w.post(t, phone, "/authorize-challenge", challenge(phone, nil)).get("authorization_code")
		}
		used := code()
		tokens := w.post(t, phone, "/token", exchange(phone, used))
		want(t, "the first time", tokens, http.StatusOK, "")
		want(t, "a code used twice", w.post(t, phone, "/token", exchange(phone, used)), http.StatusBadRequest, "invalid_grant")
		want(t, "what a code used twice gave", w.post(t, phone, "/token", refresh(phone, tokens.get("refresh_token"))), http.StatusBadRequest, "invalid_grant")

		c := code()
		form := exchange(phone, c)
		form.Set("code_verifier", strings.Repeat("x", 43))
		want(t, "a wrong verifier", w.post(t, phone, "/token", form), http.StatusBadRequest, "invalid_grant")
		want(t, "the right one after it", w.post(t, phone, "/token", exchange(phone, c)), http.StatusBadRequest, "invalid_grant")

		want(t, "another device's code", w.post(t, other, "/token", exchange(other, code())), http.StatusBadRequest, "invalid_grant")
		want(t, "another's client_id", w.post(t, other, "/token", exchange(phone, code())), http.StatusUnauthorized, "invalid_client")
		want(t, "no certificate", w.post(t, nil, "/token", exchange(phone, code())), http.StatusUnauthorized, "invalid_client")

		late := code()
		w.clock.Add(time.Minute)
		want(t, "a code after a minute", w.post(t, phone, "/token", exchange(phone, late)), http.StatusBadRequest, "invalid_grant")
	})
}

func TestARefreshTokenIsGoodOnceForItsDevice(t *testing.T) {
	t.Parallel()
	databasetest.Each(t, func(t *testing.T, dsn string) {
		w := newWorld(t, dsn)
		phone, other := w.enrol(t), w.enrol(t)
		first := w.logIn(t, phone).get("refresh_token")
		want(t, "another device's", w.post(t, other, "/token", refresh(other, first)), http.StatusBadRequest, "invalid_grant")
		second := w.post(t, phone, "/token", refresh(phone, first))
		want(t, "the first", second, http.StatusOK, "")
		third := w.post(t, phone, "/token", refresh(phone, second.get("refresh_token")))
		want(t, "the second", third, http.StatusOK, "")
		want(t, "the first again", w.post(t, phone, "/token", refresh(phone, first)), http.StatusBadRequest, "invalid_grant")
		want(t, "the third after it", w.post(t, phone, "/token", refresh(phone, third.get("refresh_token"))), http.StatusBadRequest, "invalid_grant")
		issuer := loginv1.NewTransactionTokenServiceClient(w.gateway(t))
		_, err := issuer.IssueTransactionToken(t.Context(), &loginv1.IssueTransactionTokenRequest{AccessToken: third.get("access_token"), Scope: "transfer"})
		if status.Code(err) != codes.Unauthenticated {
			t.Errorf("an access token of a session that has ended: %v", err)
		}
	})
}

func TestOfTwoRefreshesAtOnceOneWins(t *testing.T) {
	t.Parallel()
	databasetest.Each(t, func(t *testing.T, dsn string) {
		w := newWorld(t, dsn)
		phone := w.enrol(t)
		token := w.logIn(t, phone).get("refresh_token")
		answers := make([]answer, 8)
		var all sync.WaitGroup
		for i := range answers {
			all.Go(func() { answers[i] = w.post(t, phone, "/token", refresh(phone, token)) })
		}
		all.Wait()
		won := 0
		for _, a := range answers {
			if a.status == http.StatusOK {
				won++
				continue
			}
			want(t, "one that lost", a, http.StatusBadRequest, "invalid_grant")
		}
		if won != 1 {
			t.Errorf("%d won", won)
		}
	})
}

func TestAnAnswerThatWasLostIsGivenOnceMore(t *testing.T) {
	t.Parallel()
	w := newWorld(t, databasetest.SQLite(t))
	phone := w.enrol(t)
	token := w.logIn(t, phone).get("refresh_token")
	key := []string{"Idempotency-Key", "the-same-request-1"}
	lost := w.post(t, phone, "/token", refresh(phone, token), key...)
	again := w.post(t, phone, "/token", refresh(phone, token), key...)
	if lost.status != http.StatusOK || again.status != http.StatusOK || lost.get("refresh_token") != again.get("refresh_token") {
		t.Fatalf("lost %d, again %d", lost.status, again.status)
	}
	next := w.post(t, phone, "/token", refresh(phone, again.get("refresh_token")))
	want(t, "the one that came", next, http.StatusOK, "")
	want(t, "the same request after that", w.post(t, phone, "/token", refresh(phone, token), key...), http.StatusBadRequest, "invalid_grant")
	want(t, "the session after that", w.post(t, phone, "/token", refresh(phone, next.get("refresh_token"))), http.StatusBadRequest, "invalid_grant")

	token = w.logIn(t, phone).get("refresh_token")
	want(t, "a refresh", w.post(t, phone, "/token", refresh(phone, token), key...), http.StatusOK, "")
	want(t, "who has the token and not the key", w.post(t, phone, "/token", refresh(phone, token), "Idempotency-Key", "another-request-22"), http.StatusBadRequest, "invalid_grant")
}
