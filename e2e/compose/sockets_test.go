package compose

import (
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"github.com/countersign-mesh/countersign/e2e/internal/bank"
)

// stranger runs a container that Compose does not know, closed like its others, to its end, and returns what it said. It is on no network
// unless the options say one.
func (p *project) stranger(t *testing.T, options []string, image string, args ...string) (string, error) {
	t.Helper()
	run := []string{
		"run", "--rm", "--pull=never", "--read-only", "--cap-drop=ALL", "--security-opt=no-new-privileges",
		"--label=com.docker.compose.project=" + p.name, "--env=SPIFFE_ENDPOINT_SOCKET=unix:///run/spiffe/api.sock",
	}
	if !slices.ContainsFunc(options, func(o string) bool { return strings.HasPrefix(o, "--network") }) {
		run = append(run, "--network=none")
	}
	return try(t.Context(), nil, "docker", slices.Concat(run, options, []string{image}, args)...)
}

// socket is the option that gives a container the socket of an identity.
func (p *project) socket(name string) string {
	return "--volume=" + p.name + "_socket-" + name + ":/run/spiffe:ro"
}

// testSockets gives containers each other's sockets. The socket decides, and nothing else: not the image, the user, the name or a label.
func testSockets(t *testing.T, p *project) {
	for _, name := range append(bank.Services(), "operator") {
		out, err := p.stranger(t, []string{
			p.socket(name), "--name=" + p.name + "-stranger", "--hostname=authority",
			"--label=countersign.workload=operator",
		}, "countersign/countersign", "svid", "show")
		if err != nil || !strings.Contains(out, "spiffe://bank.test/"+name+"\n") || strings.Count(out, "spiffe://") != 1 {
			t.Errorf("with the socket of %s: %v\n%s", name, err, out)
		}
	}
	for _, user := range []string{"65531:65531", "1000:1000"} {
		out, err := p.stranger(t, []string{p.socket("risk"), "--user=" + user}, "countersign/countersign", "svid", "show")
		if err != nil || !strings.Contains(out, "spiffe://bank.test/risk\n") {
			t.Errorf("with the socket of risk as user %s: %v\n%s", user, err, out)
		}
	}
	if out, err := p.stranger(t, nil, "countersign/countersign", "healthcheck"); exitCode(err) != 1 || strings.Contains(out, "spiffe://bank.test/") {
		t.Errorf("without a socket: want exit code 1 and no identity, got %v\n%s", err, out)
	}
	// A socket cannot be put in another's place, and none can be added.
	probe := buildProbe(t, p)
	out, err := p.stranger(t, []string{p.socket("risk"), "--volume=" + probe + ":/probe:ro", "--entrypoint=/probe"},
		"countersign/countersign", "-touch", "/run/spiffe/other.sock")
	if err != nil || !strings.Contains(out, "read-only file system") {
		t.Errorf("write beside the socket: %v\n%s", err, out)
	}
	testLedgerAsAccounts(t, p, probe)
}

// testLedgerAsAccounts starts the ledger's own image, under the ledger's name, on the ledger's network, with the socket of accounts: of a service that may
// call all whom the ledger calls, since it would else not even start.
func testLedgerAsAccounts(t *testing.T, p *project, probe string) {
	t.Helper()
	id := docker(t, "run", "--detach", "--pull=never", "--label=com.docker.compose.project="+p.name, "--network="+p.name+"_ledger",
		"--network-alias=imposter", p.socket("accounts"), "--volume="+p.name+"_policy:/policy:ro", "--tmpfs=/data:uid=65532",
		"--env=SPIFFE_ENDPOINT_SOCKET=unix:///run/spiffe/api.sock", "--env=LEDGER_LISTEN=0.0.0.0:8443", "--env=LEDGER_POLICY=/policy/bank.yaml",
		"--env=LEDGER_AUDIT=dns:///audit:8443", "--env=LEDGER_LOGIN=dns:///login:8443", "countersign/ledger")
	defer docker(t, "rm", "--force", id)
	bank.Eventually(t, promise, func() string {
		out, err := p.stranger(t, []string{"--network=" + p.name + "_ledger", "--volume=" + probe + ":/probe:ro", "--entrypoint=/probe"},
			"countersign/countersign", "imposter:8443")
		if err != nil || strings.TrimSpace(out) != "imposter:8443 refused spiffe://bank.test/accounts" {
			return out + docker(t, "logs", id)
		}
		return ""
	})
	// Whoever means the ledger and meets it is not taken in.
	out, err := p.try(t.Context(), "exec", "--no-TTY", "operator", "countersign", "call", "imposter:8443", "CheckTrialBalance", "--expect=/ledger")
	if err == nil || !strings.Contains(out, "spiffe://bank.test/accounts") {
		t.Errorf("the operator takes accounts for the ledger: %v\n%s", err, out)
	}
}

// buildProbe builds the probe as a static binary for the containers.
func buildProbe(t *testing.T, p *project) string {
	t.Helper()
	probe := filepath.Join(t.TempDir(), "probe")
	arch := docker(t, "version", "--format={{.Server.Arch}}")
	out, err := try(t.Context(), []string{"CGO_ENABLED=0", "GOOS=linux", "GOARCH=" + arch}, "go", "-C", filepath.Join(p.source, "e2e"), "build",
		"-buildvcs=false", "-o", probe, "./compose/probe")
	if err != nil {
		t.Fatalf("build the probe: %v\n%s", err, out)
	}
	return probe
}
