package compose

import (
	"fmt"
	"testing"
)

// promised is what differs between the containers. All else is the same for each.
type promised struct {
	image    string
	networks []string
	// mounts are "source destination", "bind:" before a directory of this machine's deploy/, and " ro" after what cannot be written.
	mounts []string
	// ports are those of the container that are published.
	ports []string
}

// oneshot are the containers that do one thing and end.
func oneshot(service string) bool { return service == "policy" || service == "edge" }

func promises() map[string]promised {
	server := func(name string, networks []string, more ...string) promised {
		mounts := append([]string{"socket-" + name + " /run/spiffe ro", "policy /policy ro"}, more...)
		return promised{image: name, networks: networks, mounts: mounts}
	}
	actor := func(name string, networks ...string) promised {
		return promised{image: "countersign", networks: networks, mounts: []string{"socket-" + name + " /run/spiffe ro", "actors-" + name + " /run/actors/" + name}}
	}
	authority := promised{image: "authority", networks: []string{"none"}, mounts: []string{"authority-data /data", "bind:registration /deploy/registration ro"}}
	for _, name := range []string{
		"gateway", "accounts", "payments", "ledger", "risk", "audit", "login", "operator", "burglar", "accounts-burglar", "gateway-burglar",
	} {
		authority.mounts = append(authority.mounts, "socket-"+name+" /run/countersign/sockets/"+name)
	}
	gateway := server("gateway", []string{"public", "gateway", "accounts", "payments", "ledger", "login", "gateway-audit"}, "edge /edge ro")
	gateway.ports = []string{"8443", "8444"}
	login := server("login", []string{"public", "login", "ledger-login", "login-audit"}, "login-data /data", "edge /edge ro")
	login.ports = []string{"8445"}
	return map[string]promised{
		"authority": authority,
		"policy":    {image: "countersign", networks: []string{"none"}, mounts: []string{"policy /policy", "bind:policy /deploy/policy ro"}},
		"edge":      {image: "countersign", networks: []string{"none"}, mounts: []string{"edge /edge", "edge-root /edge-root"}},
		"gateway":   gateway,
		"login":     login,
		"accounts":  server("accounts", []string{"accounts", "ledger", "login", "accounts-audit"}, "accounts-data /data"),
		"payments":  server("payments", []string{"payments", "accounts", "risk", "ledger", "login", "payments-audit"}, "payments-data /data"),
		"ledger":    server("ledger", []string{"ledger", "ledger-login", "ledger-audit"}, "ledger-data /data"),
		"risk":      server("risk", []string{"risk", "risk-audit"}, "risk-data /data", "bind:risk /deploy/risk ro"),
		"audit": server("audit", []string{"gateway-audit", "accounts-audit", "payments-audit", "ledger-audit", "risk-audit", "login-audit", "operator-audit"},
			"audit-data /data"),
		"operator": {image: "countersign", networks: []string{"gateway", "accounts", "payments", "ledger", "risk", "login", "operator-audit"}, mounts: []string{
			"socket-operator /run/spiffe ro", "policy /policy", "bind: /deploy ro", "edge-root /edge-root ro",
			"actors-burglar /run/actors/burglar", "actors-accounts-burglar /run/actors/accounts-burglar", "actors-gateway-burglar /run/actors/gateway-burglar",
		}},
		"burglar":          actor("burglar", "ledger"),
		"accounts-burglar": actor("accounts-burglar", "accounts", "ledger"),
		"gateway-burglar":  actor("gateway-burglar", "login", "payments"),
	}
}

// testHardening wants of every container all that compose.yaml promises, and no container that it does not name.
func testHardening(t *testing.T, p *project) {
	all := inspect[inspected](t, "container", p.containers(t)...)
	seen := make(map[string]bool)
	for _, c := range all {
		service := c.Config.Labels["com.docker.compose.service"]
		want, ok := promises()[service]
		if !ok || seen[service] {
			t.Errorf("%s: there is no such container, or it is there twice", c.Name)
			continue
		}
		seen[service] = true
		for property, wrong := range p.wrong(c, service, want) {
			t.Errorf("%s: %s: %s", service, property, wrong)
		}
	}
	for service := range promises() {
		if !seen[service] {
			t.Errorf("%s has no container", service)
		}
	}
	t.Logf("%d containers, %d properties each", len(all), len(p.wrong(inspected{}, "", promised{})))
	p.testNetworks(t)
	p.testNeighbours(t, all)
	p.testVolumes(t)
}

// wrong returns the properties that are not as promised, each with what it is. The zero container has every one of them wrong.
func (p *project) wrong(c inspected, service string, want promised) map[string]string {
	h, user, restart := c.HostConfig, "65532:65532", "unless-stopped"
	if service == "authority" {
		user = "65531:65531"
	}
	if oneshot(service) {
		restart = "no"
	}
	wrong := make(map[string]string)
	check := func(property string, got, want any) {
		if fmt.Sprint(got) != fmt.Sprint(want) || c.ID == "" {
			wrong[property] = fmt.Sprintf("want %v, got %v", want, got)
		}
	}
	check("state", c.state(), map[bool]string{true: "exited 0", false: "running healthy"}[oneshot(service)])
	check("image", c.Config.Image, "countersign/"+want.image+":latest")
	check("user", c.Config.User, user)
	check("read-only root", h.ReadonlyRootfs, true)
	check("privileged", h.Privileged, false)
	check("capabilities dropped", h.CapDrop, []string{"ALL"})
	check("capabilities added", len(h.CapAdd), 0)
	check("security options", h.SecurityOpt, []string{"no-new-privileges:true"})
	check("masked paths", len(h.MaskedPaths) > 0 && len(h.ReadonlyPaths) > 0, true)
	check("memory", h.Memory, 192<<20)
	check("swap", h.MemorySwap, h.Memory)
	check("out-of-memory killer", h.OomKillDisable != nil && *h.OomKillDisable, false)
	check("processes", h.PidsLimit != nil && *h.PidsLimit == 128, true)
	check("namespaces of others", h.PidMode+h.UTSMode+h.UsernsMode, "")
	check("control groups", h.CgroupnsMode, "private")
	check("IPC", h.IpcMode, "none")
	check("devices", len(h.Devices)+len(h.DeviceRequests), 0)
	check("groups added", len(h.GroupAdd), 0)
	check("what else reaches out of it", len(h.Sysctls)+len(h.VolumesFrom)+len(h.Tmpfs)+len(h.Links)+len(h.ExtraHosts), 0)
	check("restart policy", h.RestartPolicy.Name, restart)
	check("stop timeout", c.Config.StopTimeout, 20)
	check("health check", c.asks(), want.asks(service))
	check("ports", c.ports(), p.published(want))
	check("networks", p.networks(c), sorted(want.networks))
	check("mounts", p.mounts(c), sorted(want.mounts))
	return wrong
}

// asks is the health check: the binary's own command.
func (w promised) asks(service string) []string {
	if oneshot(service) {
		return nil // it ends
	}
	return []string{"CMD", "/" + w.image, "healthcheck"}
}

// published are the ports that are to be reached from this machine, and from nowhere else.
func (p *project) published(w promised) []string {
	var list []string
	for _, port := range w.ports {
		list = append(list, p.doors[port]+" -> "+port+"/tcp")
	}
	return sorted(list)
}
