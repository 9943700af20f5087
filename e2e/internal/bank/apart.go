package bank

import (
	"context"
	"fmt"
	"net/http"
	"os"
	"path/filepath"
	"strings"
	"syscall"
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
	// Databases are the DSNs of services that do not keep their state in a SQLite file of the Home, for when they are started next.
	Databases map[string]string

	entries   string
	addresses map[string]string
	edge      map[string]string // where customers are served: by gateway, rest and login
	ops       map[string]string
	targets   map[string]string // of services that are not where their address says alone
	processes map[string]*Process
}

// Calls returns the services that a program calls.
func Calls(program string) []string {
	switch program {
	case "gateway":
		return []string{"login", "accounts", "payments", "ledger", "audit"}
	case "payments":
		return []string{"login", "accounts", "risk", "ledger", "audit"}
	case "accounts":
		return []string{"login", "ledger", "audit"}
	case "ledger":
		return []string{"login", "audit"}
	case "risk", "login":
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
		Flags: make(map[string][]string), Databases: make(map[string]string), addresses: make(map[string]string), ops: make(map[string]string),
		edge:    map[string]string{"gateway": FreeAddress(t), "rest": FreeAddress(t), "login": FreeAddress(t)},
		targets: make(map[string]string), processes: make(map[string]*Process),
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
		a.addresses[name], a.ops[name] = FreeAddress(t), FreeAddress(t)
	}
	h.writeEdge(t)
	return a
}

// StartAll starts the authority, then all services at once, as `countersign up` does, and waits until they are ready: each waits by itself for its SVID
// and for those that it calls.
func (a *Apart) StartAll(t testing.TB) {
	t.Helper()
	a.Start(t, "authority")
	for _, name := range InOrder() {
		a.Launch(t, name)
	}
	for _, name := range InOrder() {
		a.await(t, name)
	}
}

// StartInOrder is StartAll with one service after another, those that are called first: their SVIDs are then of different ages, and not all renewed at
// the same moment.
func (a *Apart) StartInOrder(t testing.TB) {
	t.Helper()
	a.Start(t, append([]string{"authority"}, InOrder()...)...)
}

// Start starts programs, or starts them again, one after another, and waits until each is ready.
func (a *Apart) Start(t testing.TB, names ...string) {
	t.Helper()
	for _, name := range names {
		a.Launch(t, name)
		a.await(t, name)
	}
}

// await waits until a program that was started is ready.
func (a *Apart) await(t testing.TB, name string) {
	t.Helper()
	p := a.processes[name]
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

// Healthcheck asks a program by its own command healthcheck, and returns what that says and its exit code.
func (a *Apart) Healthcheck(t testing.TB, name string) (string, int) {
	t.Helper()
	program := serviceOf(name)
	return a.Run(t, []string{strings.ToUpper(program) + "_OPS_LISTEN=" + a.ops[name]}, program, "healthcheck")
}

// Launch starts a program and does not wait.
func (a *Apart) Launch(t testing.TB, name string) *Process {
	t.Helper()
	program := serviceOf(name)
	args := []string{"--ops-listen=" + a.ops[name]}
	switch program {
	case SPIREServer, SPIREAgent:
		args = []string{"run", "-config", a.spireConfig(program)}
	case "authority":
		args = append(args, "--trust-domain=bank.test", "--socket="+strings.TrimPrefix(a.Endpoint, "unix://"),
			"--state-dir="+a.StateDir, "--entries="+a.entries)
	default:
		args = append(args, "--listen="+a.addresses[name], "--policy="+a.Policy())
		for _, callee := range Calls(program) {
			args = append(args, "--"+callee+"="+a.target(callee))
		}
		if program != "gateway" {
			args = append(args, "--dsn="+a.DSN(program))
		}
		args = append(args, a.special(program)...)
	}
	args = append(args, a.Flags[name]...)
	p := a.Home.Start(t, []string{"SPIFFE_ENDPOINT_SOCKET=" + a.Endpoint}, program, args...)
	a.processes[name] = p
	a.owner.Cleanup(func() {
		if a.owner.Failed() && a.processes[name] == p { // not of every one that a test has killed
			a.owner.Logf("%s (process %d) said:\n%s", name, p.PID(), tail(p.Output(), 20))
		}
	})
	return p
}

// special returns the flags that one service has and no other.
func (a *Apart) special(program string) []string {
	files := a.edgeFiles()
	edge := []string{"--edge-listen=" + a.edge[program], "--edge-cert=" + files.certificate, "--edge-key=" + files.key, "--issuer=" + a.issuer()}
	switch program {
	case "risk":
		return []string{"--rules=" + a.RiskRules()}
	case "login":
		return edge
	case "gateway":
		// A test's customers call as often as they can.
		return append(edge, "--rest-listen="+a.edge["rest"], "--customer-rate=100000", "--customer-burst=100000")
	default:
		return nil
	}
}

// Kill kills programs with SIGKILL, all of them before it waits for their ends.
func (a *Apart) Kill(t testing.TB, names ...string) {
	t.Helper()
	for _, name := range names {
		a.processes[name].Signal(t, syscall.SIGKILL)
	}
	for _, name := range names {
		a.processes[name].Wait(t, 10*time.Second)
	}
}

// DSN returns where a service keeps its state.
func (a *Apart) DSN(service string) string {
	if dsn, ok := a.Databases[service]; ok {
		return dsn
	}
	return "sqlite:" + a.Path("data", service+".db")
}

// target is what those who call a service are told of where it is.
func (a *Apart) target(service string) string {
	if target, ok := a.targets[service]; ok {
		return target
	}
	return "dns:///" + a.addresses[service]
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
	return i.Dial(t, serviceOf(server), a.addresses[server])
}

// RiskRules returns the file of risk's rules.
func (h *Home) RiskRules() string { return filepath.Join(h.Dir, "deploy", "risk", "bank.yaml") }
