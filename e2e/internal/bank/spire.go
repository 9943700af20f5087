package bank

import (
	"encoding/json"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
	"time"
)

// The programs of a mesh on SPIRE that are in the authority's place.
const (
	SPIREServer = "spire-server"
	SPIREAgent  = "spire-agent"
)

// spireNode is what the tests call this machine.
const spireNode = "here"

// SPIREBin returns the directory of SPIRE's programs, which the project neither has nor builds. A test that needs them is skipped without.
func SPIREBin(t testing.TB) string {
	t.Helper()
	dir := os.Getenv("SPIRE_BIN")
	if dir == "" {
		t.Skip("SPIRE_BIN is not set; to run this test, set it to a directory with spire-server and spire-agent of a SPIRE release")
	}
	for _, program := range []string{SPIREServer, SPIREAgent} {
		if _, err := exec.LookPath(filepath.Join(dir, program)); err != nil {
			t.Fatalf("SPIRE_BIN: %v", err)
		}
	}
	return dir
}

// SPIRE is a SPIRE server and agent in the place of the authority of a mesh.
type SPIRE struct {
	mesh *Apart
	bin  string
}

// OnSPIRE puts SPIRE in the authority's place. It is configured as for containers, by deploy/spire, but for where things are and for the agent's
// workload attestor. Its programs are in bin. Nothing is started yet.
func (a *Apart) OnSPIRE(t testing.TB, bin string, svidTTL, authorityTTL time.Duration) *SPIRE {
	t.Helper()
	s := &SPIRE{mesh: a, bin: bin}
	for _, program := range []string{SPIREServer, SPIREAgent} {
		if err := os.Symlink(filepath.Join(s.bin, program), a.Path("bin", program)); err != nil {
			t.Fatal(err)
		}
		a.addresses[program], a.ops[program] = FreeAddress(t), FreeAddress(t)
		if err := os.MkdirAll(a.Path("spire", program), 0o700); err != nil {
			t.Fatal(err)
		}
	}
	agentTTL := min(time.Hour, authorityTTL/6)
	port := func(address string) string { return address[strings.LastIndexByte(address, ':')+1:] }
	s.configure(t, "server.conf", SPIREServer, [][2]string{
		{`bind_address = "0.0.0.0"`, `bind_address = "127.0.0.1"`},
		{`bind_port = "8081"`, `bind_port = "` + port(a.addresses[SPIREServer]) + `"`},
		{"/run/spire/server/private/api.sock", s.socket()},
		{"/node/ca.pem", a.Path("spire", "node", "ca.pem")},
		{`default_x509_svid_ttl = "2m0s"`, `default_x509_svid_ttl = "` + svidTTL.String() + `"`},
		{`ca_ttl = "24h0m0s"`, `ca_ttl = "` + authorityTTL.String() + `"`},
		{`agent_ttl = "1h0m0s"`, `agent_ttl = "` + agentTTL.String() + `"`},
	})
	s.configure(t, "agent.conf", SPIREAgent, [][2]string{
		{`"spire-server"`, `"127.0.0.1"`},
		{`server_port = "8081"`, `server_port = "` + port(a.addresses[SPIREServer]) + `"`},
		{"/run/spiffe/api.sock", strings.TrimPrefix(a.Endpoint, "unix://")},
		{"/bundle/bundle.pem", s.bundle()},
		{"/node/agent-docker.pem", a.Path("spire", "node", "agent-"+spireNode+".pem")},
		{"/node/agent-docker.key", a.Path("spire", "node", "agent-"+spireNode+".key")},
		{"WorkloadAttestor \"docker\" {\n        plugin_data {\n", "WorkloadAttestor \"unix\" {\n        plugin_data {\n            discover_workload_path = true\n"},
	})
	return s
}

// configure writes the configuration of a program, with what is other here than in a container.
func (s *SPIRE) configure(t testing.TB, file, program string, changes [][2]string) {
	t.Helper()
	text, err := os.ReadFile(s.mesh.Path("deploy", "spire", file))
	if err != nil {
		t.Fatal(err)
	}
	changed := string(text)
	for _, c := range changes {
		changed = Replace(t, c[0], c[1])(changed)
	}
	health := s.mesh.ops[program]
	changed = Replace(t, `bind_port = "8080"`, `bind_port = "`+health[strings.LastIndexByte(health, ':')+1:]+`"`)(changed)
	data := "/var/lib/spire/" + strings.TrimPrefix(program, "spire-")
	if !strings.Contains(changed, `"`+data) {
		t.Fatalf("%s does not keep its state in %s", file, data)
	}
	changed = strings.ReplaceAll(changed, `"`+data, `"`+s.mesh.Path("spire", program))
	if err := os.WriteFile(s.mesh.spireConfig(program), []byte(changed), 0o600); err != nil {
		t.Fatal(err)
	}
}

