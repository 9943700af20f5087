package compose

import (
	"context"
	"crypto/rand"
	"errors"
	"fmt"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"google.golang.org/protobuf/encoding/protojson"
	"google.golang.org/protobuf/proto"

	"github.com/countersign-mesh/countersign/e2e/internal/bank"
	loginv1 "github.com/countersign-mesh/countersign/proto/gen/bank/login/v1"
)

// project is a mesh of its own: another Compose project than anybody else's, on another port, with a copy of the deploy files.
type project struct {
	command []string
	name    string
	source  string   // the checkout
	dir     string   // with a copy of deploy/ that a test may change
	layers  []string // of deploy/compose, each over the one before
	// doors are the addresses of the published ports, by the ports of the containers.
	doors map[string]string
}

// The ports of the containers that are published: the gateway's for customers, over gRPC and over REST, and login's.
const (
	doorGRPC  = "8443"
	doorREST  = "8444"
	doorLogin = "8445"
)

// everyProfile is what makes Compose see all services.
const everyProfile = "--profile=*"

// newProject lays out a project of files of deploy/compose and starts nothing yet. Whatever is there of it at the end of the test is removed.
func newProject(t *testing.T, command string, files ...string) *project {
	t.Helper()
	source, err := bank.Checkout()
	if err != nil {
		t.Fatal(err)
	}
	p := &project{command: strings.Fields(command), name: "cs-" + strings.ToLower(rand.Text()[:8]), source: source, dir: t.TempDir(), layers: files}
	if err := os.CopyFS(filepath.Join(p.dir, "deploy"), os.DirFS(filepath.Join(source, "deploy"))); err != nil {
		t.Fatal(err)
	}
	// SVIDs that live shorter than anybody wants to watch, so that rotation, and what comes with it, is seen many times.
	p.edit(t, "compose/compose.yaml", "AUTHORITY_SVID_TTL: 2m", "AUTHORITY_SVID_TTL: 40s")
	p.edit(t, "compose/mesh.yaml", "svid_ttl: 2m", "svid_ttl: 40s")
	p.doors = map[string]string{doorGRPC: bank.FreeAddress(t), doorREST: bank.FreeAddress(t), doorLogin: bank.FreeAddress(t)}
	t.Cleanup(func() { p.remove(t) })
	return p
}

// edit changes the one place that reads before in one of the project's deploy files.
func (p *project) edit(t *testing.T, name, before, after string) {
	t.Helper()
	path := filepath.Join(p.dir, "deploy", filepath.FromSlash(name))
	text := bank.Replace(t, before, after)(read(t, path))
	if err := os.WriteFile(path, []byte(text), 0o644); err != nil { // containers read it, as another user
		t.Fatal(err)
	}
}

// remove shows what the containers said if the test has failed, and removes containers, networks and volumes.
func (p *project) remove(t *testing.T) {
	t.Helper()
	// The test's own context has ended.
	ctx, cancel := context.WithTimeout(context.Background(), 2*time.Minute)
	defer cancel()
	if t.Failed() {
		for _, args := range [][]string{{everyProfile, "ps", "--all"}, {everyProfile, "logs", "--no-color", "--tail=60"}} {
			out, err := p.try(ctx, args...)
			t.Logf("compose %s: %v\n%s", strings.Join(args, " "), err, out)
		}
	}
	if out, err := p.try(ctx, everyProfile, "down", "--volumes", "--remove-orphans", "--timeout=5"); err != nil {
		t.Errorf("compose down: %v\n%s", err, out)
	}
	for _, kind := range []string{"container", "network", "volume"} {
		args := []string{kind, "ls", "--quiet", "--filter=label=com.docker.compose.project=" + p.name}
		if kind == "container" {
			args = append(args, "--all")
		}
		left, err := try(ctx, nil, "docker", args...)
		if err != nil || strings.TrimSpace(left) != "" {
			t.Errorf("left behind of %s: %v\n%s", p.name, err, left)
		}
	}
}

// try runs Compose on the project and returns what it said to both outputs.
func (p *project) try(ctx context.Context, args ...string) (string, error) {
	env := []string{"COUNTERSIGN_BIND=127.0.0.1"}
	for door, variable := range map[string]string{doorGRPC: "COUNTERSIGN_PORT", doorREST: "COUNTERSIGN_REST_PORT", doorLogin: "COUNTERSIGN_LOGIN_PORT"} {
		_, port, err := net.SplitHostPort(p.doors[door])
		if err != nil {
			return "", err
		}
		env = append(env, variable+"="+port)
	}
	common := []string{"--progress=plain", "--project-name=" + p.name}
	for _, file := range p.layers {
		common = append(common, "--file="+filepath.Join(p.dir, "deploy", "compose", file))
	}
	args = slices.Concat(p.command[1:], common, args)
	return try(ctx, env, p.command[0], args...)
}

