package device_test

import (
	"context"
	"crypto/sha256"
	"crypto/tls"
	"encoding/json"
	"encoding/pem"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net/http"
	"net/http/httptest"
	"net/url"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"

	"go.uber.org/goleak"

	"github.com/countersign-mesh/countersign/pkg/userauth/device"
	"github.com/countersign-mesh/countersign/pkg/userauth/userauthtest"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

// server answers as an authorization server does, and keeps what it was asked.
type server struct {
	device.Server
	cert tls.Certificate // what it enrols every device with

	mu      sync.Mutex
	asked   []url.Values
	keys    []string // Idempotency-Key of refreshes
	expires int
	drop    int    // so many answers of the token endpoint are lost
	refuse  string // the error of refreshes
}

func newServer(t *testing.T) *server {
	t.Helper()
	authority := userauthtest.NewAuthority(t)
	s := &server{cert: authority.Device(t, "dev-1"), expires: 300}
	http1 := httptest.NewUnstartedServer(s)
	http1.TLS = &tls.Config{Certificates: []tls.Certificate{authority.Server(t)}, ClientAuth: tls.RequireAndVerifyClientCert, ClientCAs: authority.Pool()}
	http1.Config.ErrorLog = slog.NewLogLogger(slog.DiscardHandler, 0)
	http1.StartTLS()
	t.Cleanup(http1.Close)
	s.Server = device.Server{Issuer: "https://localhost", Roots: authority.Pool(), Address: http1.Listener.Addr().String()}
	return s
}

// phone is a device of the server's, as Load reads it.
func (s *server) phone(t *testing.T) *device.Device {
	t.Helper()
	dir := t.TempDir()
	write := func(name, kind string, der []byte) {
		if err := os.WriteFile(filepath.Join(dir, name), pem.EncodeToMemory(&pem.Block{Type: kind, Bytes: der}), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	write("device.pem", "CERTIFICATE", s.cert.Certificate[0])
	write("device.key", "PRIVATE KEY", pkcs8(t, s.cert.PrivateKey))
	d, err := device.Load(dir)
	if err != nil {
		t.Fatal(err)
	}
	return d
}

func (s *server) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	_ = r.ParseForm()
	s.mu.Lock()
	defer s.mu.Unlock()
	s.asked = append(s.asked, r.PostForm)
	if r.URL.Path == "/authorize-challenge" {
		_, _ = io.WriteString(w, `{"authorization_code":"code-1"}`)
		return
	}
	if r.URL.Path == "/revoke" {
		return
	}
	refresh := r.PostForm.Get("grant_type") == "refresh_token"
	if refresh {
		s.keys = append(s.keys, r.Header.Get("Idempotency-Key"))
		if s.refuse != "" {
			w.Header().Set("Retry-After", "7")
			w.WriteHeader(http.StatusBadRequest)
			_, _ = fmt.Fprintf(w, `{"error":%q}`, s.refuse)
			return
		}
		if s.drop > 0 {
			s.drop--
			panic(http.ErrAbortHandler) // the answer is lost
		}
	}
	n := len(s.asked)
	_ = json.NewEncoder(w).Encode(map[string]any{
		"access_token": fmt.Sprintf("access-%d", n), "refresh_token": fmt.Sprintf("refresh-%d", n), "token_type": "Bearer", "expires_in": s.expires, "scope": "transfer",
	})
}

func (s *server) set(f func(*server)) { s.mu.Lock(); defer s.mu.Unlock(); f(s) }

func (s *server) refreshes() (n int) {
	s.mu.Lock()
	defer s.mu.Unlock()
	return len(s.keys)
}

func login(t *testing.T, s *server) (*device.Device, *device.Session) {
	t.Helper()
	d := s.phone(t)
	session, err := d.Login(t.Context(), s.Server, "alice", "secret-password", "", "transfer")
	if err != nil {
		t.Fatal(err)
	}
	return d, session
}

func TestALogInProvesItsVerifier(t *testing.T) {
	t.Parallel()
	s := newServer(t)
	login(t, s)
	sum := sha256.Sum256([]byte(s.asked[1].Get("code_verifier")))
	if s.asked[0].Get("code_challenge") != encode(sum[:]) || s.asked[0].Get("code_challenge_method") != "S256" || s.asked[0].Get("client_id") != "dev-1" {
		t.Error("the challenge is not that of the verifier, or the client_id not the device's")
	}
}

func TestOfManyWhoNeedATokenOneAsks(t *testing.T) {
	t.Parallel()
	s := newServer(t)
	s.expires = 10 // too little to use
	_, session := login(t, s)
	s.set(func(s *server) { s.expires = 300 })
	var all sync.WaitGroup
	for range 16 {
		all.Go(func() {
			if token, err := session.Token(context.Background()); err != nil || token != "access-3" {
				t.Errorf("%q, %v", token, err)
			}
		})
	}
	all.Wait()
	if n := s.refreshes(); n != 1 {
		t.Errorf("%d refreshes", n)
	}
}

func TestARequestWhoseAnswerWasLostIsSentOnceMoreAsTheSame(t *testing.T) {
	t.Parallel()
	s := newServer(t)
	s.expires, s.drop = 10, 2 // net/http itself sends such a request once more when it was the connection
	d, session := login(t, s)
	dir := t.TempDir()
	if err := session.Keep(dir); err != nil {
		t.Fatal(err)
	}
	if _, err := session.Token(t.Context()); err == nil || errors.Is(err, device.ErrEnded) {
		t.Fatalf("the answer was lost: %v", err)
	}
	resumed, err := d.Resume(s.Server, dir) // another process
	if err != nil {
		t.Fatal(err)
	}
	if _, err := resumed.Token(t.Context()); err != nil {
		t.Fatal(err)
	}
	if len(s.keys) != 3 || s.keys[0] == "" || s.keys[0] != s.keys[1] || s.keys[1] != s.keys[2] {
		t.Errorf("keys %q", s.keys)
	}
	if _, err := session.Token(t.Context()); err != nil { // it takes what the other has left
		t.Fatal(err)
	}
	if len(s.keys) != 4 || s.keys[3] == s.keys[2] {
		t.Error("another refresh is taken for the same")
	}
}

func TestASessionThatIsOverSaysSo(t *testing.T) {
	t.Parallel()
	s := newServer(t)
	s.expires, s.refuse = 10, "invalid_grant"
	_, session := login(t, s)
	_, err := session.Token(t.Context())
	refused, ok := errors.AsType[*device.Error](err)
	if !errors.Is(err, device.ErrEnded) || !ok || refused.Code != "invalid_grant" || refused.RetryAfter != 7*time.Second {
		t.Errorf("%v", err)
	}
	if _, err := session.Token(t.Context()); !errors.Is(err, device.ErrEnded) || s.refreshes() != 1 {
		t.Errorf("%v after %d refreshes", err, s.refreshes())
	}
}

func TestFilesAreForTheirOwnerAlone(t *testing.T) {
	t.Parallel()
	s := newServer(t)
	d, session := login(t, s)
	dir := filepath.Join(t.TempDir(), "device")
	if err := errors.Join(d.Save(dir), session.Keep(dir)); err != nil {
		t.Fatal(err)
	}
	files, err := os.ReadDir(dir)
	if err != nil || len(files) != 3 {
		t.Fatalf("%v, %v", files, err)
	}
	for _, file := range files {
		if info, err := file.Info(); err != nil || info.Mode().Perm() != 0o600 {
			t.Errorf("%s is %v, %v", file.Name(), info.Mode(), err)
		}
	}
	loaded, err := device.Load(dir)
	if err != nil || loaded.ID() != d.ID() {
		t.Errorf("%v", err)
	}
	if err := session.Revoke(t.Context()); err != nil {
		t.Fatal(err)
	}
	text, err := os.ReadFile(filepath.Join(dir, "session.json"))
	if err != nil || strings.Contains(string(text), "refresh-") {
		t.Errorf("after revoking: %s, %v", text, err)
	}
	if _, err := session.Token(t.Context()); !errors.Is(err, device.ErrEnded) {
		t.Errorf("%v", err)
	}
}

func TestNothingSecretIsPrinted(t *testing.T) {
	t.Parallel()
	s := newServer(t)
	d, session := login(t, s)
	var log strings.Builder
	slog.New(slog.NewTextHandler(&log, nil)).Info("all", "device", d, "session", session, "carried", session.PerRPC())
	inside := struct {
		d *device.Device
		s *device.Session
	}{d, session}
	for _, verb := range []string{"%v", "%+v", "%#v", "%s", "%q", "%x", "%d"} {
		fmt.Fprintf(&log, verb, inside)
		fmt.Fprintf(&log, verb+verb+verb, d, session, session.PerRPC())
		fmt.Fprintf(&log, verb+verb+verb, *d, *session, session.Transport(nil))
	}
	for _, secret := range []string{"access-", "refresh-", "secret-password"} {
		if strings.Contains(log.String(), secret) {
			t.Errorf("%s is printed: %s", secret, log.String())
		}
	}
}

func TestATokenGoesOverTLSOnly(t *testing.T) {
	t.Parallel()
	s := newServer(t)
	_, session := login(t, s)
	if !session.PerRPC().RequireTransportSecurity() {
		t.Error("gRPC would send it without TLS")
	}
	r, err := http.NewRequestWithContext(t.Context(), http.MethodGet, "http://localhost/", http.NoBody)
	if err != nil {
		t.Fatal(err)
	}
	response, err := session.Transport(http.DefaultTransport).RoundTrip(r)
	if err == nil {
		_ = response.Body.Close()
		t.Error("it was sent without TLS")
	}
}
