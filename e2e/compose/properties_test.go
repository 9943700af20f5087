package compose

import (
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/countersign-mesh/countersign/e2e/internal/bank"
)

// state says how a container is.
func (c inspected) state() string {
	if c.State.Status == "exited" {
		return fmt.Sprintf("exited %d", c.State.ExitCode)
	}
	if c.State.Health == nil {
		return c.State.Status
	}
	return c.State.Status + " " + c.State.Health.Status
}

// asks returns what Docker runs to see whether a container is healthy.
func (c inspected) asks() []string {
	if c.Config.Healthcheck == nil {
		return nil
	}
	return c.Config.Healthcheck.Test
}

// ports returns what is published, as "address -> port of the container".
func (c inspected) ports() []string {
	var list []string
	for port, bindings := range c.HostConfig.PortBindings {
		for _, b := range bindings {
			list = append(list, b.HostIP+":"+b.HostPort+" -> "+port)
		}
	}
	return sorted(list)
}

// networks returns the networks that a container is on, without the project's name.
func (p *project) networks(c inspected) []string {
	var list []string
	for name := range c.NetworkSettings.Networks {
		list = append(list, strings.TrimPrefix(name, p.name+"_"))
	}
	return sorted(list)
}

// mounts returns what is mounted in a container, as promised says it.
func (p *project) mounts(c inspected) []string {
	var list []string
	for _, m := range c.Mounts {
		source := strings.TrimPrefix(m.Name, p.name+"_")
		if m.Type != "volume" {
			source = m.Type + ":" + p.relative(m.Source)
		}
		line := source + " " + m.Destination
		if !m.RW {
			line += " ro"
		}
		list = append(list, line)
	}
	return sorted(list)
}

// relative is a path below the project's deploy/ without what is before it. Any other stays as it is, with its slash.
func (p *project) relative(path string) string {
	rest, below := strings.CutPrefix(path+"/", filepath.Join(p.dir, "deploy")+"/")
	if !below {
		return path
	}
	return strings.TrimSuffix(rest, "/")
}

func sorted(list []string) []string {
	list = slices.Clone(list)
	slices.Sort(list)
	return list
}

// testNetworks wants every network to be internal but the one that the ports for customers are published from.
func (p *project) testNetworks(t *testing.T) {
	t.Helper()
	names := strings.Fields(docker(t, "network", "ls", "--quiet", "--filter=label=com.docker.compose.project="+p.name))
	if len(names) != 15 {
		t.Errorf("want 15 networks, got %d", len(names))
	}
	for _, n := range inspect[struct {
		Name       string
		Driver     string
		Internal   bool
		Attachable bool
	}](t, "network", names...) {
		if public := n.Name == p.name+"_public"; n.Internal == public || n.Driver != "bridge" || n.Attachable {
			t.Errorf("network %s is not as promised: %+v", n.Name, n)
		}
	}
}

// testNeighbours wants two services to share a network if one of them calls the other, and else none. The table of promises is written by hand;
// this is not.
func (p *project) testNeighbours(t *testing.T, all []inspected) {
	t.Helper()
	on := make(map[string][]string)
	for _, c := range all {
		on[c.Config.Labels["com.docker.compose.service"]] = p.networks(c)
	}
	for _, a := range bank.Services() {
		for _, b := range bank.Services() {
			shared := slices.DeleteFunc(slices.Clone(on[a]), func(network string) bool { return !slices.Contains(on[b], network) })
			calls := slices.Contains(bank.Calls(a), b) || slices.Contains(bank.Calls(b), a)
			if a != b && calls != (len(shared) > 0) {
				t.Errorf("%s and %s share the networks %v; that one calls the other is %t", a, b, shared, calls)
			}
			if a == "payments" && b == "ledger" && !slices.Equal(shared, []string{"ledger"}) {
				t.Errorf("payments and the ledger share the networks %v, want the ledger's alone", shared)
			}
		}
	}
}

