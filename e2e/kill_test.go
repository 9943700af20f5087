package e2e

import (
	"context"
	"fmt"
	"maps"
	"math/rand/v2"
	"slices"
	"strings"
	"testing"
	"time"

	"google.golang.org/grpc"
	"google.golang.org/grpc/backoff"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/credentials"
	"google.golang.org/grpc/status"

	"github.com/countersign-mesh/countersign/e2e/internal/bank"
	"github.com/countersign-mesh/countersign/pkg/database/databasetest"
	ledgerv1 "github.com/countersign-mesh/countersign/proto/gen/bank/ledger/v1"
	paymentsv1 "github.com/countersign-mesh/countersign/proto/gen/bank/payments/v1"
)

// stores are the services whose databases a test puts on a PostgreSQL server.
func stores() []string { return []string{"ledger", "payments", "accounts", "risk", "login"} }

// onEach runs a test with a bank that keeps its state in SQLite files, and with one that keeps it on a PostgreSQL server of its own, which is
// nil in the first case.
func onEach(t *testing.T, test func(t *testing.T, mesh *bank.Apart, server *databasetest.Server), actors ...string) {
	t.Helper()
	t.Run("sqlite", func(t *testing.T) {
		home := dist.NewHome(t, actors...)
		lenient(t, home)
		test(t, home.Apart(t), nil)
	})
	t.Run("postgres", func(t *testing.T) {
		server := databasetest.StartServer(t)
		home := dist.NewHome(t, actors...)
		lenient(t, home)
		mesh := home.Apart(t)
		for _, service := range stores() {
			dsn, err := server.Create(t.Context(), service)
			if err != nil {
				t.Fatal(err)
			}
			mesh.Databases[service] = dsn
		}
		test(t, mesh, server)
	})
}

// TestKilledAtRandom kills the ledger, payments, or both with SIGKILL at random moments while 16 clients pay, some of whom leave in the middle of a
// call, and on PostgreSQL now and then the database too. In the end each payment that a client was told is done is in the books, once, and nothing
// else is, in either currency; no money is held any more, and the ledger's own command finds nothing wrong. ATTACKS 61.
func TestKilledAtRandom(t *testing.T) {
	onEach(t, func(t *testing.T, mesh *bank.Apart, server *databasetest.Server) {
		mesh.StartAll(t)
		operator := mesh.Identity(t, "operator")
		crowd := openCrowd(t, mesh, operator, 8, 4)
		paying, stop := context.WithCancel(t.Context())
		defer stop()
		wait := crowd.pay(paying, t, 16)
		k := &killer{mesh: mesh, operator: operator, random: rand.New(rand.NewPCG(crowd.seed, 1<<32)), served: make(map[string][]time.Duration)}
		const untilDatabase = 6
		for n := range rounds(20, 200) {
			crowd.waitForSome(t, 8)
			if n%2 == 0 {
				pause(t, time.Duration(k.random.IntN(400))*time.Millisecond)
			} else {
				crowd.waitForNext(t) // the moment when what was acknowledged too early is not on the disk yet
			}
			if server != nil && n%untilDatabase == untilDatabase-1 {
				k.killDatabase(t, server)
				continue
			}
			k.kill(t)
		}
		crowd.waitForSome(t, 8)
		stop()
		wait()
		newAuditor(t, mesh, operator).checkCrowd(t, crowd)
		verifyOffline(t, mesh)
		for _, name := range slices.Sorted(maps.Keys(k.served)) {
			t.Logf("%s: killed %d times; from its start to its first answer %s", name, len(k.served[name]), bestAndWorst(k.served[name]))
		}
	})
}

// killer kills processes and starts them again.
type killer struct {
	mesh     *bank.Apart
	operator *bank.Identity
	random   *rand.Rand
	served   map[string][]time.Duration // from exec to the first answered call
}

// kill kills the ledger, payments, or both, and starts them again at once.
func (k *killer) kill(t *testing.T) {
	t.Helper()
	victims := [][]string{{"ledger"}, {"ledger"}, {"payments"}, {"payments"}, {"ledger", "payments"}}[k.random.IntN(5)]
	k.mesh.Kill(t, victims...)
	started := make(map[string]time.Time)
	for _, name := range victims {
		started[name] = time.Now()
		k.mesh.Launch(t, name)
	}
	for _, name := range victims {
		answered := firstAnswer(t, k.mesh, k.operator, name)
		k.served[name] = append(k.served[name], answered.Sub(started[name]))
	}
}

// killDatabase kills PostgreSQL and starts it again.
func (k *killer) killDatabase(t *testing.T, server *databasetest.Server) {
	t.Helper()
	if err := server.Kill(); err != nil {
		t.Fatal(err)
	}
	started := time.Now()
	if err := server.Start(t.Context()); err != nil {
		t.Fatal(err)
	}
	k.served["postgres"] = append(k.served["postgres"], time.Since(started))
}

// firstAnswer waits for the first answer of a service that was started, and returns when it came.
func firstAnswer(t *testing.T, mesh *bank.Apart, operator *bank.Identity, name string) time.Time {
	t.Helper()
	impatient := grpc.ConnectParams{
		Backoff:           backoff.Config{BaseDelay: 5 * time.Millisecond, Multiplier: 1, MaxDelay: 5 * time.Millisecond},
		MinConnectTimeout: 5 * time.Second,
	}
	service, _, _ := strings.Cut(name, "-")
	conn, err := grpc.NewClient("passthrough:///"+mesh.Address(name), grpc.WithConnectParams(impatient),
		grpc.WithTransportCredentials(credentials.NewTLS(operator.TLS(service))))
	if err != nil {
		t.Fatal(err)
	}
	defer conn.Close()
	ask := func(ctx context.Context) error {
		_, err := ledgerv1.NewLedgerServiceClient(conn).GetBalance(ctx, &ledgerv1.GetBalanceRequest{AccountId: "bank-cash"}, grpc.WaitForReady(true))
		return err
	}
	if service == "payments" {
		ask = func(ctx context.Context) error {
			request := &paymentsv1.ListPaymentsRequest{AccountId: "acc-" + strings.Repeat("a", 26)}
			_, err := paymentsv1.NewPaymentServiceClient(conn).ListPayments(ctx, request, grpc.WaitForReady(true))
			return err
		}
	}
	for begin := time.Now(); ; {
		ctx, cancel := context.WithTimeout(t.Context(), 5*time.Second)
		err := ask(ctx)
		cancel()
		switch p := mesh.Process(name); {
		case err == nil:
			return time.Now()
		case !p.Running():
			t.Fatalf("%s ended with %d:\n%s", name, p.Wait(t, time.Second), p.Output())
		case status.Code(err) != codes.Unavailable && status.Code(err) != codes.DeadlineExceeded, time.Since(begin) > time.Minute:
			t.Fatalf("%s: %v\n%s", name, err, p.Output())
		}
	}
}

// bestAndWorst says how long something took.
func bestAndWorst(took []time.Duration) string {
	slices.Sort(took)
	at := func(i int) time.Duration { return took[i].Round(time.Millisecond) }
	return fmt.Sprintf("%v at least, %v in the middle, %v at most", at(0), at(len(took)/2), at(len(took)-1))
}
