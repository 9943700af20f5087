package identity_test

import (
	"log/slog"
	"strings"
	"testing"
	"time"

	"github.com/spiffe/go-spiffe/v2/proto/spiffe/workload"
	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/credentials/insecure"
	"google.golang.org/grpc/status"

	"github.com/countersign-mesh/countersign/pkg/identity"
	"github.com/countersign-mesh/countersign/pkg/meshtest"
)

// What the Workload API and its endpoint ask of a client. What the other standards ask of a verifier is in the tables of refusals and
// acceptances.

// The test kit's API answers INVALID_ARGUMENT to whoever sends no header, as every other does.
func TestWorkloadEndpointHeader(t *testing.T) {
	t.Parallel()
	holds(t, "Workload Endpoint §3 header", "Workload Endpoint §3 grpc")
	f := newFixture(t)
	conn, err := grpc.NewClient(f.api.Addr(), grpc.WithTransportCredentials(insecure.NewCredentials()))
	if err != nil {
		t.Fatal(err)
	}
	defer conn.Close()
	stream, err := workload.NewSpiffeWorkloadAPIClient(conn).FetchX509SVID(t.Context(), &workload.X509SVIDRequest{})
	if err == nil {
		_, err = stream.Recv()
	}
	if status.Code(err) != codes.InvalidArgument {
		t.Errorf("without the header: %v, want INVALID_ARGUMENT", err)
	}
	if svid, err := f.source.GetX509SVID(); err != nil || svid.ID.String() != payments {
		t.Errorf("the source, which sends it, has %v, %v", svid, err)
	}
}

func TestWorkloadEndpointFromTheEnvironment(t *testing.T) {
	holds(t, "Workload Endpoint §4 environment")
	ca, api, other := meshtest.NewCA(t, "bank.test"), meshtest.NewWorkloadAPI(t), meshtest.NewWorkloadAPI(t)
	api.Grant(t, ca.SVID(t, "/payments"), ca.Bundle())
	other.Grant(t, ca.SVID(t, "/ledger"), ca.Bundle())
	t.Setenv("SPIFFE_ENDPOINT_SOCKET", api.Addr())
	for _, c := range []struct {
		name string
		opts []identity.Option
		want string
	}{
		{"not configured", nil, payments},
		{"configured", []identity.Option{identity.WithSocket(other.Addr())}, "spiffe://bank.test/ledger"},
	} {
		source, err := identity.New(t.Context(), append(c.opts, identity.WithLogger(slog.New(slog.DiscardHandler)))...)
		if err != nil {
			t.Fatalf("%s: %v", c.name, err)
		}
		if got := source.ID().String(); got != c.want {
			t.Errorf("%s: it is %s, want %s", c.name, got, c.want)
		}
		if err := source.Close(); err != nil {
			t.Error(err)
		}
	}
}

func TestWorkloadEndpointAddresses(t *testing.T) {
	t.Parallel()
	for _, c := range []struct{ name, addr, holds string }{
		{"another scheme", "http://127.0.0.1:8000", "scheme"},
		{"no scheme", "/run/agent.sock", "scheme"},
		{"unix with an authority", "unix://run/agent.sock", "unix-path"},
		{"unix with a relative path", "unix:run/agent.sock", "unix-path"},
		{"unix without a path", "unix://", "unix-path"},
		{"unix with a query", "unix:///run/agent.sock?x=1", "unix-path"},
		{"unix with a fragment", "unix:///run/agent.sock#x", "unix-path"},
		{"tcp with a host name", "tcp://localhost:8000", "tcp-ip-and-port"},
		{"tcp without a port", "tcp://127.0.0.1", "tcp-ip-and-port"},
		{"tcp with a path", "tcp://127.0.0.1:8000/foo", "tcp-ip-and-port"},
		{"tcp with userinfo", "tcp://me@127.0.0.1:8000", "tcp-ip-and-port"},
	} {
		t.Run("Workload Endpoint §4: "+c.name, func(t *testing.T) {
			t.Parallel()
			holds(t, "Workload Endpoint §4 "+c.holds)
			source, err := identity.New(t.Context(), identity.WithSocket(c.addr), identity.WithStartTimeout(time.Second), identity.WithLogger(slog.New(slog.DiscardHandler)))
			if err == nil {
				_ = source.Close()
			}
			if err == nil || !strings.Contains(err.Error(), "it must look like") {
				t.Errorf("%s is taken for an address: %v", c.addr, err)
			}
		})
	}
}

// ATTACKS 23: a federated bundle that is no longer sent is trusted no more.
func TestWorkloadAPIRetainsNothing(t *testing.T) {
	t.Parallel()
	holds(t, "Workload API §4.4 nothing-retained")
	f := newFixture(t)
	partner := meshtest.NewCA(t, "partner.test")
	chain := partner.SVID(t, "/clearing").Certificates
	v := identity.NewVerifier(f.source)
	believed := func() bool {
		_, err := v.Verify(chain)
		return err == nil
	}
	if believed() {
		t.Error("believed before its bundle was sent")
	}
	f.api.Grant(t, f.ca.SVID(t, "/payments"), f.ca.Bundle(), partner.Bundle())
	eventually(t, "the federated bundle is taken", believed)
	f.api.Grant(t, f.ca.SVID(t, "/payments"), f.ca.Bundle())
	eventually(t, "the federated bundle is dropped", func() bool { return !believed() })
}