// testVolumes wants each socket's volume to be in memory, and the authority's alone to write in.
func (p *project) testVolumes(t *testing.T) {
	t.Helper()
	names := strings.Fields(docker(t, "volume", "ls", "--quiet", "--filter=label=com.docker.compose.project="+p.name))
	if len(names) != 24 {
		t.Errorf("want 24 volumes, got %v", names)
	}
	for _, v := range inspect[struct {
		Name, Driver string
		Options      map[string]string
	}](t, "volume", names...) {
		want := map[string]string{}
		name := strings.TrimPrefix(v.Name, p.name+"_")
		switch kind, _, _ := strings.Cut(name, "-"); kind {
		case "socket":
			want = map[string]string{"type": "tmpfs", "device": "tmpfs", "o": "uid=65531,gid=65531,mode=0755,size=64k,nosuid,nodev,noexec"}
		case "actors":
			want = map[string]string{"type": "tmpfs", "device": "tmpfs", "o": "uid=65532,gid=65532,mode=0700,size=64k,nosuid,nodev,noexec"}
		}
		if v.Driver != "local" || !equal(v.Options, want) {
			t.Errorf("volume %s: want driver local with %v, got %s with %v", name, want, v.Driver, v.Options)
		}
	}
}

// unseen skips a test that looks at containers as processes, which Docker may have on another machine. Where CI is set nothing is skipped that
// can be run, and there they can be seen.
func unseen(t *testing.T, err error) {
	t.Helper()
	if os.Getenv("CI") != "" {
		t.Fatal("the containers' processes cannot be seen from here, and CI is set:", err)
	}
	t.Skip("SKIP: the containers' processes cannot be seen from here:", err)
}

// testKernel asks the kernel, where this machine's is the containers', what it holds every process of every container to.
func testKernel(t *testing.T, p *project) {
	for _, c := range inspect[inspected](t, "container", p.containers(t)...) {
		if c.State.Pid == 0 {
			continue // it has ended
		}
		status, err := os.ReadFile(fmt.Sprintf("/proc/%d/status", c.State.Pid))
		if err != nil {
			unseen(t, err)
		}
		uid := "65532"
		if c.Config.Labels["com.docker.compose.service"] == "authority" {
			uid = "65531"
		}
		for field, want := range map[string]string{
			"Uid": strings.Join([]string{uid, uid, uid, uid}, " "), "Gid": strings.Join([]string{uid, uid, uid, uid}, " "),
			"CapInh": none, "CapPrm": none, "CapEff": none, "CapBnd": none, "CapAmb": none, "NoNewPrivs": "1", "Seccomp": "2",
		} {
			if got := statusField(string(status), field); got != want {
				t.Errorf("%s: %s: want %s, got %s", c.Name, field, want, got)
			}
		}
	}
}

// none is no capability.
const none = "0000000000000000"

// statusField returns a field of /proc/PID/status (proc_pid_status(5)).
func statusField(status, field string) string {
	for line := range strings.Lines(status) {
		if value, ok := strings.CutPrefix(line, field+":"); ok {
			return strings.Join(strings.Fields(value), " ")
		}
	}
	return ""
}

// testUpAgain finds everybody as they are, and a policy that was changed since as it is.
func testUpAgain(t *testing.T, p *project) {
	before := sorted(p.containers(t))
	p.run(t, "exec", "--no-TTY", "operator", "countersign", "revoke", "--id=/stranger", "--why=a change that up must keep")
	changed := filepath.Join(t.TempDir(), "bank.yaml")
	docker(t, "cp", p.container(t, "operator")+":/policy/bank.yaml", changed)
	p.up(t)
	if after := sorted(p.containers(t)); !slices.Equal(before, after) {
		t.Errorf("up has made other containers: had %v, has %v", before, after)
	}
	again := filepath.Join(t.TempDir(), "bank.yaml")
	docker(t, "cp", p.container(t, "operator")+":/policy/bank.yaml", again)
	if want, got := read(t, changed), read(t, again); want != got {
		t.Errorf("up has changed the policy from\n%s\nto\n%s", want, got)
	}
	bank.Eventually(t, 10*time.Second, func() string {
		if said := p.run(t, "logs", "--no-color", "policy"); !strings.Contains(said, "countersign policy apply") {
			return "who has another policy than the file's is not told how to put that in force:\n" + said
		}
		return ""
	})
	p.run(t, "exec", "--no-TTY", "operator", "countersign", "policy", "apply", "--unrevoke", "--yes", "--no-watch", "/deploy/policy/bank.yaml")
}

func read(t *testing.T, name string) string {
	t.Helper()
	text, err := os.ReadFile(name)
	if err != nil {
		t.Fatal(err)
	}
	return string(text)
}
