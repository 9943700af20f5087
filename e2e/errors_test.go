package e2e

import (
	"fmt"
	"os"
	"path/filepath"
	"regexp"
	"strings"
	"testing"

	"github.com/countersign-mesh/countersign/e2e/internal/bank"
)

// TestBadFlags starts every program with nothing right, and wants to be told all of it at once.
func TestBadFlags(t *testing.T) {
	home := dist.NewHome(t)
	for _, program := range append(bank.Services(), "authority") {
		t.Run(program, func(t *testing.T) {
			wrong := map[string]string{
				"listen":        "nowhere",
				"policy":        home.Path("missing.yaml"),
				"drain-timeout": "soon",
				"log-level":     "loud",
				"ops-listen":    "127.0.0.1",
				"workload-api":  "tcp://localhost:1",
			}
			if program == "authority" {
				wrong = map[string]string{
					"trust-domain": "Bank Test", "entries": home.Path("missing.yaml"), "ops-listen": "127.0.0.1",
					"svid-ttl": "soon", "log-level": "loud",
				}
			}
			if program == "gateway" || program == "login" {
				wrong["edge-listen"], wrong["edge-cert"], wrong["issuer"] = "nowhere", home.Path("missing.pem"), "http://localhost"
			}
			if program == "gateway" {
				wrong["rest-listen"], wrong["customer-rate"] = "nowhere", "often"
			}
			for _, callee := range bank.Calls(program) {
				wrong[callee] = "not a target"
			}
			var args []string
			for flag, value := range wrong {
				args = append(args, "--"+flag+"="+value)
			}
			if program == "authority" {
				args = append(args, "--socket="+home.Path("api.sock"), "--state-dir="+home.Path("state"))
			}
			if program == "risk" {
				args = append(args, "--rules="+home.RiskRules())
			}
			out, code := home.Run(t, nil, program, args...)
			if code == 0 {
				t.Error("exit code 0")
			}
			for flag, value := range wrong {
				if line := lineWith(out, "--"+flag); !strings.Contains(line, value) {
					t.Errorf("nothing is said of --%s=%s:\n%s", flag, value, out)
				}
			}
		})
	}
}

// TestPolicyErrors starts a service with policies that are wrong, and wants to be told where.
func TestPolicyErrors(t *testing.T) {
	home := dist.NewHome(t)
	good, err := os.ReadFile(home.Policy())
	if err != nil {
		t.Fatal(err)
	}
	line := func(part string) int {
		before, _, found := strings.Cut(string(good), part)
		if !found {
			t.Fatalf("not in the policy: %s", part)
		}
		return 1 + strings.Count(before, "\n")
	}
	for _, test := range []struct{ name, before, after, want string }{
		{"an unknown field", "trust_domain: bank.test", "trust_domain: bank.test\nallow_all: true", place(line("trust_domain:") + 1)},
		{"not YAML", "  bank.ledger.v1.LedgerService:", "  bank.ledger.v1.LedgerService: {", `bank\.yaml: yaml: line \d+: `},
		{"a peer that is no SPIFFE ID", "          - peer: /payments\n            why: gives the money", "          - peer: payments\n            why: gives the money", place(line("          - peer: /payments\n            why: gives the money"))},
	} {
		t.Run(test.name, func(t *testing.T) {
			path := filepath.Join(t.TempDir(), "bank.yaml")
			overwrite(t, path, bank.Replace(t, test.before, test.after)(string(good)))
			out, code := home.Run(t, []string{"SPIFFE_ENDPOINT_SOCKET=unix:///nowhere.sock"}, "ledger",
				"--listen=127.0.0.1:0", "--ops-listen=127.0.0.1:0", "--audit=dns:///localhost:1", "--login=dns:///localhost:1", "--dsn=sqlite:"+home.Path("x.db"), "--policy="+path)
			if code == 0 || !regexp.MustCompile(test.want).MatchString(out) {
				t.Errorf("exit code %d, want a failure that matches %s:\n%s", code, test.want, out)
			}
		})
	}
}

// TestWorkloadAPIAway starts what needs an identity where there is no Workload API.
func TestWorkloadAPIAway(t *testing.T) {
	home := dist.NewHome(t)
	socket := home.Path("away.sock")
	for _, test := range []struct {
		name    string
		program string
		args    []string
	}{
		{"a service", "ledger", []string{
			"--listen=127.0.0.1:0", "--ops-listen=127.0.0.1:0", "--audit=dns:///localhost:1", "--login=dns:///localhost:1", "--dsn=sqlite:" + home.Path("x.db"),
			"--policy=" + home.Policy(), "--start-timeout=2s",
		}},
		{"the CLI", "countersign", []string{"svid", "show"}},
	} {
		t.Run(test.name, func(t *testing.T) {
			out, code := home.Run(t, []string{"SPIFFE_ENDPOINT_SOCKET=unix://" + socket}, test.program, test.args...)
			if code == 0 || !strings.Contains(out, socket) || !strings.Contains(out, "countersign up") {
				t.Errorf("exit code %d, want a failure that names %s and what to start:\n%s", code, socket, out)
			}
		})
	}
}

// testUnregistered asks for an SVID as a process that matches no entry.
func testUnregistered(t *testing.T, mesh *bank.Mesh) {
	mesh.Install(t, "countersign", "nobody")
	out, code := mesh.Run(t, []string{"SPIFFE_ENDPOINT_SOCKET=" + mesh.WorkloadAPI}, "nobody", "svid", "show")
	path := mesh.Path("bin", "nobody")
	if code == 0 || !strings.Contains(out, "registration entry") || !strings.Contains(out, path) {
		t.Errorf("exit code %d, want a failure that says that %s has no registration entry:\n%s", code, path, out)
	}
	log := mesh.Log(t, "authority")
	for _, selector := range []string{"unix:path:" + path, "unix:uid:", "unix:sha256:", "spiffe_id: /nobody"} {
		if !strings.Contains(log, selector) {
			t.Errorf("the authority's log does not say of the process: %s", selector)
		}
	}
}

// lineWith returns the first line of text that has part in it.
func lineWith(text, part string) string {
	for line := range strings.Lines(text) {
		if strings.Contains(line, part) {
			return line
		}
	}
	return ""
}

// place matches how an error names a line of the policy and a column in it.
func place(line int) string { return fmt.Sprintf(`bank\.yaml:%d:\d+\b`, line) }
