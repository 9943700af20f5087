package mesh_test

import (
	"context"
	"log/slog"
	"net"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/spiffe/go-spiffe/v2/spiffeid"
	"google.golang.org/grpc"
	"google.golang.org/grpc/resolver"

	"github.com/countersign-mesh/countersign/pkg/mesh"
	"github.com/countersign-mesh/countersign/pkg/meshtest"
	"github.com/countersign-mesh/countersign/pkg/transport"
)

// replicasResolver resolves a target such as "replicas:///127.0.0.1:1,127.0.0.1:2", as DNS does a name with several addresses.
type replicasResolver struct{}

func (replicasResolver) Scheme() string { return "replicas" }

func (replicasResolver) OverrideAuthority(resolver.Target) string { return "ledger" }

func (r replicasResolver) Build(target resolver.Target, cc resolver.ClientConn, _ resolver.BuildOptions) (resolver.Resolver, error) {
	var state resolver.State
	for addr := range strings.SplitSeq(target.Endpoint(), ",") {
		state.Endpoints = append(state.Endpoints, resolver.Endpoint{Addresses: []resolver.Address{{Addr: addr}}})
	}
	return r, cc.UpdateState(state)
}

func (replicasResolver) ResolveNow(resolver.ResolveNowOptions) {}
func (replicasResolver) Close()                                {}

// replica is one of several servers with one identity, each a process of its own.
type replica struct {
	server   *mesh.Server
	echo     *echo
	recorded *records
	addr     string
	conns    *transport.Registry
	// stop drains the server and waits for that.
	stop func()
}

// replicas are the servers of /ledger, and a client of them.
type replicas struct {
	all    []*replica
	ca     *meshtest.CA
	client *transport.Registry
}

// newReplicas starts three servers under a policy.
func newReplicas(t *testing.T, r *rules) *replicas {
	t.Helper()
	w := &replicas{ca: meshtest.NewCA(t, "bank.test")}
	for range 3 {
		w.all = append(w.all, w.start(t, r))
	}
	w.client = newRegistry(t, newOwner(w.ca.SVID(t, "/payments"), w.ca.Bundle()))
	return w
}

func (w *replicas) start(t *testing.T, r *rules) *replica {
	t.Helper()
	one := &replica{echo: newEcho(), recorded: &records{}, conns: newRegistry(t, newOwner(w.ca.SVID(t, "/ledger"), w.ca.Bundle()))}
	t.Cleanup(one.echo.close)
	var err error
	one.server, err = mesh.NewServer(one.conns, r.file, mesh.WithLogger(slog.New(slog.DiscardHandler)), mesh.WithRecorder(one.recorded))
	if err != nil {
		t.Fatal(err)
	}
	one.server.RegisterService(one.echo.service(), one.echo)
	listener, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	one.addr = listener.Addr().String()
	ctx, stop := context.WithCancel(context.Background())
	served := make(chan error, 1)
	go func() { served <- one.server.Serve(ctx, listener) }()
	one.stop = sync.OnceFunc(func() {
		stop()
		if err := <-served; err != nil {
			t.Errorf("Serve = %v", err)
		}
	})
	t.Cleanup(one.stop)
	return one
}

func ledgerID() spiffeid.ID { return spiffeid.RequireFromString("spiffe://bank.test/ledger") }

// dial connects the client to all of them by one name.
func (w *replicas) dial(t *testing.T, own *rules, opts ...mesh.DialOption) *grpc.ClientConn {
	t.Helper()
	var addrs []string
	for _, one := range w.all {
		addrs = append(addrs, one.addr)
	}
	conn, err := mesh.Dial(w.client, own.file, "replicas:///"+strings.Join(addrs, ","), ledgerID(), opts...)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = conn.Close() })
	return conn
}

// decided returns the decisions of a server on a method.
func (r *replica) decided(method string) (allowed, denied int) {
	r.recorded.mu.Lock()
	defer r.recorded.mu.Unlock()
	for _, d := range r.recorded.list {
		switch {
		case d.Method != method:
		case d.Allowed:
			allowed++
		default:
			denied++
		}
	}
	return allowed, denied
}

// calls returns how many calls a server has let in.
func (r *replica) calls() int {
	n, _ := r.decided(unaryMethod)
	return n
}

// shares makes calls, each of which must go well, and returns how many of them each server got.
func (w *replicas) shares(t *testing.T, conn *grpc.ClientConn, calls int) []int {
	t.Helper()
	shares := make([]int, len(w.all))
	for i, one := range w.all {
		shares[i] = -one.calls()
	}
	for range calls {
		ctx, cancel := context.WithTimeout(t.Context(), 10*time.Second)
		if err := say(ctx, conn); err != nil {
			t.Errorf("a call: %v", err)
		}
		cancel()
	}
	for i, one := range w.all {
		shares[i] += one.calls()
	}
	return shares
}

// shared waits until calls are shared as they should be.
func (w *replicas) shared(t *testing.T, conn *grpc.ClientConn, want ...int) {
	t.Helper()
	var all int
	for _, n := range want {
		all += n
	}
	eventually(t, "calls are shared as they should be", func() bool {
		for i, n := range w.shares(t, conn, all) {
			if n != want[i] {
				return false
			}
		}
		return true
	})
}
