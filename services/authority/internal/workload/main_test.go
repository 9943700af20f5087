package workload

import (
	"context"
	"fmt"
	"log/slog"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	workloadv1 "github.com/spiffe/go-spiffe/v2/proto/spiffe/workload"
	"github.com/spiffe/go-spiffe/v2/spiffeid"
	"github.com/spiffe/go-spiffe/v2/workloadapi"
	"go.uber.org/goleak"
	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/credentials/insecure"
	"google.golang.org/grpc/metadata"
	"google.golang.org/grpc/status"

	"github.com/countersign-mesh/countersign/services/authority/internal/ca"
	"github.com/countersign-mesh/countersign/services/authority/internal/registration"
	"github.com/countersign-mesh/countersign/services/authority/internal/socket"
)

// childEnv makes the test binary play a workload.
const childEnv = "WORKLOAD_TEST_CHILD"

func TestMain(m *testing.M) {
	if part := os.Getenv(childEnv); part != "" {
		if err := play(part); err != nil {
			fmt.Fprintln(os.Stdout, "failed:", err)
			os.Exit(1)
		}
		os.Exit(0)
	}
	goleak.VerifyTestMain(m)
}

var bankTD = spiffeid.RequireTrustDomainFromString("bank.test")

// record is where a logger writes and a test reads.
type record struct {
	mu   sync.Mutex
	text strings.Builder
}

func (r *record) Write(p []byte) (int, error) {
	r.mu.Lock()
	defer r.mu.Unlock()
	return r.text.Write(p)
}

func (r *record) String() string {
	r.mu.Lock()
	defer r.mu.Unlock()
	return r.text.String()
}

// clock is a clock that a test can move; it goes on by itself.
type clock struct {
	mu  sync.Mutex
	off time.Duration
}

func (c *clock) Now() time.Time {
	c.mu.Lock()
	defer c.mu.Unlock()
	return time.Now().Add(c.off)
}

func (c *clock) Advance(d time.Duration) {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.off += d
}

// rig is a whole authority on a real socket.
type rig struct {
	t       *testing.T
	clock   *clock
	ca      *ca.CA
	entries *registration.File
	file    string
	server  *Server
	socket  string
	log     *record
	metrics *prometheus.Registry
	stop    func()
}

// self is the path of the program that runs: what a test in this process is attested as.
func self(t testing.TB) string {
	t.Helper()
	path, err := os.Executable()
	if err != nil {
		t.Fatal(err)
	}
	if path, err = filepath.EvalSymlinks(path); err != nil {
		t.Fatal(err)
	}
	return path
}

// entry is an entry in the registration file for a program.
func entry(id, path, more string) string {
	return fmt.Sprintf("  - {spiffe_id: %s, selectors: ['unix:path:%s', 'unix:uid:%d']%s}\n", id, path, os.Getuid(), more)
}

func config() ca.Config {
	return ca.Config{TrustDomain: bankTD, AuthorityTTL: 24 * time.Hour, SVIDTTL: time.Hour, JWTTTL: 5 * time.Minute}
}

// start starts an authority with these entries.
func start(t *testing.T, c ca.Config, entries string) *rig {
	t.Helper()
	dir, err := os.MkdirTemp("/tmp", "workload") //nolint:usetesting // a socket's path must be short
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = os.RemoveAll(dir) })
	r := &rig{t: t, clock: &clock{}, log: &record{}, file: dir + "/entries.yaml", socket: dir + "/api.sock", metrics: prometheus.NewRegistry()}
	log := slog.New(slog.NewTextHandler(r.log, &slog.HandlerOptions{Level: slog.LevelDebug}))
	r.register(entries)
	if r.ca, err = ca.Open(dir+"/state", c, ca.WithClock(r.clock.Now), ca.WithLogger(log)); err != nil {
		t.Fatal(err)
	}
	if r.entries, err = registration.Open(r.file, bankTD, log); err != nil {
		t.Fatal(err)
	}
	if r.server, err = New(r.ca, r.entries, WithLogger(log), WithMetrics(r.metrics)); err != nil {
		t.Fatal(err)
	}
	l, err := socket.Listen(t.Context(), r.socket)
	if err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(context.Background())
	var wg sync.WaitGroup
	for name, run := range map[string]func() error{
		"serve": func() error { return r.server.Serve(l) },
		"watch": func() error { return r.entries.Watch(ctx) },
		"ca":    func() error { return r.ca.Run(ctx) },
	} {
		wg.Go(func() {
			if err := run(); err != nil {
				t.Errorf("%s: %v", name, err)
			}
		})
	}
	r.stop = sync.OnceFunc(func() {
		r.server.Stop(5 * time.Second)
		cancel()
		wg.Wait()
		if err := r.ca.Close(); err != nil {
			t.Error(err)
		}
	})
	t.Cleanup(r.stop)
	return r
}

