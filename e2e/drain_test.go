package e2e

import (
	"context"
	"fmt"
	"syscall"
	"testing"
	"time"

	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	healthpb "google.golang.org/grpc/health/grpc_health_v1"
	"google.golang.org/grpc/status"

	"github.com/countersign-mesh/countersign/e2e/internal/bank"
	moneyv1 "github.com/countersign-mesh/countersign/proto/gen/bank/money/v1"
	paymentsv1 "github.com/countersign-mesh/countersign/proto/gen/bank/payments/v1"
	auditv1 "github.com/countersign-mesh/countersign/proto/gen/mesh/audit/v1"
)

// TestDrain sends SIGTERM to each service in turn while 32 callers call it. A call is either answered OK, and then its effect is
// there after a restart, or UNAVAILABLE, and then there is none and the policy was never asked about it: nothing that was
// accepted is lost.
func TestDrain(t *testing.T) {
	mesh := dist.NewHome(t, "gateway", "payments").Apart(t)
	mesh.StartAll(t)
	operator := mesh.Identity(t, "operator")
	alice, bob := fundedAccounts(t, mesh)
	exchange := bank.NewExchange(alice.phone, mesh.Dial(t, mesh.Identity(t, "gateway"), "login"))
	for _, test := range []drained{
		drainRisk(alice.id, bob.id),
		drainLedger(mesh, operator),
		drainAccounts(mesh, operator, exchange),
		drainPayments(mesh, operator, exchange, alice.id, bob.id),
		drainEdge(mesh, operator, bob.phone),
		drainLogin(alice.phone),
		{ // for the mesh it has a port of its own
			service: "gateway", actor: "operator", method: healthpb.Health_Check_FullMethodName,
			call: func(ctx context.Context, conn *grpc.ClientConn, _ int) error {
				_, err := healthpb.NewHealthClient(conn).Check(ctx, &healthpb.HealthCheckRequest{})
				return err
			},
		},
		{
			service: "audit", actor: "operator", method: auditv1.AuditService_ListDecisions_FullMethodName,
			call: func(ctx context.Context, conn *grpc.ClientConn, _ int) error {
				_, err := auditv1.NewAuditServiceClient(conn).ListDecisions(ctx, &auditv1.ListDecisionsRequest{PageSize: 5})
				return err
			},
		},
	} {
		t.Run(test.service+" "+test.actor, func(t *testing.T) { testDrain(t, mesh, test) })
	}
	t.Run("an open stream does not hold the drain up", func(t *testing.T) { testDrainStream(t, mesh, alice.id) })
}

func testDrain(t *testing.T, mesh *bank.Apart, test drained) {
	counted := test.service != "audit" && test.dial == nil // audit does not report to itself
	var actor *bank.Identity
	if test.dial == nil {
		actor = mesh.Identity(t, test.actor)
		test.dial = func(t *testing.T) *grpc.ClientConn { t.Helper(); return mesh.Dial(t, actor, test.service) }
	}
	conns := make([]*grpc.ClientConn, 4)
	for i := range conns {
		conns[i] = test.dial(t)
	}
	// What the service calls may have been restarted, and connections come back when they have waited long enough.
	bank.Eventually(t, 15*time.Second, func() string {
		if err := test.call(t.Context(), conns[0], 0); err != nil {
			return err.Error()
		}
		return ""
	})
	before := 0
	if counted {
		before = settled(t, func() int { return letIn(t, mesh, test, actor) })
	}
	load := bank.Drive(t.Context(), conns, test.call)
	bank.Eventually(t, 30*time.Second, func() string {
		if n := load.Done(); n < 300 {
			return fmt.Sprintf("%d calls done", n)
		}
		return ""
	})
	mesh.Process(test.service).Signal(t, syscall.SIGTERM)
	start := time.Now()
	if code := mesh.Process(test.service).Wait(t, 15*time.Second); code != 0 {
		t.Errorf("exit code %d after SIGTERM:\n%s", code, mesh.Process(test.service).Output())
	}
	stopped := time.Since(start)
	ok, refused, wrong := load.Outcome()
	for _, w := range wrong {
		t.Error(w)
	}
	t.Logf("%d calls answered, %d refused, stopped after %v", len(ok), len(refused), stopped.Round(time.Millisecond))
	mesh.Start(t, test.service)
	if test.effects != nil {
		effects := test.effects(t)
		for n := range ok {
			if !effects[request(test.service, n)] {
				t.Errorf("call %d was answered OK, and its effect is lost", n)
			}
		}
		for n := range refused {
			if effects[request(test.service, n)] {
				t.Errorf("call %d was accepted, and its answer is lost", n)
			}
		}
	}
	if counted {
		bank.Eventually(t, 10*time.Second, func() string {
			if got := letIn(t, mesh, test, actor) - before; got != len(ok) {
				return fmt.Sprintf("%d calls were let in and %d answered", got, len(ok))
			}
			return ""
		})
	}
}

