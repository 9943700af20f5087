package mesh_test

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"

	"github.com/countersign-mesh/countersign/pkg/authz"
	"github.com/countersign-mesh/countersign/pkg/mesh"
	"github.com/countersign-mesh/countersign/pkg/meshtest"
	"github.com/countersign-mesh/countersign/pkg/settings"
	riskv1 "github.com/countersign-mesh/countersign/proto/gen/bank/risk/v1"
)

func writeFile(t *testing.T, name, text string) string {
	t.Helper()
	path := filepath.Join(t.TempDir(), name)
	if err := os.WriteFile(path, []byte(text), 0o600); err != nil {
		t.Fatal(err)
	}
	return path
}

// freePort returns an address that was free a moment ago.
func freePort(t *testing.T) settings.Address {
	t.Helper()
	listener, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer listener.Close()
	return settings.Address(listener.Addr().String())
}

func flags(t *testing.T, m *meshtest.Mesh, path string) mesh.Flags {
	t.Helper()
	return mesh.Flags{
		WorkloadAPI: settings.Endpoint(m.API(t, path).Addr()), StartTimeout: "5s",
		Listen: freePort(t), OpsListen: freePort(t),
		Policy:       settings.File(writeFile(t, "p.yaml", policy)),
		DrainTimeout: "5s", LogLevel: "error", LogFormat: "text",
	}
}

func readyz(addr settings.Address) (code int, body string) {
	response, err := http.Get("http://" + string(addr) + "/readyz")
	if err != nil {
		return 0, err.Error()
	}
	defer response.Body.Close()
	text, err := io.ReadAll(response.Body)
	if err != nil {
		return 0, err.Error()
	}
	return response.StatusCode, string(text)
}

func waitReady(t *testing.T, addr settings.Address) {
	t.Helper()
	defer http.DefaultClient.CloseIdleConnections()
	deadline := time.After(10 * time.Second)
	tick := time.NewTicker(5 * time.Millisecond)
	defer tick.Stop()
	for {
		code, body := readyz(addr)
		if code == http.StatusOK {
			return
		}
		select {
		case <-deadline:
			t.Fatalf("not ready: %d %s", code, body)
		case <-tick.C:
		}
	}
}

func TestRunServesUntilItsContextEnds(t *testing.T) {
	t.Parallel()
	m := meshtest.New(t, "bank.test", policy)
	f := flags(t, m, "/risk")
	ctx, stop := context.WithCancel(context.Background())
	defer stop()
	var order []string
	ran := make(chan error, 1)
	go func() {
		ran <- mesh.Run(ctx, f, func(_ context.Context, p *mesh.Process) error {
			p.Defer(func() error { order = append(order, "closed"); return nil })
			p.Go("worker", func(ctx context.Context) error {
				<-ctx.Done()
				order = append(order, "worked")
				return nil
			})
			server, err := p.NewServer()
			if err != nil {
				return err
			}
			(&risk{}).register(server)
			return nil
		})
	}()
	waitReady(t, f.OpsListen)
	client := riskv1.NewRiskServiceClient(m.Dial(t, "/payments", "/risk", string(f.Listen)))
	if _, err := client.AssessPayment(t.Context(), request()); err != nil {
		t.Error(err)
	}
	stop()
	if err := <-ran; err != nil {
		t.Errorf("Run = %v after a clean stop", err)
	}
	if got := fmt.Sprint(order); got != "[worked closed]" {
		t.Errorf("the process was undone in the order %s", got)
	}
	if _, err := client.AssessPayment(t.Context(), request()); status.Code(err) != codes.Unavailable {
		t.Errorf("after the stop: %v", err)
	}
}

