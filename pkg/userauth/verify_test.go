package userauth_test

import (
	"bytes"
	"context"
	"crypto/x509"
	"encoding/json"
	"errors"
	"fmt"
	"log/slog"
	"net/http"
	"strings"
	"testing"
	"time"

	"github.com/go-jose/go-jose/v4"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"
	"google.golang.org/protobuf/types/known/wrapperspb"

	"github.com/countersign-mesh/countersign/pkg/userauth"
	"github.com/countersign-mesh/countersign/pkg/userauth/userauthtest"
)

func TestGoodTokensAreLetIn(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	f := w.serve()
	for _, c := range []struct {
		name           string
		holds          []string
		header, claims userauthtest.Claims
	}{
		{"an ordinary one", spec("RFC 6750 §2.1 header-field", "RFC 9068 §4 typ", "RFC 8705 §3 certificate-from-tls", "RFC 8705 §3.1 x5t-s256"), nil, nil},
		{"the type written out", spec("RFC 9068 §4 typ"), userauthtest.Claims{"typ": "application/at+jwt"}, nil},
		{"several audiences, ours among them", spec("RFC 9068 §4 aud"), nil, userauthtest.Claims{"aud": []string{"https://other.test", audience}}},
		{"nbf and iat ahead within the leeway", nil, nil, userauthtest.Claims{"nbf": from(20 * time.Second), "iat": from(20 * time.Second)}},
		{"expired within the leeway", spec("RFC 9068 §4 exp"), nil, userauthtest.Claims{"iat": from(-time.Minute), "exp": from(-10 * time.Second)}},
		{"only what must be", spec("RFC 9068 §2.2 required-claims"), nil, userauthtest.Claims{"sid": nil, "scope": nil, "acr": nil, "auth_time": nil}},
		{"a claim that is not understood", nil, nil, userauthtest.Claims{"x": []any{1}}},
		{"a date with a fraction (RFC 7519 §2)", nil, nil, userauthtest.Claims{"exp": float64(time.Now().Unix()) + 300.5}},
	} {
		t.Run(c.name, func(t *testing.T) {
			t.Parallel()
			holds(t, c.holds...)
			token := w.issuer.Sign(t, c.header, w.issuer.Claims(w.phone.Leaf, c.claims))
			if who, err := w.callGRPC(f.grpc, w.phone, "Bearer "+token); err != nil || who != "alice" {
				t.Errorf("gRPC: %q, %v", who, err)
			}
			if a := w.callHTTP(f.http, "/", "", w.phone, "bearer "+token); a.status != http.StatusOK || a.body != "alice" {
				t.Errorf("HTTP: %+v", a)
			}
		})
	}
}

func TestPrincipal(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	token := w.token(userauthtest.Claims{"jti": "token-1"})
	p, err := w.verifier.Verify(t.Context(), token, w.phone.Leaf)
	if err != nil {
		t.Fatal(err)
	}
	if p.Subject != "alice" || p.Client != "dev-phone" || p.Session != "session-1" || p.TokenID != "token-1" || p.ACR != "urn:bank:acr:1" ||
		p.CertSerial != fmt.Sprintf("%x", w.phone.Leaf.SerialNumber) || p.AuthTime.IsZero() || time.Until(p.Expires) > 5*time.Minute ||
		!p.HasScope("transfer") || p.HasScope("trans") || p.HasScope("") || p.Token() != token {
		t.Errorf("principal %v", p)
	}
	again, err := w.verifier.Verify(t.Context(), token, w.phone.Leaf)
	if err != nil || again != p {
		t.Errorf("a known token gives another principal: %v, %v", again, err)
	}
}

