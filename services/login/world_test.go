package main

import (
	"bytes"
	"context"
	"crypto/tls"
	"crypto/x509"
	"encoding/json"
	"io"
	"log/slog"
	"net"
	"net/http"
	"net/url"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/pquerna/otp/totp"
	"github.com/prometheus/client_golang/prometheus"
	"go.uber.org/goleak"
	"google.golang.org/grpc"

	"github.com/countersign-mesh/countersign/pkg/database/databasetest"
	"github.com/countersign-mesh/countersign/pkg/meshtest"
	"github.com/countersign-mesh/countersign/pkg/userauth/device"
	"github.com/countersign-mesh/countersign/pkg/userauth/userauthtest"
	loginv1 "github.com/countersign-mesh/countersign/proto/gen/bank/login/v1"
	"github.com/countersign-mesh/countersign/services/login/internal/store"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(databasetest.Main{M: m}) }

const (
	testIssuer   = "https://login.bank.test"
	testAudience = "https://bank.test/mobile"
	testPassword = "correct horse battery staple"
	policy       = `
trust_domain: bank.test
services:
  bank.login.v1.CustomerService:
    served_by: [/login]
    methods:
      RegisterCustomer: {allow: [{peer: /operator, why: sees the person}]}
      ListDevices: {allow: [{peer: /operator, why: sees the person}]}
      RevokeDevice: {allow: [{peer: /operator, why: is called when one is lost}]}
  bank.login.v1.KeyService:
    served_by: [/login]
    methods:
      GetEdgeKeys: {allow: [{peer: /gateway, why: verifies customers}]}
      GetTransactionKeys: {allow: [{peer: /payments, why: acts for customers}]}
      WatchRevocations: {allow: [{peer: /gateway, why: cuts devices}]}
  bank.login.v1.TransactionTokenService:
    served_by: [/login]
    methods:
      IssueTransactionToken: {allow: [{peer: /gateway, why: has seen the customer}]}
      RenewTransactionToken: {allow: [{peer: /payments, why: takes longer at times}]}
`
)

// clock is the time of a test.
type clock struct {
	mu  sync.Mutex
	now time.Time
}

func (c *clock) Now() time.Time { c.mu.Lock(); defer c.mu.Unlock(); return c.now }
func (c *clock) Add(d time.Duration) {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.now = c.now.Add(d)
}

// lines is a log that can be read while it is written.
type lines struct {
	mu   sync.Mutex
	text bytes.Buffer
}

func (l *lines) Write(p []byte) (int, error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.text.Write(p)
}
func (l *lines) String() string { l.mu.Lock(); defer l.mu.Unlock(); return l.text.String() }

// world is the authorization server behind its real listeners.
type world struct {
	clock  *clock
	login  *login
	server device.Server
	mesh   *meshtest.Mesh
	addr   string // the mesh's side
	log    *lines
	secret string // alice's, of her one-time codes
}

func newWorld(t *testing.T, dsn string) *world {
	t.Helper()
	w := &world{clock: &clock{now: time.Now()}, mesh: meshtest.New(t, "bank.test", policy), log: &lines{}}
	w.start(t, dsn)
	response, err := w.customers(t).RegisterCustomer(t.Context(), &loginv1.RegisterCustomerRequest{CustomerId: "alice", Username: "alice", Password: testPassword})
	if err != nil {
		t.Fatal(err)
	}
	w.secret = response.GetOtpSecret()
	return w
}

