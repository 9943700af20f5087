package compose

import (
	"os"
	"slices"
	"strings"
	"testing"
	"time"

	ledgerv1 "github.com/countersign-mesh/countersign/proto/gen/bank/ledger/v1"
)

// TestContainersOnSPIRE runs the same images with the same policy on a SPIRE server and agent, under the names of their official images.
func TestContainersOnSPIRE(t *testing.T) {
	command := os.Getenv("COUNTERSIGN_COMPOSE")
	if command == "" || os.Getenv("COUNTERSIGN_SPIRE_IMAGES") == "" {
		t.Skip("SKIP: COUNTERSIGN_COMPOSE and COUNTERSIGN_SPIRE_IMAGES are not both set; right would be: SPIRE_BIN=<the directory with spire-server and spire-agent> make compose-spire-test")
	}
	p := newProject(t, command, "compose.yaml", "compose.spire.yaml")
	p.edit(t, "spire/server.conf", `default_x509_svid_ttl = "2m0s"`, `default_x509_svid_ttl = "40s"`)
	p.up(t)
	for _, test := range []struct {
		name string
		run  func(*testing.T, *project)
	}{
		{"SPIRE's containers are closed too, and the agent alone has Docker's socket", testSPIREHardening},
		{"the demo plays in the operator's container", testDemo},
		{"stock grpcurl verifies the gateway at the published port", testGrpcurl},
		{"who has a label is whom the label is for, whatever the image", testLabels},
		{"no payment is lost while agent and server are killed", testSPIREFaults},
		{"down and up again, twice, it is the same trust domain and the same bank", testSPIREAgain},
	} {
		if !t.Run(test.name, func(t *testing.T) { test.run(t, p) }) {
			return
		}
	}
}

// testSPIREHardening wants of every container what it has without SPIRE, but for what SPIRE's own cannot do without.
func testSPIREHardening(t *testing.T, p *project) {
	const dockerSocket = "/var/run/docker.sock"
	all := inspect[inspected](t, "container", p.containers(t)...)
	seen := make(map[string]bool)
	for _, c := range all {
		service := c.Config.Labels["com.docker.compose.service"]
		seen[service] = true
		h := c.HostConfig
		if !h.ReadonlyRootfs || h.Privileged || !slices.Equal(h.CapDrop, []string{"ALL"}) || len(h.CapAdd) > 0 || h.Memory == 0 || h.MemorySwap != h.Memory ||
			h.PidsLimit == nil || *h.PidsLimit == 0 || !slices.Contains(h.SecurityOpt, "no-new-privileges:true") {
			t.Errorf("%s is not closed: %+v", service, h)
		}
		user, namespace := "65532:65532", "private"
		switch service {
		case "spire-agent":
			user, namespace = "0:0", "host"
		case "spire-prepare":
			user = "0:0"
		case "spire-server":
			user = "1000:1000"
		}
		if c.Config.User != user || h.CgroupnsMode != namespace || h.IpcMode != "none" || len(h.Devices)+len(h.VolumesFrom)+len(h.ExtraHosts) > 0 {
			t.Errorf("%s is of user %s, in the control groups of %q: %+v", service, c.Config.User, h.CgroupnsMode, h)
		}
		if added := len(h.GroupAdd) > 0; added != (service == "spire-register") {
			t.Errorf("%s has the groups %v added", service, h.GroupAdd)
		}
		agent := service == "spire-agent"
		if pid := h.PidMode; (pid == "host") != agent || pid != "" && pid != "host" {
			t.Errorf("%s sees the processes of %q", service, pid)
		}
		if has := slices.ContainsFunc(p.mounts(c), func(m string) bool { return strings.Contains(m, dockerSocket) }); has != agent {
			t.Errorf("%s has Docker's socket: %t", service, has)
		}
		if len(c.ports()) > 0 && service != "gateway" && service != "login" {
			t.Errorf("%s has a published port: %v", service, c.ports())
		}
		if want, ours := promises()[service]; ours {
			p.reachesTheSame(t, c, service, want)
		}
		api := slices.ContainsFunc(p.mounts(c), func(m string) bool { return strings.HasPrefix(m, "spire-server-api ") })
		if want := service == "spire-server" || service == "spire-register"; api != want {
			t.Errorf("%s has the socket of the server's API: %t", service, api)
		}
		if networks := p.networks(c); strings.HasPrefix(service, "spire-") != (slices.Equal(networks, []string{"spire"}) || slices.Equal(networks, []string{"none"})) &&
			!oneshot(service) {
			t.Errorf("%s is on the networks %v", service, networks)
		}
	}
	for service := range promises() {
		if !seen[service] && service != "authority" {
			t.Errorf("there is no container of %s", service)
		}
	}
	for _, service := range []string{"spire-prepare", "spire-server", "spire-register", "spire-agent"} {
		if !seen[service] {
			t.Errorf("there is no container of %s", service)
		}
	}
	if seen["authority"] {
		t.Error("the embedded authority is there too")
	}
}