// The token must not get into a log by way of its principal, whatever somebody prints.
func TestTheTokenIsNotShown(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	p, err := w.verifier.Verify(t.Context(), w.token(nil), w.phone.Leaf)
	if err != nil {
		t.Fatal(err)
	}
	var shown bytes.Buffer
	fmt.Fprintf(&shown, "%v %+v %#v %s %q %d %x %v\n", p, p, p, p, p, p, p, []any{p, struct{ P *userauth.Principal }{p}})
	for _, log := range []*slog.Logger{
		slog.New(slog.NewJSONHandler(&shown, nil)), slog.New(slog.NewTextHandler(&shown, nil)),
	} {
		log.InfoContext(t.Context(), "somebody", "principal", p, "within", []any{p}, "pointer", &p)
	}
	if err := json.NewEncoder(&shown).Encode(map[string]any{"p": p}); err != nil {
		t.Fatal(err)
	}
	for part := range strings.SplitSeq(p.Token(), ".") {
		if strings.Contains(shown.String(), part) || strings.Contains(shown.String(), fmt.Sprintf("%x", part)) {
			t.Errorf("a part of the token is shown: %s", shown.String())
		}
	}
	if !strings.Contains(shown.String(), "alice") {
		t.Error("nothing is shown")
	}
}

// Of a refusal the log has the reason and nothing of the token, and a flood of them not more than some lines.
func TestReasonsGoToTheLog(t *testing.T) {
	t.Parallel()
	var log bytes.Buffer
	w := newWorld(t, userauth.WithLogger(slog.New(slog.NewTextHandler(&log, nil))))
	intercept := userauth.UnaryServerInterceptor(w.verifier)
	address := w.serveGRPC(intercept, userauth.StreamServerInterceptor(w.verifier))
	token := w.token(userauthtest.Claims{"aud": "https://other.test"})
	conn := w.dial(address, w.phone)
	began := time.Now()
	for range 100 {
		err := conn.Invoke(authorized(t, "Bearer "+token), "/test.Bank/Who", wrapperspb.String(""), new(wrapperspb.StringValue))
		if strings.Contains(err.Error(), "aud") {
			t.Fatalf("the caller is told why: %v", err)
		}
	}
	text := log.String()
	if !strings.Contains(text, "aud is not this service") || strings.Contains(text, token[:20]) || strings.Contains(text, token[len(token)-20:]) {
		t.Errorf("log:\n%s", text)
	}
	if lines := strings.Count(text, "\n"); lines > 22+int(10*time.Since(began).Seconds()) {
		t.Errorf("%d lines", lines)
	}
}

func TestWhatAHandlerAsksFor(t *testing.T) {
	t.Parallel()
	holds(t, "RFC 9068 §4 authorization-claims", "RFC 6750 §3.1 insufficient-scope")
	w := newWorld(t)
	f := w.serve()
	const realm = `Bearer realm="countersign", `
	for _, c := range []struct {
		required  string
		want      error
		code      codes.Code
		status    int
		challenge string
		body      string
	}{
		{
			"acr", userauth.ErrInsufficientUserAuthentication, codes.Unauthenticated, http.StatusUnauthorized,
			realm + `error="insufficient_user_authentication", error_description="a different authentication level is required", acr_values="urn:bank:acr:2 urn:bank:acr:3"`,
			"INSUFFICIENT_USER_AUTHENTICATION",
		},
		{
			"scope", userauth.ErrInsufficientScope, codes.PermissionDenied, http.StatusForbidden,
			realm + `error="insufficient_scope", error_description="the access token does not have the scope that this needs", scope="accounts.close"`,
			"INSUFFICIENT_SCOPE",
		},
		{"enough", nil, codes.OK, http.StatusOK, "", "alice"},
	} {
		t.Run(c.required, func(t *testing.T) {
			t.Parallel()
			bearer := "Bearer " + w.token(nil)
			err := w.dial(f.grpc, w.phone).Invoke(authorized(t, bearer), "/test.Bank/Who", wrapperspb.String(c.required), new(wrapperspb.StringValue))
			if status.Code(err) != c.code {
				t.Errorf("gRPC: %v", err)
			}
			a := w.callHTTP(f.http, "/", c.required, w.phone, bearer)
			if a.status != c.status || a.header.Get("WWW-Authenticate") != c.challenge || !strings.Contains(a.body, c.body) {
				t.Errorf("HTTP: %+v", a)
			}
			if c.want == nil {
				return
			}
			e, ok := userauth.FromError(err)
			if !ok || !errors.Is(e, c.want) || e.Challenge() != c.challenge || e.HTTPStatus() != c.status {
				t.Errorf("what becomes of the gRPC status: %v", e)
			}
		})
	}
	for _, err := range []error{userauth.RequireACR(t.Context(), "urn:bank:acr:1"), userauth.RequireScope(t.Context(), "transfer")} {
		if !errors.Is(err, userauth.ErrInvalidToken) {
			t.Errorf("without a customer: %v", err)
		}
	}
}