// run is try that must succeed.
func (p *project) run(t *testing.T, args ...string) string {
	t.Helper()
	out, err := p.try(t.Context(), args...)
	if err != nil {
		t.Fatalf("compose %s: %v\n%s", strings.Join(args, " "), err, out)
	}
	return out
}

// try runs a program and returns what it said to both outputs.
func try(ctx context.Context, env []string, name string, args ...string) (string, error) {
	ctx, cancel := context.WithTimeout(ctx, 3*time.Minute)
	defer cancel()
	cmd := exec.CommandContext(ctx, name, args...)
	cmd.Env = append(os.Environ(), env...)
	cmd.WaitDelay = 5 * time.Second
	out, err := cmd.CombinedOutput()
	return string(out), err
}

// docker runs the Docker CLI, which must succeed.
func docker(t *testing.T, args ...string) string {
	t.Helper()
	out, err := try(t.Context(), nil, "docker", args...)
	if err != nil {
		t.Fatalf("docker %s: %v\n%s", strings.Join(args, " "), err, out)
	}
	return strings.TrimSpace(out)
}

// up brings everybody to healthy, the demo's actors too, and says how long that took.
func (p *project) up(t *testing.T, more ...string) {
	t.Helper()
	begin := time.Now()
	p.run(t, append([]string{everyProfile, "up", "--detach", "--no-build", "--pull=never", "--wait", "--wait-timeout=90"}, more...)...)
	t.Logf("from up to healthy: %v", time.Since(begin).Round(100*time.Millisecond))
}

// container returns the ID of a service's container, running or not.
func (p *project) container(t *testing.T, service string) string {
	t.Helper()
	ids := p.containers(t, service)
	if len(ids) != 1 {
		t.Fatalf("want one container of %s, got %v", service, ids)
	}
	return ids[0]
}

// containers returns the IDs of the containers of a service, or of all.
func (p *project) containers(t *testing.T, service ...string) []string {
	t.Helper()
	return strings.Fields(p.run(t, append([]string{everyProfile, "ps", "--all", "--quiet"}, service...)...))
}

// healthy waits until a container is healthy.
func (p *project) healthy(t *testing.T, container string) {
	t.Helper()
	bank.Eventually(t, 30*time.Second, func() string {
		if state := docker(t, "inspect", "--format={{.State.Health.Status}}", container); state != "healthy" {
			return container + " is " + state
		}
		return ""
	})
}

// call makes a call as the operator, from the operator's container.
func (p *project) call(ctx context.Context, service, method string, request, response proto.Message) error {
	data, err := protojson.Marshal(request)
	if err != nil {
		return err
	}
	out, err := p.try(ctx, "exec", "--no-TTY", "operator", "countersign", "call", service, method, "--data="+string(data))
	if err != nil {
		return fmt.Errorf("call %s %s: %w\n%s", service, method, err, out)
	}
	return protojson.Unmarshal([]byte(out), response)
}

// edge returns where customers come in, from this machine.
func (p *project) edge(t *testing.T) bank.Edge {
	t.Helper()
	root := filepath.Join(t.TempDir(), "root.pem")
	docker(t, "cp", p.container(t, "operator")+":/edge-root/root.pem", root)
	return bank.Edge{
		GRPC: p.doors[doorGRPC], REST: p.doors[doorREST], Login: p.doors[doorLogin],
		Issuer: "https://localhost:" + doorLogin, Roots: bank.ReadRoots(t, root),
	}
}

// phones registers customers, as the operator, and returns their phones on this machine, logged in.
func (p *project) phones(t *testing.T, customers ...string) []*bank.Phone {
	t.Helper()
	register := func(ctx context.Context, request *loginv1.RegisterCustomerRequest) (*loginv1.RegisterCustomerResponse, error) {
		registered := &loginv1.RegisterCustomerResponse{}
		return registered, p.call(ctx, "login", "bank.login.v1.CustomerService/RegisterCustomer", request, registered)
	}
	return bank.NewPhones(t, p.edge(t), register, customers...)
}

// exitCode is what a command ended with that was run by try.
func exitCode(err error) int {
	if exit, ok := errors.AsType[*exec.ExitError](err); ok {
		return exit.ExitCode()
	}
	return 0
}