// start starts a process on a database; another one of the same world shares its mesh, its clock and its log.
func (w *world) start(t *testing.T, dsn string) {
	t.Helper()
	kept, err := store.Open(t.Context(), dsn)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = kept.Close() })
	log := slog.New(slog.NewTextHandler(w.log, &slog.HandlerOptions{Level: slog.LevelDebug}))
	names := names{issuer: testIssuer, audience: testAudience, trustDomain: "bank.test"}
	if w.login, err = newLogin(t.Context(), kept, names, prometheus.NewRegistry(), log, w.clock.Now); err != nil {
		t.Fatal(err)
	}
	ctx, stop := context.WithCancel(context.Background())
	var running sync.WaitGroup
	t.Cleanup(func() { stop(); running.Wait() })
	for _, run := range w.login.workers() {
		running.Go(func() { _ = run(ctx) })
	}
	listener, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	authority := userauthtest.NewAuthority(t)
	own := authority.Server(t, func(c *x509.Certificate) { c.DNSNames = []string{"login.bank.test"} })
	cert := func() (*tls.Certificate, error) { return &own, nil }
	this := w.login
	running.Go(func() {
		if err := this.serveEdge(ctx, listener, cert); err != nil {
			t.Error(err)
		}
	})
	w.server = device.Server{Issuer: testIssuer, Roots: authority.Pool(), Address: listener.Addr().String()}
	w.addr = w.mesh.Serve(t, "/login", func(r grpc.ServiceRegistrar) { w.login.register(r) })
}

func (w *world) customers(t *testing.T) loginv1.CustomerServiceClient {
	t.Helper()
	return loginv1.NewCustomerServiceClient(w.mesh.Dial(t, "/operator", "/login", w.addr))
}

func (w *world) gateway(t *testing.T) grpc.ClientConnInterface {
	t.Helper()
	return w.mesh.Dial(t, "/gateway", "/login", w.addr)
}

// otp returns a one-time code that was not returned before. Time goes on for that.
func (w *world) otp(t *testing.T) string {
	t.Helper()
	w.clock.Add(30 * time.Second)
	code, err := totp.GenerateCode(w.secret, w.clock.Now())
	if err != nil {
		t.Fatal(err)
	}
	return code
}

func (w *world) enrol(t *testing.T) *device.Device {
	t.Helper()
	d, err := device.Enrol(t.Context(), w.server, "alice", testPassword, w.otp(t), "phone")
	if err != nil {
		t.Fatal(err)
	}
	return d
}

// answer is one of the edge.
type answer struct {
	status int
	header http.Header
	body   map[string]any
	raw    string
}

func (a answer) code() string { c, _ := a.body["error"].(string); return c }
func (a answer) get(name string) string {
	text, _ := a.body[name].(string)
	return text
}

// send sends a request as a device, or as nobody.
func (w *world) send(t *testing.T, d *device.Device, r *http.Request) answer {
	t.Helper()
	config := &tls.Config{RootCAs: w.server.Roots, ServerName: "login.bank.test", MinVersion: tls.VersionTLS13}
	if d != nil {
		config = d.TLS(w.server.Roots, "login.bank.test")
	}
	transport := &http.Transport{TLSClientConfig: config, DialContext: func(ctx context.Context, network, _ string) (net.Conn, error) {
		return (&net.Dialer{}).DialContext(ctx, network, w.server.Address)
	}}
	defer transport.CloseIdleConnections()
	response, err := (&http.Client{Transport: transport}).Do(r)
	if err != nil {
		t.Error(err)
		return answer{}
	}
	defer response.Body.Close()
	text, err := io.ReadAll(response.Body)
	if err != nil {
		t.Error(err)
	}
	a := answer{status: response.StatusCode, header: response.Header, raw: string(text)}
	_ = json.Unmarshal(text, &a.body)
	return a
}

func (w *world) post(t *testing.T, d *device.Device, path string, form url.Values, header ...string) answer {
	t.Helper()
	r, err := http.NewRequestWithContext(context.Background(), http.MethodPost, testIssuer+path, strings.NewReader(form.Encode()))
	if err != nil {
		t.Fatal(err)
	}
	r.Header.Set("Content-Type", "application/x-www-form-urlencoded")
	for i := 0; i+1 < len(header); i += 2 {
		r.Header.Add(header[i], header[i+1])
	}
	return w.send(t, d, r)
}
