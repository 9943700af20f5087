package main

import (
	"context"
	"crypto/rand"
	"errors"
	"net/http"
	"net/url"
	"testing"
	"time"

	"github.com/countersign-mesh/countersign/pkg/database/databasetest"
	"github.com/countersign-mesh/countersign/services/login/internal/grant"
	"github.com/countersign-mesh/countersign/services/login/internal/store"
)

// A process that is started anew has the same authority and keys, and what devices have from the one before is good.
func TestWhatDevicesHaveOutlivesTheProcess(t *testing.T) {
	t.Parallel()
	databasetest.Each(t, func(t *testing.T, dsn string) {
		w := newWorld(t, dsn)
		phone := w.enrol(t)
		tokens := w.logIn(t, phone)
		w.start(t, dsn)
		if _, err := w.verify(phone, tokens.get("access_token")); err != nil {
			t.Errorf("an access token: %v", err)
		}
		want(t, "a refresh token", w.post(t, phone, "/token", refresh(phone, tokens.get("refresh_token"))), http.StatusOK, "")
	})
}

// While the database is away a device is told to try again, and not that what it has is bad: it would throw it away.
func TestADatabaseThatIsAwayEndsNoSession(t *testing.T) {
	t.Parallel()
	server := databasetest.StartServer(t)
	dsn, err := server.Create(t.Context(), "login")
	if err != nil {
		t.Fatal(err)
	}
	w := newWorld(t, dsn)
	phone := w.enrol(t)
	tokens := w.logIn(t, phone)
	if err := server.Stop(); err != nil {
		t.Fatal(err)
	}
	for path, form := range map[string]url.Values{
		"/token":               refresh(phone, tokens.get("refresh_token")),
		"/authorize-challenge": challenge(phone, nil),
		"/revoke":              {"client_id": {phone.ID()}, "token": {"x.y"}},
	} {
		a := w.post(t, phone, path, form)
		want(t, path, a, http.StatusServiceUnavailable, "temporarily_unavailable")
		if a.header.Get("Retry-After") == "" {
			t.Errorf("%s does not say when to try again", path)
		}
	}
	if err := server.Start(t.Context()); err != nil {
		t.Fatal(err)
	}
	want(t, "afterwards", w.post(t, phone, "/token", refresh(phone, tokens.get("refresh_token"))), http.StatusOK, "")
}

func TestWhatIsOverIsRemovedAndNothingElse(t *testing.T) {
	t.Parallel()
	databasetest.Each(t, func(t *testing.T, dsn string) {
		w := newWorld(t, dsn)
		phone := w.enrol(t)
		lasting := w.logIn(t, phone)
		ended := w.logIn(t, phone)
		w.post(t, phone, "/revoke", url.Values{"client_id": {phone.ID()}, "token": {ended.get("refresh_token")}})
		unused := w.post(t, phone, "/authorize-challenge", challenge(phone, nil)).get("authorization_code")
		kept, err := store.Open(t.Context(), dsn)
		if err != nil {
			t.Fatal(err)
		}
		t.Cleanup(func() { _ = kept.Close() })
		if len(w.revoked(t)) != 1 {
			t.Error("the session that ended is not revoked")
		}
		w.clock.Add(2 * time.Hour)
		if err := kept.Prune(t.Context(), w.clock.Now()); err != nil {
			t.Fatal(err)
		}
		if n := len(w.revoked(t)); n != 0 {
			t.Errorf("%d revocations of what is over", n)
		}
		if err := kept.SessionByCode(t.Context(), grant.Digest(unused), func(*grant.Session) {}); !errors.Is(err, grant.ErrNoSession) {
			t.Errorf("a code that was not used: %v", err)
		}
		want(t, "a session that lasts, with keys that were not read for hours", w.post(t, phone, "/token", refresh(phone, lasting.get("refresh_token"))),
			http.StatusServiceUnavailable, "temporarily_unavailable")
		if err := w.login.access.Refresh(t.Context()); err != nil {
			t.Fatal(err)
		}
		want(t, "a session that lasts", w.post(t, phone, "/token", refresh(phone, lasting.get("refresh_token"))), http.StatusOK, "")
	})
}

// A process that is killed within a request has left it undone or done: what a request changes is one transaction. Here its context ends at any moment.
func TestARequestThatIsCutOffLeavesNothingHalf(t *testing.T) {
	t.Parallel()
	databasetest.Each(t, func(t *testing.T, dsn string) {
		w := newWorld(t, dsn)
		phone := w.enrol(t)
		kept, err := store.Open(t.Context(), dsn)
		if err != nil {
			t.Fatal(err)
		}
		t.Cleanup(func() { _ = kept.Close() })
		tokens := w.logIn(t, phone)
		p, err := w.verify(phone, tokens.get("access_token"))
		if err != nil {
			t.Fatal(err)
		}
		for range 20 {
			ctx, cancel := context.WithTimeout(t.Context(), time.Duration(randomByte(t))*20*time.Microsecond)
			err := kept.SessionByID(ctx, p.Session, func(s *grant.Session) { s.Ended = w.clock.Now() })
			cancel()
			revoked := w.revoked(t)["session:"+p.Session] == 1
			over := false
			if err := kept.SessionByID(t.Context(), p.Session, func(s *grant.Session) { over = !s.Ended.IsZero() }); err != nil {
				t.Fatal(err)
			}
			if over != revoked || err == nil && !over {
				t.Fatalf("ended: %t, revoked: %t, answer: %v", over, revoked, err)
			}
		}
	})
}

func randomByte(t *testing.T) byte {
	t.Helper()
	b := make([]byte, 1)
	_, _ = rand.Read(b)
	return b[0]
}