func (a *Apart) spireConfig(program string) string { return a.Path("spire", program+".conf") }

// Config returns the configuration file of a program, for a test to change before the start.
func (s *SPIRE) Config(program string) string { return s.mesh.spireConfig(program) }

func (s *SPIRE) socket() string { return s.mesh.Path("api", "server.sock") }
func (s *SPIRE) bundle() string { return s.mesh.Path("spire", "bundle.pem") }

// StartAll starts server and agent, with the entries of the mesh's registration file, and then every service.
func (s *SPIRE) StartAll(t testing.TB) {
	t.Helper()
	s.cli(t, "prepare", "--dir="+s.mesh.Path("spire", "node"), "--node="+spireNode)
	s.mesh.Start(t, SPIREServer)
	s.Register(t)
	s.mesh.Start(t, append([]string{SPIREAgent}, InOrder()...)...)
}

// Register makes the server's entries those of the mesh's registration file, and returns what was said.
func (s *SPIRE) Register(t testing.TB) string {
	t.Helper()
	return s.cli(t, "register", "--registration="+s.mesh.entries, "--server-socket="+s.socket(), "--node="+spireNode,
		"--bin="+s.mesh.Path("bin"), "--bundle="+s.bundle())
}

// Entries returns the registration file.
func (s *SPIRE) Entries() string { return s.mesh.entries }

func (s *SPIRE) cli(t testing.TB, args ...string) string {
	t.Helper()
	out, code := s.mesh.Run(t, nil, "countersign", append([]string{"spire"}, args...)...)
	if code != 0 {
		t.Fatalf("countersign spire %s: exit code %d:\n%s", strings.Join(args, " "), code, out)
	}
	return out
}

// authority is what SPIRE's own command says of an authority.
type authority struct {
	ID string `json:"authority_id"`
}

// Authority has SPIRE's own command do something with the server's X.509 authorities: show, prepare, activate, taint or revoke. It returns the ID of the
// authority that was dealt with, or of the active one.
func (s *SPIRE) Authority(t testing.TB, action string, args ...string) string {
	t.Helper()
	args = append([]string{"localauthority", "x509", action, "-socketPath", s.socket(), "-output", "json"}, args...)
	out, code := s.mesh.Run(t, nil, SPIREServer, args...)
	if code != 0 {
		t.Fatalf("spire-server %s: exit code %d:\n%s", strings.Join(args, " "), code, out)
	}
	var answer map[string]json.RawMessage
	if err := json.Unmarshal([]byte(out), &answer); err != nil {
		t.Fatalf("spire-server %s: %v:\n%s", strings.Join(args, " "), err, out)
	}
	for _, field := range []string{"active", "prepared_authority", "activated_authority", "tainted_authority", "revoked_authority"} {
		if raw, ok := answer[field]; ok {
			var a authority
			if err := json.Unmarshal(raw, &a); err != nil || a.ID == "" {
				t.Fatalf("spire-server %s: %v:\n%s", strings.Join(args, " "), err, out)
			}
			return a.ID
		}
	}
	t.Fatalf("spire-server %s says nothing of an authority:\n%s", strings.Join(args, " "), out)
	return ""
}

// Shown returns which services see a peer on a live connection that has shown an SVID of this authority, and which peers.
func (s *SPIRE) Shown(t testing.TB, authority string) []string {
	t.Helper()
	var shown []string
	for _, service := range Services() {
		out, code := s.mesh.Run(t, []string{"SPIFFE_ENDPOINT_SOCKET=" + s.mesh.Endpoint}, "countersign",
			"peers", s.mesh.addresses[service], "--expect=/"+service)
		if code != 0 {
			t.Fatalf("countersign peers: exit code %d:\n%s", code, out)
		}
		for line := range strings.Lines(out) {
			if fields := strings.Fields(line); len(fields) > 2 && strings.Contains(line, authority) {
				shown = append(shown, fmt.Sprintf("%s: %s %s", service, fields[0], fields[1]))
			}
		}
	}
	return shown
}