func TestReadyzSaysWhichPolicyIsInForce(t *testing.T) {
	t.Parallel()
	m := meshtest.New(t, "bank.test", policy)
	f := flags(t, m, "/risk")
	ctx, stop := context.WithCancel(context.Background())
	defer stop()
	ran, files := make(chan error, 1), make(chan *authz.File, 1)
	go func() {
		ran <- mesh.Run(ctx, f, func(_ context.Context, p *mesh.Process) error {
			files <- p.Policy
			return nil
		})
	}()
	waitReady(t, f.OpsListen)
	file := <-files
	defer http.DefaultClient.CloseIdleConnections()
	says := func() string {
		t.Helper()
		code, body := readyz(f.OpsListen)
		var results map[string]string
		if err := json.Unmarshal([]byte(body), &results); err != nil || code != http.StatusOK {
			t.Fatalf("%d %s, %v", code, body, err)
		}
		return results["policy"]
	}
	first := file.Policy().Version()
	if got := says(); got != "ok (version "+first+")" {
		t.Errorf("at first: %q", got)
	}
	rewrite(t, string(f.Policy), policy+"secret_of_the_file: 1\n")
	soon(t, "the mistake is seen", func() bool { return file.Status().Failure != nil })
	if got := says(); got != "ok (version "+first+" stays in force: the file as it is now is not usable, see the log)" {
		t.Errorf("with a mistake in the file: %q", got)
	}
	rewrite(t, string(f.Policy), policy+"# another\n")
	soon(t, "another policy is in force", func() bool { return file.Policy().Version() != first })
	if got := says(); got != "ok (version "+file.Policy().Version()+")" {
		t.Errorf("with another policy: %q", got)
	}
	stop()
	if err := <-ran; err != nil {
		t.Error(err)
	}
}

func TestRunFails(t *testing.T) {
	t.Parallel()
	m := meshtest.New(t, "bank.test", policy)
	taken, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = taken.Close() })
	boom := errors.New("boom")
	for name, test := range map[string]struct {
		change func(*mesh.Flags)
		build  func(*mesh.Process) error
		want   string
	}{
		"when its port is taken": {
			func(f *mesh.Flags) { f.Listen = settings.Address(taken.Addr().String()) }, nil, "--listen: listen tcp",
		},
		"when its ops port is taken": {
			func(f *mesh.Flags) { f.OpsListen = settings.Address(taken.Addr().String()) }, nil, "--ops-listen: ops listener: listen tcp",
		},
		"when the policy is wrong": {
			func(f *mesh.Flags) { f.Policy = settings.File(writeFile(t, "bad.yaml", "services: {}\nx: 1\n")) }, nil, "bad.yaml:2:1",
		},
		"when the Workload API is away": {
			func(f *mesh.Flags) { f.WorkloadAPI, f.StartTimeout = "unix:///no/such.sock", "100ms" }, nil, "/no/such.sock",
		},
		"when build fails":        {nil, func(*mesh.Process) error { return boom }, "boom"},
		"when closing fails":      {nil, func(p *mesh.Process) error { p.Defer(func() error { return boom }); return errors.New("first") }, "first\nboom"},
		"when a worker fails":     {nil, func(p *mesh.Process) error { p.Go("clerk", func(context.Context) error { return boom }); return nil }, "clerk: boom"},
		"when it has two servers": {nil, func(p *mesh.Process) error { return second(p.NewServer())(p.NewServer()) }, "NewServer was called twice"},
		"when the policy misfits": {
			func(f *mesh.Flags) {
				f.Policy = settings.File(writeFile(t, "misfit.yaml", strings.Replace(policy, "RiskService", "Riskless", 1)))
			},
			func(p *mesh.Process) error {
				p.Go("eager", func(context.Context) error { return errors.New("a worker began to act") })
				server, err := p.NewServer()
				if err == nil {
					(&risk{}).register(server)
				}
				return err
			},
			"bank.risk.v1.RiskService is served here and has no rules under services$",
		},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			f := flags(t, m, "/risk")
			if test.change != nil {
				test.change(&f)
			}
			ctx, cancel := context.WithTimeout(context.Background(), 20*time.Second)
			defer cancel()
			err := mesh.Run(ctx, f, func(_ context.Context, p *mesh.Process) error {
				if test.build == nil {
					return errors.New("it got as far as build")
				}
				return test.build(p)
			})
			want, atEnd := strings.CutSuffix(test.want, "$")
			if err == nil || !strings.Contains(err.Error(), want) || atEnd && !strings.HasSuffix(err.Error(), want) {
				t.Errorf("Run = %v, want %q", err, test.want)
			}
		})
	}
}

// second drops a first result and returns the error of the next.
func second(*mesh.Server, error) func(*mesh.Server, error) error {
	return func(_ *mesh.Server, err error) error { return err }
}
