package story

import (
	"bytes"
	"context"
	"errors"
	"log/slog"
	"net"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"testing"

	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"

	"github.com/countersign-mesh/countersign/cmd/countersign/internal/console"
	"github.com/countersign-mesh/countersign/cmd/countersign/internal/dial"
	"github.com/countersign-mesh/countersign/cmd/countersign/internal/rundir"
	"github.com/countersign-mesh/countersign/pkg/authz"
	"github.com/countersign-mesh/countersign/pkg/mesh"
	"github.com/countersign-mesh/countersign/pkg/meshtest"
	mobilev1 "github.com/countersign-mesh/countersign/proto/gen/bank/mobile/v1"
)

// door is a gateway that lists no accounts.
type door struct {
	mobilev1.UnimplementedMobileBankServiceServer
}

func (door) ListAccounts(context.Context, *mobilev1.ListAccountsRequest) (*mobilev1.ListAccountsResponse, error) {
	return &mobilev1.ListAccountsResponse{}, nil
}

// theft is a stage with a gateway, an operator and a thief with a phone.
type theft struct {
	*player
	out     bytes.Buffer
	before  string
	gateway *grpc.ClientConn
	serial  string
	// phone calls the gateway as the app does.
	phone func() error
}

// newTheft sets the stage. A gateway that does not watch its policy never notices a revocation.
func newTheft(t *testing.T, watch bool) *theft {
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
	address := serveDoor(t, m, path, watch)
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
	s := &theft{before: string(text), serial: m.Identity(t, "/mobile").Status().Serial, gateway: m.Dial(t, "/operator", "/gateway", address)}
	client := mobilev1.NewMobileBankServiceClient(m.Dial(t, "/mobile", "/gateway", address))
	s.phone = func() error {
		_, err := client.ListAccounts(context.Background(), &mobilev1.ListAccountsRequest{CustomerId: "alice"})
		return err
	}
	s.player = &player{
		out: console.New(&s.out, nil), operator: operator,
		settings: Settings{Mesh: rundir.Record{TrustDomain: "bank.test", Policy: path}},
	}
	return s
}

func serveDoor(t *testing.T, m *meshtest.Mesh, policy string, watch bool) (address string) {
	t.Helper()
	file, err := authz.Open(policy)
	if err != nil {
		t.Fatal(err)
	}
	server, err := mesh.NewServer(m.Conns(t, "/gateway"), file)
	if err != nil {
		t.Fatal(err)
	}
	mobilev1.RegisterMobileBankServiceServer(server, door{})
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
func (s *theft) unchanged(t *testing.T) {
	t.Helper()
	path := s.settings.Mesh.Policy
	if data, err := os.ReadFile(path); err != nil || string(data) != s.before {
		t.Errorf("the policy file is now (%v)\n%s", err, data)
	}
	if entries, err := os.ReadDir(filepath.Dir(path)); err != nil || len(entries) != 1 {
		t.Errorf("beside it there is more: %v (%v)", entries, err)
	}
}

// ATTACKS 37: a peer is revoked on an open connection.
func TestAThiefIsCutOff(t *testing.T) {
	t.Parallel()
	s := newTheft(t, true)
	if err := s.revokeThief(t.Context(), s.gateway, s.serial, s.phone); err != nil {
		t.Fatal(err)
	}
	if s.checks != 5 || s.differences != 0 {
		t.Errorf("%d of %d checks differ:\n%s", s.differences, s.checks, &s.out)
	}
	if !strings.Contains(s.out.String(), "is revoked (bank.yaml:") {
		t.Errorf("it is not said by which entry:\n%s", &s.out)
	}
	s.unchanged(t)
}

// A story that cannot fail tells nothing: a gateway that lets the thief go on must be found out.
func TestAGatewayThatLetsTheThiefGoOnIsFoundOut(t *testing.T) {
	t.Parallel()
	s := newTheft(t, false)
	if err := s.revokeThief(t.Context(), s.gateway, s.serial, s.phone); err != nil {
		t.Fatal(err)
	}
	if s.checks != 2 || s.differences != 1 || !strings.Contains(s.out.String(), "✗ the thief is refused") {
		t.Errorf("%d of %d checks differ:\n%s", s.differences, s.checks, &s.out)
	}
	s.unchanged(t)
}

func TestThePolicyIsAsItWasHoweverTheStoryEnds(t *testing.T) {
	t.Parallel()
	for name, test := range map[string]struct {
		// call is the thief's nth call, after the real one has succeeded.
		call func(n int, interrupt context.CancelFunc) error
		want string
	}{
		"when it is interrupted": {func(n int, interrupt context.CancelFunc) error {
			if n == 3 {
				interrupt()
			}
			return nil
		}, "context canceled"},
		"when the phone breaks": {func(n int, _ context.CancelFunc) error {
			if n == 3 {
				return errors.New("dropped")
			}
			return nil
		}, "dropped"},
		"when the phone never worked": {func(int, context.CancelFunc) error {
			return status.Error(codes.Unavailable, "no network")
		}, "no network"},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			s := newTheft(t, false)
			ctx, interrupt := context.WithCancel(t.Context())
			defer interrupt()
			n := 0
			err := s.revokeThief(ctx, s.gateway, s.serial, func() error {
				n++
				return errors.Join(s.phone(), test.call(n, interrupt))
			})
			if err == nil || !strings.Contains(err.Error(), test.want) {
				t.Errorf("the error is %v, want %q", err, test.want)
			}
			s.unchanged(t)
		})
	}
}