// reachesTheSame wants the networks and the mounts that a container has without SPIRE: the agent's socket is in the place of its own.
func (p *project) reachesTheSame(t *testing.T, c inspected, service string, want promised) {
	t.Helper()
	if got := p.networks(c); !slices.Equal(got, sorted(want.networks)) {
		t.Errorf("%s is on the networks %v, want %v", service, got, sorted(want.networks))
	}
	mounts := slices.Clone(want.mounts)
	for i, mount := range mounts {
		if mount == "socket-"+service+" /run/spiffe ro" {
			mounts[i] = "spire-workload-api /run/spiffe ro"
		}
	}
	if got := p.mounts(c); !slices.Equal(got, sorted(mounts)) {
		t.Errorf("%s has mounted %v, want %v", service, got, sorted(mounts))
	}
}

// testLabels runs containers of another image under labels, and without: Docker says which label a container has, and nothing in it does.
func testLabels(t *testing.T, p *project) {
	socket := "--volume=" + p.name + "_spire-workload-api:/run/spiffe:ro"
	for _, name := range []string{"ledger", "risk", "operator"} {
		out, err := p.stranger(t, []string{socket, "--hostname=payments", "--label=countersign.workload=" + name}, "countersign/countersign", "svid", "show")
		if err != nil || !strings.Contains(out, "spiffe://bank.test/"+name+"\n") || strings.Count(out, "spiffe://") != 1 {
			t.Errorf("with the label of %s: %v\n%s", name, err, out)
		}
	}
	for _, options := range [][]string{{socket}, {socket, "--label=countersign.workload=nobody"}, {socket, "--env=countersign.workload=ledger", "--name=" + p.name + "-ledger"}} {
		out, err := p.stranger(t, options, "countersign/countersign", "svid", "show")
		if err == nil || !strings.Contains(out, "no identity issued") {
			t.Errorf("with %v: %v\n%s", options, err, out)
		}
	}
}

// testSPIREFaults kills agent and server in turn under load. Everybody has the SVIDs that they have, so no call fails.
func testSPIREFaults(t *testing.T, p *project) {
	before := &ledgerv1.CheckTrialBalanceResponse{}
	if err := p.call(t.Context(), "ledger", "CheckTrialBalance", &ledgerv1.CheckTrialBalanceRequest{}, before); err != nil {
		t.Fatal(err)
	}
	l := newLoad(t, p)
	l.goesOn(t)
	for _, service := range []string{"spire-agent", "spire-server"} {
		id := p.container(t, service)
		docker(t, "kill", id)
		away := time.Now()
		l.goesOn(t)
		pause(t, 3*time.Second)
		docker(t, "start", id)
		p.healthy(t, id)
		t.Logf("%s was away and is healthy again after %v", service, time.Since(away).Round(100*time.Millisecond))
		// Long enough for every SVID to be renewed by what came back: they live 40 s.
		pause(t, 30*time.Second)
		l.goesOn(t)
	}
	l.end()
	l.sound(t)
	if _, failed := l.count(); failed > 0 {
		t.Errorf("%d attempts have failed:\n%s", failed, strings.Join(l.failed, "\n"))
	}
	testBooks(t, p, l, before.GetTransferCount())
	p.run(t, "start", "ledger") // which testBooks has stopped
	p.healthy(t, p.container(t, "ledger"))
}

// testSPIREAgain takes all containers away and makes them anew: what was prepared and registered once is used again.
func testSPIREAgain(t *testing.T, p *project) {
	authority := func() string {
		t.Helper()
		out := p.run(t, "exec", "--no-TTY", "operator", "countersign", "peers", "ledger")
		lines := strings.Split(strings.TrimSpace(out), "\n")
		fields := strings.Fields(lines[len(lines)-1])
		return fields[len(fields)-1]
	}
	was := authority()
	for range 2 {
		p.run(t, everyProfile, "down", "--timeout=20")
		p.up(t)
		if now := authority(); now != was {
			t.Errorf("the authority is %s, and was %s before", now, was)
		}
		testCall(t, p)
	}
	out := p.run(t, "logs", "--no-log-prefix", "spire-register")
	if !strings.Contains(out, "0 entries created, 0 updated, 0 removed, 11 as they were") {
		t.Errorf("the entries are registered once more:\n%s", out)
	}
}
