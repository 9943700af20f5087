package oauth_test

import (
	"context"
	"crypto/x509"
	"errors"
	"log/slog"
	"net/http"
	"net/http/httptest"
	"net/url"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/prometheus/client_golang/prometheus"

	"github.com/countersign-mesh/countersign/services/login/internal/device"
	"github.com/countersign-mesh/countersign/services/login/internal/grant"
	"github.com/countersign-mesh/countersign/services/login/internal/oauth"
)

// devices are good by their names alone.
type devices struct{ oauth.Devices }

func (devices) Authenticate(_ context.Context, clientID string, _ *x509.Certificate) (device.Device, error) {
	if !strings.HasPrefix(clientID, "dev-") {
		return device.Device{}, device.ErrNotGood
	}
	return device.Device{ID: clientID}, nil
}

// grants counts what it is asked for, and answers with err.
type grants struct {
	oauth.Grants
	asked int
	err   error
}

func (g *grants) Exchange(context.Context, device.Device, string, string) (grant.Tokens, error) {
	g.asked++
	return grant.Tokens{}, g.err
}

func (g *grants) Refresh(context.Context, device.Device, string, string, []string) (grant.Tokens, error) {
	g.asked++
	return grant.Tokens{}, g.err
}

func (g *grants) Revoke(context.Context, device.Device, string) error {
	g.asked++
	return g.err
}

// edge is the handler with parts of a test, which sends one request after another.
type edge struct {
	grants  grants
	now     time.Time
	told    int
	handler *oauth.Handler
}

func newEdge(t *testing.T) *edge {
	t.Helper()
	e := &edge{now: time.Now()}
	var err error
	e.handler, err = oauth.New(oauth.Parts{
		Issuer: "https://login.bank.test", Devices: devices{}, Grants: &e.grants, Keys: func() []byte { return nil }, Revoked: func() { e.told++ },
		Now: func() time.Time { return e.now }, Log: slog.New(slog.DiscardHandler), Metrics: prometheus.NewRegistry(),
	})
	if err != nil {
		t.Fatal(err)
	}
	return e
}

func (e *edge) post(path, clientID string, form url.Values) *httptest.ResponseRecorder {
	form.Set("client_id", clientID)
	r := httptest.NewRequest(http.MethodPost, path, strings.NewReader(form.Encode()))
	r.Header.Set("Content-Type", "application/x-www-form-urlencoded")
	w := httptest.NewRecorder()
	e.handler.ServeHTTP(w, r)
	return w
}

func requests() map[string]url.Values {
	return map[string]url.Values{
		"/token?code":    {"grant_type": {"authorization_code"}, "code": {"x"}, "code_verifier": {strings.Repeat("x", 43)}},
		"/token?refresh": {"grant_type": {"refresh_token"}, "refresh_token": {"x.y"}},
		"/revoke":        {"token": {"x.y"}},
	}
}

// Each of these reads the database, and may write it. A device that is stolen asks for its own alone to wait.
func TestADeviceAsksForTokensAndRevokesThemSoOften(t *testing.T) {
	t.Parallel()
	for name, form := range requests() {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			e := newEdge(t)
			e.grants.err = grant.ErrGrant
			path, _, _ := strings.Cut(name, "?")
			for range 100 {
				if w := e.post(path, "somebody", form); w.Code != http.StatusUnauthorized {
					t.Fatalf("who is no client: %d", w.Code)
				}
			}
			for range 100 {
				e.post(path, "dev-a", form)
			}
			if e.grants.asked != 20 {
				t.Errorf("of 100 at once %d came through, want 20", e.grants.asked)
			}
			w := e.post(path, "dev-a", form)
			if seconds, err := strconv.Atoi(w.Header().Get("Retry-After")); w.Code != http.StatusTooManyRequests || err != nil || seconds != 1 {
				t.Errorf("one too many: %d, Retry-After %q", w.Code, w.Header().Get("Retry-After"))
			}
			if w := e.post(path, "dev-b", form); w.Code == http.StatusTooManyRequests {
				t.Error("another device has to wait")
			}
			e.now = e.now.Add(time.Second)
			if w := e.post(path, "dev-a", form); w.Code == http.StatusTooManyRequests {
				t.Error("after a second it has to wait")
			}
		})
	}
}

// Watchers look when a session may have ended, and not whenever something fails.
func TestWatchersLookWhenAGrantIsRefused(t *testing.T) {
	t.Parallel()
	for name, test := range map[string]struct {
		err  error
		told int
	}{
		"not good":              {grant.ErrGrant, 1},
		"a scope not granted":   {grant.ErrScope, 0},
		"a database that fails": {errors.New("the database is away"), 0},
		"cut off":               {context.Canceled, 0},
		"good":                  {nil, 0},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			for _, request := range []string{"/token?code", "/token?refresh"} {
				e := newEdge(t)
				e.grants.err = test.err
				e.post("/token", "dev-a", requests()[request])
				if e.grants.asked != 1 || e.told != test.told {
					t.Errorf("%s: asked %d times, watchers told %d times, want %d", request, e.grants.asked, e.told, test.told)
				}
			}
		})
	}
}
