package main

import (
	"bytes"
	"context"
	"io"
	"net"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"

	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"

	"github.com/countersign-mesh/countersign/cmd/countersign/internal/rundir"
	"github.com/countersign-mesh/countersign/pkg/authz"
	"github.com/countersign-mesh/countersign/pkg/mesh"
	"github.com/countersign-mesh/countersign/pkg/meshtest"
	adminv1 "github.com/countersign-mesh/countersign/proto/gen/mesh/admin/v1"
)

// bank is a mesh with a run directory, as the CLI finds one: servers under one policy file, and this process for a supervisor.
type bank struct {
	*meshtest.Mesh
	dir    rundir.Dir
	policy string
	record rundir.Record
}

// newBank runs servers with these names under the bank's policy. They serve what every server does.
func newBank(t *testing.T, names ...string) *bank {
	t.Helper()
	text, err := os.ReadFile(filepath.Join("..", "..", "deploy", "policy", "bank.yaml"))
	if err != nil {
		t.Fatal(err)
	}
	b := &bank{Mesh: meshtest.New(t, "bank.test", string(text)), policy: filepath.Join(t.TempDir(), "bank.yaml")}
	if err := os.WriteFile(b.policy, text, 0o600); err != nil {
		t.Fatal(err)
	}
	if b.dir, err = rundir.At(filepath.Join(t.TempDir(), "run")); err != nil {
		t.Fatal(err)
	}
	if err := b.dir.Create(); err != nil {
		t.Fatal(err)
	}
	self, err := rundir.Identify(os.Getpid())
	if err != nil {
		t.Fatal(err)
	}
	b.Identity(t, "/operator")
	b.record = rundir.Record{
		TrustDomain: "bank.test", WorkloadAPI: b.API(t, "/operator").Addr(), Policy: b.policy, Supervisor: self,
		Programs: []rundir.Program{{Name: "authority"}},
	}
	for _, name := range names {
		b.add(t, name, b.serve(t, name, true))
	}
	return b
}

// add enters a service into the record.
func (b *bank) add(t *testing.T, name, address string) {
	t.Helper()
	b.record.Programs = append(b.record.Programs, rundir.Program{Name: name, SPIFFEID: "spiffe://bank.test/" + name, Address: address})
	if err := b.dir.Write(b.record); err != nil {
		t.Fatal(err)
	}
}

// serve runs a server until the test ends. One that does not watch its policy never notices a change.
func (b *bank) serve(t *testing.T, name string, watch bool) (address string) {
	t.Helper()
	return b.serveWith(t, name, watch, func(*mesh.Server) {})
}

// serveWith is serve for a server of more than every server has.
func (b *bank) serveWith(t *testing.T, name string, watch bool, register func(*mesh.Server), opts ...mesh.ServerOption) (address string) {
	t.Helper()
	listener, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	b.serveAt(t, listener, name, watch, register, opts...)
	return listener.Addr().String()
}

// serveAt is serveWith for who has chosen where.
func (b *bank) serveAt(t *testing.T, listener net.Listener, name string, watch bool, register func(*mesh.Server), opts ...mesh.ServerOption) {
	t.Helper()
	file, err := authz.Open(b.policy)
	if err != nil {
		t.Fatal(err)
	}
	server, err := mesh.NewServer(b.Conns(t, "/"+name), file, opts...)
	if err != nil {
		t.Fatal(err)
	}
	register(server)
	runs := []func(context.Context) error{func(ctx context.Context) error { return server.Serve(ctx, listener) }}
	if watch {
		runs = append(runs, file.Watch)
	}
	ctx, cancel := context.WithCancel(context.Background())
	var running sync.WaitGroup
	for _, run := range runs {
		running.Go(func() {
			if err := run(ctx); err != nil {
				t.Errorf("%s: %v", name, err)
			}
		})
	}
	t.Cleanup(func() {
		cancel()
		running.Wait()
	})
}

// address is where a service is.
func (b *bank) address(t *testing.T, name string) string {
	t.Helper()
	program, ok := b.record.Find(name)
	if !ok {
		t.Fatalf("there is no %s", name)
	}
	return program.Address
}

// connect has a workload make a call to a service, which is denied, and keeps the connection until the test ends. It returns how each
// further call goes.
func (b *bank) connect(t *testing.T, from, to string) (call func() error) {
	t.Helper()
	client := adminv1.NewAdminServiceClient(b.Dial(t, from, "/"+to, b.address(t, to)))
	call = func() error {
		ctx, cancel := context.WithTimeout(t.Context(), 10*time.Second)
		defer cancel()
		_, err := client.ListCuts(ctx, &adminv1.ListCutsRequest{})
		return err
	}
	if err := call(); status.Code(err) != codes.PermissionDenied {
		t.Fatalf("%s calls %s: %v", from, to, err)
	}
	return call
}

// countersign runs a command line against the bank.
func (b *bank) countersign(t *testing.T, args ...string) (stdout string, err error) {
	t.Helper()
	stdout, _, err = b.warned(t, args...)
	return stdout, err
}

// warned is countersign for who wants to see the warnings too.
func (b *bank) warned(t *testing.T, args ...string) (stdout, stderr string, err error) {
	t.Helper()
	return b.answering(t, strings.NewReader(""), args...)
}

// answering is countersign for who answers its questions.
func (b *bank) answering(t *testing.T, stdin io.Reader, args ...string) (stdout, stderr string, err error) {
	t.Helper()
	var out, errs bytes.Buffer
	err = run(append([]string{"--run-dir", b.dir.String()}, args...), stdin, &out, &errs)
	return out.String(), errs.String(), err
}

// text is the policy file as it is now.
func (b *bank) text(t *testing.T) string {
	t.Helper()
	data, err := os.ReadFile(b.policy)
	if err != nil {
		t.Fatal(err)
	}
	return string(data)
}
