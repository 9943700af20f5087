package actor_test

import (
	"context"
	"errors"
	"log/slog"
	"os"
	"path/filepath"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"github.com/spiffe/go-spiffe/v2/spiffeid"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"

	"github.com/countersign-mesh/countersign/cmd/countersign/internal/actor"
	"github.com/countersign-mesh/countersign/cmd/countersign/internal/dial"
	"github.com/countersign-mesh/countersign/pkg/meshtest"
	ledgerv1 "github.com/countersign-mesh/countersign/proto/gen/bank/ledger/v1"
)

var quiet = slog.New(slog.DiscardHandler)

// theatre serves actors with the identity of a Workload API, each with a workload of its own.
type theatre struct {
	actor.Sockets
	// opened counts the workloads that were opened.
	opened atomic.Int32
	// stop ends it and returns what ServeAll does.
	stop func() error
}

const role = "thief"

// newTheatre serves until the test ends.
func newTheatre(t *testing.T, endpoint string, to dial.Target) *theatre {
	t.Helper()
	// Not t.TempDir: with the test's name in it a socket would not fit in.
	dir, err := os.MkdirTemp("", "cs-") //nolint:usetesting // see above
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := os.RemoveAll(dir); err != nil {
			t.Error(err)
		}
	})
	listener, err := actor.Listen(t.Context(), filepath.Join(dir, role, actor.SocketName))
	if err != nil {
		t.Fatal(err)
	}
	s := &theatre{Sockets: actor.Sockets{Dir: dir}}
	ctx, cancel := context.WithCancel(context.Background())
	result := make(chan error, 1)
	go func() {
		result <- actor.ServeAll(ctx, listener, func(ctx context.Context) (*dial.Workload, []dial.Target, error) {
			s.opened.Add(1)
			w, err := dial.Open(ctx, endpoint, quiet)
			return w, []dial.Target{to}, err
		}, quiet)
		close(result)
	}()
	s.stop = func() error {
		cancel()
		return <-result
	}
	t.Cleanup(func() {
		if err := s.stop(); err != nil {
			t.Error(err)
		}
	})
	return s
}

// meet meets an actor.
func (s *theatre) meet(t *testing.T, to dial.Target) *actor.Actor {
	t.Helper()
	a, err := s.Act(t.Context(), role, to)
	if err != nil {
		t.Fatal(err)
	}
	return a
}

func askBalance(a *actor.Actor) error {
	return a.Call(balance, &ledgerv1.GetBalanceRequest{AccountId: "bank-cash"}, &ledgerv1.GetBalanceResponse{})
}

func TestEachConnectionIsAnActorOfItsOwn(t *testing.T) {
	t.Parallel()
	m, to := stage(t)
	m.Identity(t, "/accounts")
	s := newTheatre(t, m.API(t, "/accounts").Addr(), to)
	first, second := s.meet(t, to), s.meet(t, to)
	if got := s.opened.Load(); got != 2 {
		t.Errorf("two actors opened %d workloads", got)
	}
	if first.SPIFFEID() != "spiffe://bank.test/accounts" {
		t.Errorf("it is %s", first.SPIFFEID())
	}
	if err := errors.Join(askBalance(first), askBalance(second), first.Close()); err != nil {
		t.Error(err)
	}
	if err := errors.Join(askBalance(second), second.Close()); err != nil {
		t.Errorf("once the other has ended: %v", err)
	}
}

func TestWhatGoesWrongBehindASocketIsSaidToWhoConnected(t *testing.T) {
	t.Parallel()
	m, to := stage(t)
	m.Identity(t, "/accounts")
	s := newTheatre(t, m.API(t, "/accounts").Addr(), to)

	a := s.meet(t, to)
	err := a.Call(actor.Call{Server: books, Method: "bank.Nobody/Steal"}, &ledgerv1.GetBalanceRequest{}, &ledgerv1.GetBalanceResponse{})
	if err == nil || !strings.Contains(err.Error(), `no contract of "bank.Nobody/Steal"`) {
		t.Errorf("an order without a contract: %v", err)
	}
	if err := a.Close(); err != nil {
		t.Error(err)
	}

	payments := dial.Target{Address: to.Address, ID: spiffeid.RequireFromString("spiffe://bank.test/payments")}
	if _, err := s.Act(t.Context(), role, payments); err == nil || !strings.Contains(err.Error(), "it calls spiffe://bank.test/ledger, and must call spiffe://bank.test/payments") {
		t.Errorf("an actor that calls another server: %v", err)
	}
	if _, err := s.Act(t.Context(), "burglar", to); err == nil || !strings.Contains(err.Error(), "docker compose --profile demo up") {
		t.Errorf("an actor that is not there: %v", err)
	}

	api := meshtest.NewWorkloadAPI(t)
	api.Fail(status.Error(codes.PermissionDenied, "no identity issued"))
	if _, err := newTheatre(t, api.Addr(), to).Act(t.Context(), role, to); err == nil || !strings.Contains(err.Error(), "no identity issued") {
		t.Errorf("an actor without an identity: %v", err)
	}
}

// An actor that waits for orders must not keep its program from ending.
func TestTheEndOfAProgramEndsItsActors(t *testing.T) {
	t.Parallel()
	m, to := stage(t)
	m.Identity(t, "/accounts")
	s := newTheatre(t, m.API(t, "/accounts").Addr(), to)
	a := s.meet(t, to)
	if err := askBalance(a); err != nil {
		t.Fatal(err)
	}
	if err := s.stop(); err != nil {
		t.Error(err)
	}
	if err := askBalance(a); err == nil {
		t.Error("it acts on")
	}
	_ = a.Close() // there is nobody to take leave of
	if _, err := os.Lstat(filepath.Join(s.Dir, role, actor.SocketName)); !errors.Is(err, os.ErrNotExist) {
		t.Errorf("the socket is still there: %v", err)
	}
}

func TestAnActorEndsWithWhoOrdered(t *testing.T) {
	t.Parallel()
	m, to := stage(t)
	m.Identity(t, "/accounts")
	s := newTheatre(t, m.API(t, "/accounts").Addr(), to)
	ctx, cancel := context.WithCancel(t.Context())
	a, err := s.Act(ctx, role, to)
	if err != nil {
		t.Fatal(err)
	}
	cancel()
	deadline := time.Now().Add(20 * time.Second)
	for askBalance(a) == nil {
		if time.Now().After(deadline) {
			t.Fatal("it acts on")
		}
	}
	if err := a.Close(); err != nil {
		t.Error(err)
	}
}
