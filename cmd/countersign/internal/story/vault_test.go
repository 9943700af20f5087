package story

import (
	"bytes"
	"context"
	"log/slog"
	"net"
	"os"
	"path/filepath"
	"sync"
	"testing"

	"github.com/spiffe/go-spiffe/v2/spiffeid"
	"google.golang.org/grpc"

	"github.com/countersign-mesh/countersign/cmd/countersign/internal/console"
	"github.com/countersign-mesh/countersign/cmd/countersign/internal/dial"
	"github.com/countersign-mesh/countersign/cmd/countersign/internal/site"
	"github.com/countersign-mesh/countersign/pkg/authz"
	"github.com/countersign-mesh/countersign/pkg/mesh"
	"github.com/countersign-mesh/countersign/pkg/meshtest"
)

// vault is a stage with a gateway and an operator, whose policy file must be as it was when the story is over.
type vault struct {
	*player
	mesh    *meshtest.Mesh
	out     bytes.Buffer
	before  string
	gateway *grpc.ClientConn
}

// newVault sets the stage. A gateway that does not watch its policy never notices a revocation.
func newVault(t *testing.T, watch bool) *vault {
	t.Helper()
	text, err := os.ReadFile("../../../../deploy/policy/bank.yaml")
	if err != nil {
		t.Fatal(err)
	}
	path := filepath.Join(t.TempDir(), "bank.yaml")
	if err := os.WriteFile(path, text, 0o600); err != nil {
		t.Fatal(err)
	}
	m := meshtest.New(t, "bank.test", string(text))
	address := serveGateway(t, m, path, watch)
	m.Identity(t, "/operator")
	operator, err := dial.Open(t.Context(), m.API(t, "/operator").Addr(), slog.New(slog.DiscardHandler))
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := operator.Close(); err != nil {
			t.Error(err)
		}
	})
	s := &vault{mesh: m, before: string(text), gateway: m.Dial(t, "/operator", "/gateway", address)}
	s.player = &player{
		out: console.New(&s.out, nil), operator: operator,
		settings: Settings{Mesh: site.Site{TrustDomain: spiffeid.RequireTrustDomainFromString("bank.test"), Policy: path}},
	}
	return s
}

func serveGateway(t *testing.T, m *meshtest.Mesh, policy string, watch bool) (address string) {
	t.Helper()
	file, err := authz.Open(policy)
	if err != nil {
		t.Fatal(err)
	}
	server, err := mesh.NewServer(m.Conns(t, "/gateway"), file)
	if err != nil {
		t.Fatal(err)
	}
	listener, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	runs := []func(context.Context) error{func(ctx context.Context) error { return server.Serve(ctx, listener) }}
	if watch {
		runs = append(runs, file.Watch)
	}
	ctx, cancel := context.WithCancel(context.Background())
	var running sync.WaitGroup
	for _, run := range runs {
		running.Go(func() {
			if err := run(ctx); err != nil {
				t.Error(err)
			}
		})
	}
	t.Cleanup(func() {
		cancel()
		running.Wait()
	})
	return listener.Addr().String()
}

// unchanged fails unless the policy file is as it was before the story, and alone.
func (s *vault) unchanged(t *testing.T) {
	t.Helper()
	path := s.settings.Mesh.Policy
	if data, err := os.ReadFile(path); err != nil || string(data) != s.before {
		t.Errorf("the policy file is now (%v)\n%s", err, data)
	}
	if entries, err := os.ReadDir(filepath.Dir(path)); err != nil || len(entries) != 1 {
		t.Errorf("beside it there is more: %v (%v)", entries, err)
	}
}
