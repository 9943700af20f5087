package meshtest_test

import (
	"context"
	"log/slog"
	"sync"
	"testing"
	"time"

	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"

	"github.com/countersign-mesh/countersign/pkg/identity"
	"github.com/countersign-mesh/countersign/pkg/meshtest"
	moneyv1 "github.com/countersign-mesh/countersign/proto/gen/bank/money/v1"
	riskv1 "github.com/countersign-mesh/countersign/proto/gen/bank/risk/v1"
)

// The examples show how to test a service of one's own under what happens to identities in the field. The service is called risk,
// payments is the one that may call it. Health, reflection and administration need no rules here: what the text does not name, nobody
// may call.
const rules = `
trust_domain: bank.test
services:
  bank.risk.v1.RiskService:
    methods:
      AssessPayment:
        allow:
          - peer: /payments
          - peer: spiffe://partner.test/shop
`

// risk is the service under test.
type risk struct {
	riskv1.UnimplementedRiskServiceServer
}

func (risk) AssessPayment(context.Context, *riskv1.AssessPaymentRequest) (*riskv1.AssessPaymentResponse, error) {
	return &riskv1.AssessPaymentResponse{Verdict: riskv1.Verdict_VERDICT_ALLOW}, nil
}

// register is what the service's main gives to its server.
func register(s grpc.ServiceRegistrar) { riskv1.RegisterRiskServiceServer(s, risk{}) }

// assess calls the service.
func assess(t *testing.T, conn grpc.ClientConnInterface) error {
	t.Helper()
	const account = "acc-aaaaaaaaaaaaaaaaaaaaaaaaaa"
	_, err := riskv1.NewRiskServiceClient(conn).AssessPayment(t.Context(), &riskv1.AssessPaymentRequest{
		PaymentId: "pay-aaaaaaaaaaaaaaaaaaaaaaaaaa", PayerCustomerId: "alice", PayerAccountId: account, PayeeAccountId: account,
		Amount: &moneyv1.Money{CurrencyCode: "EUR", MinorUnits: 100},
	})
	return err
}

// A test serves as one workload and calls as others.
func Example() {
	test(func(t *testing.T) {
		m := meshtest.New(t, "bank.test", rules)
		addr := m.Serve(t, "/risk", register)
		if err := assess(t, m.Dial(t, "/payments", "/risk", addr)); err != nil {
			t.Errorf("payments may not call: %v", err)
		}
		if err := assess(t, m.Dial(t, "/gateway", "/risk", addr)); status.Code(err) != codes.PermissionDenied {
			t.Errorf("gateway may call: %v", err)
		}
	})
	// Output:
}

// await waits until an identity is in a state.
func await(t *testing.T, source *identity.Source, want identity.State) {
	t.Helper()
	for {
		changed := source.Changed() // before the look, so that no change is missed
		if source.Status().State == want {
			return
		}
		select {
		case <-changed:
		case <-time.After(time.Minute):
			t.Fatalf("identity is %s, want %s", source.Status(), want)
		}
	}
}

// SVIDs and the authority are replaced while calls are made. None of them may fail.
func ExampleMesh_Rotate() {
	test(func(t *testing.T) {
		m := meshtest.New(t, "bank.test", rules)
		conn := m.Dial(t, "/payments", "/risk", m.Serve(t, "/risk", register))

		stop, calls := make(chan struct{}), 0
		var calling sync.WaitGroup
		calling.Go(func() {
			for {
				select {
				case <-stop:
					return
				default:
				}
				if err := assess(t, conn); err != nil {
					t.Errorf("call %d: %v", calls, err)
				}
				calls++
			}
		})
		for range 5 {
			m.Rotate(t, "/risk")
			m.Rotate(t, "/payments")
			m.RotateAuthority(t)
		}
		close(stop)
		calling.Wait()

		if got := m.Identity(t, "/risk").Status().Rotations; got != 10 || calls == 0 {
			t.Errorf("%d calls saw %d rotations, want some to see 10", calls, got)
		}
	})
	// Output:
}

// The policy revokes a peer that is connected. SetPolicy returns when the policy is in force, so the next call is decided by it.
func ExampleMesh_SetPolicy() {
	test(func(t *testing.T) {
		m := meshtest.New(t, "bank.test", rules)
		conn := m.Dial(t, "/payments", "/risk", m.Serve(t, "/risk", register))
		if err := assess(t, conn); err != nil {
			t.Fatal(err)
		}

		m.SetPolicy(t, rules+"revoked: [{id: /payments, why: its host was broken into}]\n")

		switch err := assess(t, conn); status.Code(err) {
		case codes.PermissionDenied, codes.Unauthenticated, codes.Unavailable: // denied; cut; and not connected again
		default:
			t.Errorf("a revoked peer calls: %v", err)
		}

		m.SetPolicy(t, rules)
		ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
		defer cancel()
		within(ctx, t, codes.OK, func() error { return assess(t, conn) }) // once the client has connected again
	})
	// Output:
}

