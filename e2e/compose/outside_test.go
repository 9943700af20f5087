package compose

import (
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/countersign-mesh/countersign/e2e/internal/bank"
)

// promise is how long what should happen at once may take on a busy machine.
const promise = 20 * time.Second

// ports are those that anybody in the containers serves on for others: the mesh on 8443, but for the gateway, which has 9443 for it and customers on
// 8443 and 8444, as login has on 8445.
func ports() []string { return []string{"8443", "8444", "8445", "9443"} }

// addresses returns every address of every container, with each of the ports.
func (p *project) addresses(t *testing.T) []string {
	t.Helper()
	var list []string
	for _, c := range inspect[inspected](t, "container", p.containers(t)...) {
		for _, n := range c.NetworkSettings.Networks {
			if n.IPAddress != "" {
				for _, port := range ports() {
					list = append(list, n.IPAddress+":"+port)
				}
			}
		}
	}
	return sorted(list)
}

// testOutside tries every name and every address of the mesh from Docker's own bridge, from a network of the prober's own, and from the
// network that ports are published from, where nobody but gateway and login should be.
func testOutside(t *testing.T, p *project) {
	probe := buildProbe(t, p)
	targets := p.addresses(t)
	if len(targets) < 25*len(ports()) {
		t.Fatalf("want the addresses of all containers on all their networks, got %v", targets)
	}
	for _, service := range append(bank.Services(), "authority", "operator") {
		for _, port := range ports() {
			targets = append(targets, service+":"+port)
		}
	}
	own := p.name + "-own"
	docker(t, "network", "create", "--label=com.docker.compose.project="+p.name, own)
	defer docker(t, "network", "rm", own)
	public := p.name + "_public"
	met := p.metOutside(t, public)
	for _, network := range []string{"bridge", own, public} {
		lines := p.probe(t, probe, network, targets...)
		for _, line := range lines {
			if network == public && met[line] {
				continue
			}
			if !strings.HasSuffix(line, " no name") && !strings.HasSuffix(line, " no connection") {
				t.Errorf("from the network %s: %s", network, line)
			}
		}
		t.Logf("%d addresses and names tried from the network %s", len(lines), network)
	}
	// The same probe does reach what it may: otherwise it would find everything closed.
	if lines := p.probe(t, probe, p.name+"_ledger", "ledger:8443"); !slices.Equal(lines, []string{"ledger:8443 refused spiffe://bank.test/ledger"}) {
		t.Errorf("from the ledger's network: %v", lines)
	}
}

// metOutside is what is to be met on the network that ports are published from: the gateway, which refuses who has neither identity nor device, and login,
// which has to speak with who has no device yet, and refuses all others in the mesh.
func (p *project) metOutside(t *testing.T, public string) map[string]bool {
	t.Helper()
	met := make(map[string]bool)
	for service, lines := range map[string][]string{
		"gateway": {":8443 refused nobody", ":8444 refused nobody", ":9443 refused spiffe://bank.test/gateway"},
		"login":   {":8443 refused spiffe://bank.test/login", ":8445 let in nobody"},
	} {
		address := inspect[inspected](t, "container", p.container(t, service))[0].NetworkSettings.Networks[public].IPAddress
		for _, line := range lines {
			met[service+line], met[address+line] = true, true
		}
	}
	return met
}

// testNoIdentity puts a container without an identity on the network of the ledger.
func testNoIdentity(t *testing.T, p *project) {
	probe := buildProbe(t, p)
	// Whoever is on it: the ledger, and those who call it and serve there too.
	got := p.probe(t, probe, p.name+"_ledger", "gateway:9443", "gateway:8443", "accounts:8443", "payments:8443", "ledger:8443", "risk:8443",
		"audit:8443", "login:8443")
	want := []string{
		"gateway:9443 refused spiffe://bank.test/gateway", "gateway:8443 refused nobody", "accounts:8443 refused spiffe://bank.test/accounts",
		"payments:8443 refused spiffe://bank.test/payments", "ledger:8443 refused spiffe://bank.test/ledger",
		"risk:8443 no name", "audit:8443 no name", "login:8443 no name",
	}
	if !slices.Equal(got, want) {
		t.Errorf("want\n%s\ngot\n%s", strings.Join(want, "\n"), strings.Join(got, "\n"))
	}
	if out, err := p.stranger(t, []string{"--network=" + p.name + "_ledger"}, "countersign/countersign",
		"call", "ledger:8443", "CheckTrialBalance", "--expect=/ledger", "--timeout=5s"); err == nil {
		t.Errorf("a call without an identity: %s", out)
	}
}

// probe runs the probe on a network and returns its lines.
func (p *project) probe(t *testing.T, probe, network string, targets ...string) []string {
	t.Helper()
	out, err := p.stranger(t, []string{"--network=" + network, "--volume=" + probe + ":/probe:ro", "--entrypoint=/probe"},
		"countersign/countersign", targets...)
	if err != nil {
		t.Fatalf("probe: %v\n%s", err, out)
	}
	return strings.Split(strings.TrimSpace(out), "\n")
}
