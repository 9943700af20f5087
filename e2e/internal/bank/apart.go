package bank

import (
	"context"
	"fmt"
	"math/rand/v2"
	"net"
	"net/http"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"google.golang.org/grpc"
)

// Apart is a mesh without `countersign up`: the test starts, kills and restarts its programs one by one, with the flags that their
// --help explains.
type Apart struct {
	*Home
	// Endpoint is the Workload API.
	Endpoint string
	// StateDir is where the authority keeps its state.
	StateDir string
	// Flags are more flags of a program, for when it is started next.
	Flags map[string][]string

	entries   string
	addresses map[string]string
	ops       map[string]string
	processes map[string]*Process
}

// Calls returns the services that a program calls.
func Calls(program string) []string {
	switch program {
	case "gateway":
		return []string{"accounts", "payments", "ledger", "audit"}
	case "payments":
		return []string{"accounts", "risk", "ledger", "audit"}
	case "accounts":
		return []string{"ledger", "audit"}
	case "ledger", "risk":
		return []string{"audit"}
	default:
		return nil
	}
}

// Apart lays out a mesh in the Home and starts nothing yet.
func (h *Home) Apart(t testing.TB) *Apart {
	t.Helper()
	a := &Apart{
		Home: h, Endpoint: "unix://" + h.Path("api", "api.sock"), StateDir: h.Path("state"), entries: h.Path("entries.yaml"),
		Flags: make(map[string][]string), addresses: make(map[string]string), ops: make(map[string]string), processes: make(map[string]*Process),
	}
	for _, dir := range []string{a.StateDir, h.Path("api"), h.Path("data")} {
		if err := os.Mkdir(dir, 0o700); err != nil {
			t.Fatal(err)
		}
	}
	entries, err := os.ReadFile(h.Registration())
	if err != nil {
		t.Fatal(err)
	}
	absolute := strings.ReplaceAll(string(entries), "unix:path:bin/", "unix:path:"+h.Path("bin")+"/")
	if err := os.WriteFile(a.entries, []byte(absolute), 0o600); err != nil {
		t.Fatal(err)
	}
	for _, name := range append(Services(), "authority") {
		a.addresses[name], a.ops[name] = freeAddress(t), freeAddress(t)
	}
	return a
}

// StartAll starts the authority and every service, callees first, and waits until they are ready.
func (a *Apart) StartAll(t testing.TB) {
	t.Helper()
	a.Start(t, "authority", "audit", "risk", "ledger", "accounts", "payments", "gateway")
}

// Start starts programs, or starts them again, one after another, and waits until each is ready.
func (a *Apart) Start(t testing.TB, names ...string) {
	t.Helper()
	for _, name := range names {
		p := a.Launch(t, name)
		Eventually(t, 20*time.Second, func() string {
			if !p.Running() {
				t.Fatalf("%s ended with %d:\n%s", name, p.Wait(t, time.Second), p.Output())
			}
			if why := a.Ready(t.Context(), name); why != "" {
				return why + "\n" + p.Output()
			}
			return ""
		})
	}
}

// Ready says why a program is not ready, and nothing when it is.
func (a *Apart) Ready(ctx context.Context, name string) string {
	body, code, err := get(ctx, a.ops[name], "/readyz")
	if err != nil {
		return fmt.Sprintf("%s is not ready: %v", name, err)
	}
	if code != http.StatusOK {
		return fmt.Sprintf("%s is not ready: %s", name, body)
	}
	return ""
}

// Launch starts a program and does not wait.
func (a *Apart) Launch(t testing.TB, name string) *Process {
	t.Helper()
	args := []string{"--ops-listen=" + a.ops[name]}
	if name == "authority" {
		args = append(args, "--trust-domain=bank.test", "--socket="+strings.TrimPrefix(a.Endpoint, "unix://"),
			"--state-dir="+a.StateDir, "--entries="+a.entries)
	} else {
		args = append(args, "--listen="+a.addresses[name], "--policy="+a.Policy())
		for _, callee := range Calls(name) {
			args = append(args, "--"+callee+"=dns:///"+a.addresses[callee])
		}
		if name != "gateway" {
			args = append(args, "--dsn=sqlite:"+a.Path("data", name+".db"))
		}
		if name == "risk" {
			args = append(args, "--rules="+a.RiskRules())
		}
	}
	args = append(args, a.Flags[name]...)
	p := a.Home.Start(t, []string{"SPIFFE_ENDPOINT_SOCKET=" + a.Endpoint}, name, args...)
	a.processes[name] = p
	a.owner.Cleanup(func() {
		if a.owner.Failed() {
			a.owner.Logf("%s (process %d) said:\n%s", name, p.PID(), tail(p.Output(), 20))
		}
	})
	return p
}

// Process returns the last process that was started as this program.
func (a *Apart) Process(name string) *Process { return a.processes[name] }

// Address returns where a service serves.
func (a *Apart) Address(service string) string { return a.addresses[service] }

// Identity gets the SVID of an actor from the mesh.
func (a *Apart) Identity(t testing.TB, actor string) *Identity {
	t.Helper()
	return a.Home.Identity(t, a.Endpoint, actor)
}

// Dial connects an identity to a service.
func (a *Apart) Dial(t testing.TB, i *Identity, server string) *grpc.ClientConn {
	t.Helper()
	return i.Dial(t, server, a.addresses[server])
}

// RiskRules returns the file of risk's rules.
func (h *Home) RiskRules() string { return filepath.Join(h.Dir, "deploy", "risk", "bank.yaml") }

// freeAddress returns a loopback address whose port nobody has, below those that the kernel gives to outgoing connections.
func freeAddress(t testing.TB) string {
	t.Helper()
	var lastErr error
	for range 100 {
		address := fmt.Sprintf("127.0.0.1:%d", 10000+rand.IntN(20000))
		l, err := (&net.ListenConfig{}).Listen(context.Background(), "tcp", address)
		if err != nil {
			lastErr = err
			continue
		}
		if err := l.Close(); err != nil {
			t.Fatal(err)
		}
		return address
	}
	t.Fatalf("no free port: %v", lastErr)
	return ""
}
