package main

import (
	"bytes"
	"context"
	"fmt"
	"log/slog"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"

	"github.com/countersign-mesh/countersign/cmd/countersign/internal/console"
	"github.com/countersign-mesh/countersign/pkg/meshtest"
)

// meshFile writes the bank as a mesh file, so that nothing that is in its run directory is needed.
func (b *bank) meshFile(t *testing.T, more string) string {
	t.Helper()
	text := fmt.Sprintf("trust_domain: bank.test\nworkload_api: %s\npolicy: %s\n%sservices:\n", b.record.WorkloadAPI, b.policy, more)
	for _, program := range b.record.Programs {
		if program.Address != "" {
			text += fmt.Sprintf("  %s: %s\n", program.Name, program.Address)
		}
	}
	path := filepath.Join(t.TempDir(), "mesh.yaml")
	if err := os.WriteFile(path, []byte(text), 0o600); err != nil {
		t.Fatal(err)
	}
	return path
}

func TestCommandsWorkOnAMeshThatUpDidNotStart(t *testing.T) {
	t.Parallel()
	b, _ := newAudit(t, trailOf(4))
	b.add(t, "ledger", b.serve(t, "ledger", true))
	b.add(t, "risk", b.serve(t, "risk", true))
	file := b.meshFile(t, "")
	for name, test := range map[string]struct {
		args []string
		want string
	}{
		"call":    {[]string{"call", "ledger", "grpc.health.v1.Health/Check"}, "SERVING"},
		"peers":   {[]string{"peers", "ledger"}, "spiffe://bank.test/operator"},
		"audit":   {[]string{"audit", "query"}, "POSITION"},
		"explain": {[]string{"policy", "explain", "--peer=/risk", "--method=PostTransfer", "--server=ledger"}, "The file and 1 server agree."},
		"check":   {[]string{"policy", "check"}, b.policy + " is good"},
		"learn":   {[]string{"policy", "learn"}, "RULE"},
		"svid":    {[]string{"svid", "show"}, "spiffe://bank.test/operator"},
		"health":  {[]string{"healthcheck"}, "spiffe://bank.test/operator\n"},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			out, err := countersign(t, append([]string{"--mesh", file}, test.args...)...)
			if err != nil || !strings.Contains(out, test.want) {
				t.Errorf("got %q, %v; want %q", out, err, test.want)
			}
		})
	}
}

func TestARevocationReachesTheServicesOfAMeshFile(t *testing.T) {
	t.Parallel()
	b := newBank(t, "ledger", "payments")
	file := b.meshFile(t, "")
	out, err := countersign(t, "--mesh", file, "revoke", "--id=/risk")
	if err != nil || !strings.Contains(out, "In force at 2 of 2 services") || !strings.Contains(b.text(t), "- id: /risk") {
		t.Errorf("%v:\n%s", err, out)
	}
	next := bankPolicyWith(t, func(text string) string { return text + "# another\nrevoked: [{id: /risk, why: test}]\n" })
	out, err = countersign(t, "--mesh", file, "policy", "apply", next, "--yes", "--no-watch")
	if err != nil || !strings.Contains(b.text(t), "# another") {
		t.Errorf("%v:\n%s", err, out)
	}
	other := bankPolicyWith(t, func(text string) string { return text })
	if out, err = countersign(t, "--mesh", file, "revoke", "--id=/risk", "--policy", other); err != nil || !strings.Contains(out, "the mesh of "+file+" reads another file, "+b.policy) {
		t.Errorf("another file: %v:\n%s", err, out)
	}
}

func TestStatusOfAMeshFileAsksItsServices(t *testing.T) {
	t.Parallel()
	b := newBank(t, "ledger")
	out, err := countersign(t, "--mesh", b.meshFile(t, ""), "status")
	if err != nil || !slices.ContainsFunc(fields(out), func(line string) bool {
		return strings.HasPrefix(line, "ledger ready spiffe://bank.test/ledger "+b.address(t, "ledger"))
	}) {
		t.Errorf("%v:\n%s", err, out)
	}
	b.add(t, "payments", b.address(t, "ledger")) // who answers there is another
	b.add(t, "risk", "127.0.0.1:1")
	out, err = countersign(t, "--mesh", b.meshFile(t, ""), "status")
	if err == nil || err.Error() != "1 of 3 services are ready" || !strings.Contains(out, "\npayments: handshake with spiffe://bank.test/payments") || !strings.Contains(out, "\nrisk: ") {
		t.Errorf("%v:\n%s", err, out)
	}
}

