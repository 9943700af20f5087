package meshtest_test

import (
	"testing"
	"time"

	"go.uber.org/goleak"
	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/health/grpc_health_v1"
	"google.golang.org/grpc/status"

	"github.com/countersign-mesh/countersign/pkg/identity"
	"github.com/countersign-mesh/countersign/pkg/meshtest"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

// policy lets payments ask for the health of a server, and nobody anything else.
const policy = `
trust_domain: bank.test
services:
  grpc.health.v1.Health:
    methods:
      Check: {allow: [{peer: /payments, why: asks before it pays}]}
      List: {allow: [{peer: /payments, why: asks before it pays}]}
      Watch: {allow: [{peer: /payments, why: asks before it pays}]}
  grpc.reflection.v1.ServerReflection:
    methods:
      ServerReflectionInfo: {allow: [{peer: /operator, why: looks after the services}]}
  mesh.admin.v1.AdminService:
    methods:
      ListConnections: {allow: [{peer: /operator, why: looks after the services}]}
      ListCuts: {allow: [{peer: /operator, why: looks after the services}]}
`

// nothing registers no service beside those that every server has.
func nothing(grpc.ServiceRegistrar) {}

// A test serves as one workload and calls as others.
func Example() {
	_ = func(t *testing.T) {
		mesh := meshtest.New(t, "bank.test", policy)
		addr := mesh.Serve(t, "/ledger", func(grpc.ServiceRegistrar) {
			// Register the service under test.
		})
		client := grpc_health_v1.NewHealthClient(mesh.Dial(t, "/risk", "/ledger", addr))
		_, err := client.Check(t.Context(), &grpc_health_v1.HealthCheckRequest{})
		if status.Code(err) != codes.PermissionDenied {
			t.Errorf("/risk may ask /ledger: %v", err)
		}
	}
	// Output:
}

// A test of what happens when identities change takes the authority and the Workload API into its own hands.
func ExampleWorkloadAPI() {
	_ = func(t *testing.T) {
		ca, api := meshtest.NewCA(t, "bank.test"), meshtest.NewWorkloadAPI(t)
		api.Grant(t, ca.SVID(t, "/ledger", meshtest.Lifetime(time.Minute)), ca.Bundle())
		source, err := identity.New(t.Context(), identity.WithSocket(api.Addr()))
		if err != nil {
			t.Fatal(err)
		}
		defer source.Close()
		api.Fail(status.Error(codes.PermissionDenied, "withdrawn"))
	}
	// Output:
}

func TestMesh(t *testing.T) {
	t.Parallel()
	m := meshtest.New(t, "bank.test", policy)
	addr := m.Serve(t, "/ledger", nothing)
	for _, c := range []struct {
		from, to string
		want     codes.Code
	}{
		{"/payments", "/ledger", codes.OK},
		{"/risk", "/ledger", codes.PermissionDenied},
		{"/payments", "/accounts", codes.Unavailable}, // the server is not who is dialled
	} {
		t.Run(c.from+" dials "+c.to, func(t *testing.T) {
			t.Parallel()
			client := grpc_health_v1.NewHealthClient(m.Dial(t, c.from, c.to, addr))
			_, err := client.Check(t.Context(), &grpc_health_v1.HealthCheckRequest{})
			if status.Code(err) != c.want {
				t.Errorf("err = %v, want %v", err, c.want)
			}
		})
	}
}

func TestMeshRotates(t *testing.T) {
	t.Parallel()
	m := meshtest.New(t, "bank.test", policy)
	client := grpc_health_v1.NewHealthClient(m.Dial(t, "/payments", "/ledger", m.Serve(t, "/ledger", nothing)))
	first := m.Identity(t, "/ledger").Status().Serial
	if _, err := client.Check(t.Context(), &grpc_health_v1.HealthCheckRequest{}); err != nil {
		t.Fatal(err)
	}
	for range 3 {
		m.CA().NewRoot(t)
		for _, path := range []string{"/ledger", "/payments"} {
			m.Rotate(t, path)
			if _, err := client.Check(t.Context(), &grpc_health_v1.HealthCheckRequest{}); err != nil {
				t.Fatalf("after the rotation of %s: %v", path, err)
			}
		}
	}
	if st := m.Identity(t, "/ledger").Status(); st.Serial == first || st.Rotations != 3 {
		t.Errorf("status = %+v", st)
	}
	if got := len(m.Conns(t, "/ledger").Conns()); got != 1 {
		t.Errorf("%d connections, want the first one", got)
	}
}