type brokenKeys struct{}

func (brokenKeys) Key(context.Context, string) (jose.JSONWebKey, error) {
	return jose.JSONWebKey{}, errors.New("connection refused at 10.0.0.7")
}

// An issuer that cannot be asked is no reason to tell a customer that their token is bad, and no reason to let one in.
func TestKeysThatAreNotThere(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	w.verifier = userauth.NewVerifier(brokenKeys{}, issuer, audience)
	f := w.serve()
	bearer := "Bearer " + w.token(nil)
	_, err := w.callGRPC(f.grpc, w.phone, bearer)
	if status.Code(err) != codes.Unavailable || strings.Contains(err.Error(), "10.0.0.7") {
		t.Errorf("gRPC: %v", err)
	}
	a := w.callHTTP(f.http, "/", "", w.phone, bearer)
	if a.status != http.StatusServiceUnavailable || a.header.Get("Retry-After") == "" || strings.Contains(a.body, "10.0.0.7") {
		t.Errorf("HTTP: %+v", a)
	}
}

// RFC 6750 §5.3: what is in a URL is in logs.
func TestATokenInTheURLIsRefused(t *testing.T) {
	t.Parallel()
	holds(t, "RFC 6750 §2 one-method")
	w := newWorld(t)
	f := w.serve()
	token := w.token(nil)
	for _, values := range [][]string{nil, {"Bearer " + token}} {
		if a := w.callHTTP(f.http, "/?access_token="+token, "", w.phone, values...); a.status != http.StatusUnauthorized {
			t.Errorf("%d authorization values: %+v", len(values), a)
		}
	}
}

// The certificate is the one of the connection, and no other that a caller tells of (RFC 8705 §3, ATTACKS 49).
func TestACertificateInAHeaderIsIgnored(t *testing.T) {
	t.Parallel()
	holds(t, "RFC 8705 §3 certificate-from-tls")
	w := newWorld(t)
	handler := userauth.Middleware(w.verifier, whoHandler())
	address := w.serveHTTP(http.HandlerFunc(func(rw http.ResponseWriter, r *http.Request) {
		r.Header.Set("X-Forwarded-Client-Cert", fmt.Sprintf("Hash=%x", w.phone.Leaf.Raw)) // as if the thief had sent it
		r.Header.Set("Client-Cert", fmt.Sprintf(":%x:", w.phone.Leaf.Raw))
		handler.ServeHTTP(rw, r)
	}))
	if a := w.callHTTP(address, "/", "", w.stolen, "Bearer "+w.token(nil)); a.status != http.StatusUnauthorized {
		t.Errorf("%+v", a)
	}
}