// settled reads a number until it is above zero and stays the same for a second: decisions reach the audit service a little later.
func settled(t *testing.T, read func() int) int {
	t.Helper()
	last, since := 0, time.Now()
	bank.Eventually(t, 10*time.Second, func() string {
		if now := read(); now != last || now == 0 {
			last, since = now, time.Now()
		}
		if time.Since(since) < time.Second {
			return "the number of decisions changes"
		}
		return ""
	})
	return last
}

// letIn counts the calls of an actor that a service's policy let in, by the audit service.
func letIn(t *testing.T, mesh *bank.Apart, test drained, actor *bank.Identity) int {
	t.Helper()
	client := auditv1.NewAuditServiceClient(mesh.Dial(t, mesh.Identity(t, "operator"), "audit"))
	n, token := 0, ""
	for {
		page, err := client.ListDecisions(t.Context(), &auditv1.ListDecisionsRequest{
			Filter: &auditv1.DecisionFilter{
				PeerId: actor.ID(), ServerId: "spiffe://bank.test/" + test.service, Method: test.method, Verdict: auditv1.Verdict_VERDICT_ALLOWED,
			},
			PageSize: 1000, PageToken: token,
		})
		if err != nil {
			t.Fatal(err)
		}
		n += len(page.GetRecords())
		if token = page.GetNextPageToken(); token == "" {
			return n
		}
	}
}

// testDrainStream tells payments to stop while a stream is open that would never end by itself.
func testDrainStream(t *testing.T, mesh *bank.Apart, account string) {
	operator := mesh.Identity(t, "operator")
	stream, err := paymentsv1.NewPaymentServiceClient(mesh.Dial(t, operator, "payments")).
		WatchPayments(t.Context(), &paymentsv1.WatchPaymentsRequest{AccountId: account})
	if err != nil {
		t.Fatal(err)
	}
	if _, err := stream.Recv(); err != nil {
		t.Fatal(err)
	}
	start := time.Now()
	mesh.Process("payments").Signal(t, syscall.SIGTERM)
	for err == nil {
		_, err = stream.Recv()
	}
	if status.Code(err) != codes.Unavailable {
		t.Errorf("the stream ended with %v, want UNAVAILABLE, so that the caller comes back", err)
	}
	if code := mesh.Process("payments").Wait(t, 15*time.Second); code != 0 {
		t.Errorf("exit code %d", code)
	}
	t.Logf("stopped after %v", time.Since(start).Round(time.Millisecond))
	mesh.Start(t, "payments")
}

func euros(cents int64) *moneyv1.Money { return &moneyv1.Money{CurrencyCode: "EUR", MinorUnits: cents} }

// fundedAccounts opens accounts of two customers, with a phone each, and pays cash into the first.
func fundedAccounts(t *testing.T, mesh *bank.Apart) (alice, bob account) {
	t.Helper()
	open := func(phone *bank.Phone) account {
		return account{customer: phone.Customer, phone: phone, currency: "EUR", id: openAccount(t, phone, "open-"+phone.Customer, "EUR")}
	}
	phones := mesh.Phones(t, "alice", "bob")
	alice, bob = open(phones[0]), open(phones[1])
	alice.cash = aliceCash
	counter := paymentsv1.NewPaymentServiceClient(mesh.Dial(t, mesh.Identity(t, "operator"), "payments"))
	deposit, err := counter.DepositCash(t.Context(), &paymentsv1.DepositCashRequest{
		RequestId: "cash-for-alice", AccountId: alice.id, Amount: euros(alice.cash),
	})
	if err != nil {
		t.Fatal(err)
	}
	if state := deposit.GetPayment().GetState(); state != paymentsv1.PaymentState_PAYMENT_STATE_POSTED {
		t.Fatalf("the deposit is %v: %v", state, deposit.GetPayment().GetReasons())
	}
	return alice, bob
}

// collect reads every page of a list.
func collect(t *testing.T, list func(token string) (names []string, next string, err error)) map[string]bool {
	t.Helper()
	all := make(map[string]bool)
	for token := ""; ; {
		page, next, err := list(token)
		if err != nil {
			t.Fatal(err)
		}
		for _, name := range page {
			all[name] = true
		}
		if token = next; token == "" {
			return all
		}
	}
}

func names[T any](items []T, name func(T) string) []string {
	list := make([]string, len(items))
	for i, item := range items {
		list[i] = name(item)
	}
	return list
}