// register replaces the registration file.
func (r *rig) register(entries string) {
	r.t.Helper()
	if entries == "" {
		entries = entry("/nobody", "/nobody", "")
	}
	if err := os.WriteFile(r.file+".new", []byte("trust_domain: bank.test\nentries:\n"+entries), 0o600); err != nil {
		r.t.Fatal(err)
	}
	if err := os.Rename(r.file+".new", r.file); err != nil {
		r.t.Fatal(err)
	}
}

// registerAndWait replaces the registration file and waits until it is in force.
func (r *rig) registerAndWait(entries string) {
	r.t.Helper()
	changed := r.entries.Changed()
	r.register(entries)
	select {
	case <-changed:
	case <-time.After(10 * time.Second):
		r.t.Fatal("the entries do not come into force")
	}
}

// raw returns a client that does only what it is told: no header, no checks.
func (r *rig) raw() (workloadv1.SpiffeWorkloadAPIClient, *grpc.ClientConn) {
	r.t.Helper()
	conn, err := grpc.NewClient("unix://"+r.socket, grpc.WithTransportCredentials(insecure.NewCredentials()))
	if err != nil {
		r.t.Fatal(err)
	}
	r.t.Cleanup(func() { _ = conn.Close() })
	return workloadv1.NewSpiffeWorkloadAPIClient(conn), conn
}

// client returns go-spiffe's client.
func (r *rig) client() *workloadapi.Client {
	r.t.Helper()
	c, err := workloadapi.New(r.t.Context(), workloadapi.WithAddr("unix://"+r.socket))
	if err != nil {
		r.t.Fatal(err)
	}
	r.t.Cleanup(func() { _ = c.Close() })
	return c
}

// header returns a context with the header that the standard asks for.
func header(t *testing.T) context.Context {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), 30*time.Second)
	t.Cleanup(cancel)
	return metadata.AppendToOutgoingContext(ctx, "workload.spiffe.io", "true")
}

func wantCode(t *testing.T, what string, err error, want codes.Code) {
	t.Helper()
	if got := status.Code(err); got != want {
		t.Errorf("%s: %v (%v), want %s", what, got, err, want)
	}
}

// calls is each method of the Workload API, up to its first message.
func calls(ctx context.Context, c workloadv1.SpiffeWorkloadAPIClient) map[string]func() error {
	return map[string]func() error{
		"FetchX509SVID": func() error {
			return first(c.FetchX509SVID(ctx, &workloadv1.X509SVIDRequest{}))
		},
		"FetchX509Bundles": func() error {
			return first(c.FetchX509Bundles(ctx, &workloadv1.X509BundlesRequest{}))
		},
		"FetchJWTBundles": func() error {
			return first(c.FetchJWTBundles(ctx, &workloadv1.JWTBundlesRequest{}))
		},
		"FetchJWTSVID": func() error {
			_, err := c.FetchJWTSVID(ctx, &workloadv1.JWTSVIDRequest{Audience: []string{"audit"}})
			return err
		},
		"ValidateJWTSVID": func() error {
			_, err := c.ValidateJWTSVID(ctx, &workloadv1.ValidateJWTSVIDRequest{Audience: "audit", Svid: "x"})
			return err
		},
	}
}

func first[T any](stream grpc.ServerStreamingClient[T], err error) error {
	if err != nil {
		return err
	}
	_, err = stream.Recv()
	return err
}