// What is remembered of a token is that its signature was good, and nothing that can change.
func TestWhatIsRememberedOfAToken(t *testing.T) {
	t.Parallel()
	tomorrow := time.Now().Add(24 * time.Hour) // when certificates end
	for _, c := range []struct {
		name   string
		token  userauthtest.Claims
		change func(w *world, now *time.Time)
		by     func(w *world) *x509.Certificate
	}{
		{"it expires", nil, func(_ *world, now *time.Time) { *now = now.Add(5*time.Minute + 31*time.Second) }, nil},
		{"its certificate expires", userauthtest.Claims{"iat": tomorrow.Add(-time.Minute).Unix(), "exp": tomorrow.Add(2 * time.Minute).Unix()}, func(_ *world, now *time.Time) { *now = now.Add(90 * time.Second) }, nil},
		{"another certificate presents it", nil, nil, func(w *world) *x509.Certificate { return w.stolen.Leaf }},
		{"no certificate presents it", nil, nil, func(*world) *x509.Certificate { return nil }},
		{"its key is withdrawn", nil, func(w *world, _ *time.Time) { w.issuer.NewKey(w.t); w.issuer.Withdraw() }, nil},
		{"it is revoked", userauthtest.Claims{"jti": "token-1"}, func(w *world, now *time.Time) {
			w.revoked.Add(userauth.Revocation{TokenID: "token-1", Until: now.Add(time.Hour)})
		}, nil},
		{"its session is revoked", nil, func(w *world, now *time.Time) {
			w.revoked.Add(userauth.Revocation{Session: "session-1", Until: now.Add(time.Hour)})
		}, nil},
		{"its device is revoked", nil, func(w *world, now *time.Time) {
			w.revoked.Replace([]userauth.Revocation{{CertSerial: fmt.Sprintf("%x", w.phone.Leaf.SerialNumber), Until: now.Add(time.Hour)}})
		}, nil},
	} {
		t.Run(c.name, func(t *testing.T) {
			t.Parallel()
			now := time.Now()
			if iat, ok := c.token["iat"].(int64); ok {
				now = time.Unix(iat, 0)
			}
			w := newWorld(t, userauth.WithClock(func() time.Time { return now }))
			token := w.token(c.token)
			if _, err := w.verifier.Verify(t.Context(), token, w.phone.Leaf); err != nil {
				t.Fatal(err)
			}
			cert := w.phone.Leaf
			if c.by != nil {
				cert = c.by(w)
			}
			if c.change != nil {
				c.change(w, &now)
			}
			if p, err := w.verifier.Verify(t.Context(), token, cert); !errors.Is(err, userauth.ErrInvalidToken) {
				t.Errorf("%v, %v", p, err)
			}
		})
	}
}

// One who has a good token of another's must not be able to make it bad for its owner.
func TestAThiefDoesNoHarmToTheOwner(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	token := w.token(nil)
	for range 2 {
		if _, err := w.verifier.Verify(t.Context(), token, w.stolen.Leaf); !errors.Is(err, userauth.ErrInvalidToken) {
			t.Errorf("the thief: %v", err)
		}
		if p, err := w.verifier.Verify(t.Context(), token, w.phone.Leaf); err != nil || p.CertSerial != fmt.Sprintf("%x", w.phone.Leaf.SerialNumber) {
			t.Errorf("the owner: %v, %v", p, err)
		}
	}
}

func TestLeewayIsAMinuteAtMost(t *testing.T) {
	t.Parallel()
	for leeway, good := range map[time.Duration][2]bool{
		0: {false, false}, 30 * time.Second: {true, false}, time.Hour: {true, false}, -time.Hour: {false, false},
	} {
		w := newWorld(t, userauth.WithLeeway(leeway))
		for i, late := range []time.Duration{15 * time.Second, 90 * time.Second} {
			token := w.token(userauthtest.Claims{"iat": from(-5 * time.Minute), "exp": from(-late)})
			if _, err := w.verifier.Verify(t.Context(), token, w.phone.Leaf); (err == nil) != good[i] {
				t.Errorf("leeway %v, %v after the end: %v", leeway, late, err)
			}
			token = w.token(userauthtest.Claims{"nbf": from(late)})
			if _, err := w.verifier.Verify(t.Context(), token, w.phone.Leaf); (err == nil) != good[i] {
				t.Errorf("leeway %v, %v before the beginning: %v", leeway, late, err)
			}
		}
	}
}