// shorten grants a workload an SVID that expires within a test. On a machine that stands still meanwhile it has expired before it arrives,
// and is refused: the next one lives longer.
func shorten(t *testing.T, m *meshtest.Mesh, workload string) {
	t.Helper()
	source := m.Identity(t, workload)
	for life := 4 * time.Second; life < time.Minute; life *= 2 {
		svid := m.CA().SVID(t, workload, meshtest.Lifetime(life))
		m.API(t, workload).Grant(t, svid, m.CA().Bundle())
		expired := time.After(life)
		for waiting := true; waiting; {
			changed := source.Changed() // before the look, so that no change is missed
			if source.Status().Serial == svid.Certificates[0].SerialNumber.Text(16) {
				return
			}
			select {
			case <-changed:
			case <-expired:
				waiting = false
			}
		}
	}
	t.Fatalf("no short-lived SVID was taken: %s", source.Status())
}

// The Workload API goes away. The SVID at hand is used until it expires, and no longer; the service is back with the API.
func ExampleMesh_API() {
	test(func(t *testing.T) {
		m := meshtest.New(t, "bank.test", rules)
		conn := m.Dial(t, "/payments", "/risk", m.Serve(t, "/risk", register))
		api, source := m.API(t, "/payments"), m.Identity(t, "/payments")
		shorten(t, m, "/payments")

		api.Stop()
		if err := assess(t, conn); err != nil && time.Now().Before(source.Status().NotAfter) {
			t.Errorf("before expiry: %v", err)
		}
		await(t, source, identity.StateExpired)
		ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
		defer cancel()
		within(ctx, t, codes.Unavailable, func() error { return assess(t, conn) })

		api.Start(t)
		m.Rotate(t, "/payments")
		within(ctx, t, codes.OK, func() error { return assess(t, conn) })
	})
	// Output:
}

// A workload of another trust domain is a stranger, whatever the policy allows it, until the two domains federate.
func ExampleMesh_Federate() {
	test(func(t *testing.T) {
		const shop = "spiffe://partner.test/shop"
		m := meshtest.New(t, "bank.test", rules)
		addr := m.Serve(t, "/risk", register)

		if err := assess(t, m.Dial(t, shop, "/risk", addr)); status.Code(err) != codes.Unavailable {
			t.Errorf("a stranger: %v, want no connection", err)
		}

		m.Federate(t, "partner.test")
		if err := assess(t, m.Dial(t, shop, "/risk", addr)); err != nil {
			t.Errorf("federated: %v", err)
		}
	})
	// Output:
}

// The Workload API grants the right name by another authority: nobody in the mesh believes it.
func ExampleCA() {
	test(func(t *testing.T) {
		m := meshtest.New(t, "bank.test", rules)
		addr := m.Serve(t, "/risk", register)

		impostor := meshtest.NewCA(t, "bank.test")
		source := m.Identity(t, "/payments")
		changed := source.Changed()
		m.API(t, "/payments").Grant(t, impostor.SVID(t, "/payments"), impostor.Bundle(), m.CA().Bundle())
		<-changed

		if err := assess(t, m.Dial(t, "/payments", "/risk", addr)); status.Code(err) != codes.Unavailable {
			t.Errorf("an impostor: %v, want no connection", err)
		}
	})
	// Output:
}

// A process that is granted several identities chooses one, by its ID or by the hint that the operator gave it.
func ExampleWorkloadAPI() {
	test(func(t *testing.T) {
		ca, api := meshtest.NewCA(t, "bank.test"), meshtest.NewWorkloadAPI(t)
		inside, outside := ca.SVID(t, "/gateway"), ca.SVID(t, "/public-gateway")
		inside.Hint, outside.Hint = "internal", "external"
		api.Send(meshtest.Response(t, ca.Bundle(), nil, inside, outside))

		source, err := identity.New(t.Context(), identity.WithSocket(api.Addr()), identity.WithHint("external"),
			identity.WithLogger(slog.New(slog.DiscardHandler)))
		if err != nil {
			t.Fatal(err)
		}
		defer source.Close()
		if got := source.ID(); got != outside.ID {
			t.Errorf("the identity is %s, want %s", got, outside.ID)
		}
	})
	// Output:
}

// The identity is withdrawn: the process holds on to nothing, and is back when it is granted again.
func ExampleMesh_API_withdrawn() {
	test(func(t *testing.T) {
		m := meshtest.New(t, "bank.test", rules)
		conn := m.Dial(t, "/payments", "/risk", m.Serve(t, "/risk", register))
		source := m.Identity(t, "/payments")

		m.API(t, "/payments").Fail(status.Error(codes.PermissionDenied, "no identity issued"))
		await(t, source, identity.StateWithdrawn)
		ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
		defer cancel()
		within(ctx, t, codes.Unavailable, func() error { return assess(t, conn) })

		m.Rotate(t, "/payments")
		within(ctx, t, codes.OK, func() error { return assess(t, conn) })
	})
	// Output:
}