func TestUpAndDownAreAboutTheRunDirectory(t *testing.T) {
	t.Parallel()
	for _, command := range []string{"up", "down"} {
		if _, err := countersign(t, "--mesh", "mesh.yaml", command); exitCode(err) != codeUsage || !strings.Contains(err.Error(), "names another, mesh.yaml; leave it out") {
			t.Errorf("%s: %v", command, err)
		}
	}
}

func TestAMeshFileThatLeavesThingsOutSaysWhatIsMissing(t *testing.T) {
	t.Parallel()
	bare := filepath.Join(t.TempDir(), "mesh.yaml")
	if err := os.WriteFile(bare, []byte("trust_domain: bank.test\nservices: {ledger: 'ledger:8443'}\n"), 0o600); err != nil {
		t.Fatal(err)
	}
	acted := filepath.Join(t.TempDir(), "mesh.yaml")
	if err := os.WriteFile(acted, []byte(readFile(t, bare)+"actors: actors\n"), 0o600); err != nil {
		t.Fatal(err)
	}
	for name, test := range map[string]struct {
		args []string
		want []string
	}{
		"no policy file":   {[]string{"--mesh", bare, "revoke", "--id=/risk"}, []string{"Say it with --policy", "mesh.yaml says no policy"}},
		"none to check":    {[]string{"--mesh", bare, "policy", "check"}, []string{"Say it with --policy", "mesh.yaml says no policy"}},
		"no Workload API":  {[]string{"--mesh", bare, "svid", "show"}, []string{"SPIFFE_ENDPOINT_SOCKET", "mesh.yaml says no workload_api"}},
		"no actors":        {[]string{"--mesh", bare, "demo", "--socket=unix:///x"}, []string{"mesh.yaml says no actors"}},
		"nothing for demo": {[]string{"--mesh", acted, "demo", "--socket=unix:///x"}, []string{"mesh.yaml says no policy", "--rotation-wait"}},
		"nobody to call":   {[]string{"act", "--listen=/x/act.sock", "localhost:1"}, []string{"who must answer at localhost:1?"}},
		"no mesh at all":   {[]string{"demo"}, []string{"countersign up; or say with --mesh"}},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			_, err := countersign(t, test.args...)
			for _, want := range test.want {
				if err == nil || !strings.Contains(err.Error(), want) {
					t.Errorf("the error lacks %q: %v", want, err)
				}
			}
		})
	}
}

func TestHealthcheckFailsWithoutAnIdentity(t *testing.T) {
	t.Parallel()
	api := meshtest.NewWorkloadAPI(t)
	api.Fail(status.Error(codes.PermissionDenied, "no identity issued"))
	begin := time.Now()
	_, err := countersign(t, "healthcheck", "--timeout=200ms", "--socket", api.Addr())
	if err == nil || exitCode(err) != 1 || !strings.Contains(err.Error(), "no identity issued") {
		t.Errorf("the error is %v", err)
	}
	if took := time.Since(begin); took > 2*time.Second {
		t.Errorf("it took %v", took)
	}
}

func TestSVIDWatchShowsEachSVIDOnce(t *testing.T) {
	t.Parallel()
	b := newBank(t)
	ctx, interrupt := context.WithTimeout(t.Context(), time.Minute)
	defer interrupt()
	lines, ended := make(chan string, 100), make(chan error, 1)
	command := svidWatchCommand{workload{Socket: b.API(t, "/operator").Addr()}}
	go func() {
		ended <- command.Run(ctx, &session{out: console.New(sends(lines), nil), err: console.New(&bytes.Buffer{}, nil), log: slog.New(slog.DiscardHandler)})
	}()
	next := func() string {
		select {
		case line := <-lines:
			return line
		case err := <-ended:
			t.Fatalf("it has ended: %v", err)
			return ""
		}
	}
	first := next()
	b.Federate(t, "other.test") // another bundle, the same SVID
	b.Rotate(t, "/operator")
	second := next()
	if first == second || !strings.Contains(first, "spiffe://bank.test/operator  serial ") || !strings.Contains(second, "until ") {
		t.Errorf("it shows\n%s%s", first, second)
	}
	interrupt()
	if err := <-ended; err != nil {
		t.Error(err)
	}
}

// sends passes on each thing that is written.
type sends chan<- string

func (s sends) Write(p []byte) (int, error) {
	s <- string(p)
	return len(p), nil
}
