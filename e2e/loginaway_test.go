package e2e

import (
	"context"
	"database/sql"
	"fmt"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"

	"github.com/countersign-mesh/countersign/e2e/internal/bank"
	mobilev1 "github.com/countersign-mesh/countersign/proto/gen/bank/mobile/v1"
	paymentsv1 "github.com/countersign-mesh/countersign/proto/gen/bank/payments/v1"
)

// TestLoginKilled kills login under load. Who is logged in stays so: nobody's token is refused, what phones read they go on reading with the tokens
// that are there, their watches go on, and a payment that had begun is posted with the token that it has. New payments have to wait, are told UNAVAILABLE, and are
// done soon after login is back. All payments are in the books, once.
func TestLoginKilled(t *testing.T) {
	home := dist.NewHome(t)
	untiring(t, home)
	mesh := home.Apart(t)
	mesh.StartAll(t)
	operator := mesh.Identity(t, "operator")
	customers := openFor(t, mesh, operator, 4, 1_000_000)
	paying, stopPaying := context.WithCancel(t.Context())
	defer stopPaying()
	calling := bank.NewCallers(t)
	var group sync.WaitGroup
	for _, c := range customers {
		calling.Add(t.Context(), func(ctx context.Context, _ string, _ int) error {
			_, err := c.phone.Bank().ListAccounts(ctx, &mobilev1.ListAccountsRequest{})
			return err
		}, "reader "+c.name)
		group.Go(func() { c.pay(paying, t) })
	}
	stream, err := customers[0].phone.Bank().WatchActivity(t.Context(), &mobilev1.WatchActivityRequest{AccountId: customers[0].account})
	if err != nil {
		t.Fatal(err)
	}
	watched := newWatch(func() error { _, err := stream.Recv(); return err })
	waitForPayments(t, customers)

	mesh.Kill(t, "login")
	away := time.Now()
	_, err = customers[1].phone.Bank().Transfer(t.Context(), &mobilev1.TransferRequest{
		RequestId: "while-login-is-away", PayerAccountId: customers[1].account, PayeeAccountId: customers[1].shop, Amount: euros(1),
	})
	if status.Code(err) != codes.Unavailable {
		t.Errorf("a payment while login is away: want UNAVAILABLE, got %v", err)
	}
	untilItFails(t, calling, 5*time.Second)
	mesh.Start(t, "login")
	back := time.Now()
	waitForPayments(t, customers)
	t.Logf("login was away for %v; payments go on within %v", back.Sub(away).Round(100*time.Millisecond), time.Since(back).Round(100*time.Millisecond))
	stopPaying()
	group.Wait()
	if failed := bank.Failures(calling.Stop()); len(failed) > 0 {
		t.Errorf("%d times reading has failed:\n%s", len(failed), bank.Describe(failed))
	}
	if err := watched.ended(); err != nil {
		t.Errorf("a watch has ended: %v", err)
	}
	checkBooks(t, mesh, operator, customers)
}

// TestLoginKilledInAPayment kills login while a payment waits for the ledger, and sees the payment through without.
func TestLoginKilledInAPayment(t *testing.T) {
	mesh := dist.NewHome(t).Apart(t)
	d := newDesk(t, mesh)
	d.transfer(t, "before-all-that", 1_00, isDone)
	mesh.Process("ledger").Signal(t, syscall.SIGSTOP)
	answered := make(chan error, 1)
	go func() {
		response, err := d.alice.phone.Bank().Transfer(t.Context(), pays(d.alice, d.bob, "login-is-killed", 12_34))
		if err == nil && response.GetTransfer().GetStatus() != isDone {
			err = fmt.Errorf("%v", response.GetTransfer())
		}
		answered <- err
	}()
	bank.Eventually(t, 10*time.Second, func() string {
		list, err := d.payments.ListPayments(t.Context(), &paymentsv1.ListPaymentsRequest{AccountId: d.bob.id})
		if err != nil {
			return err.Error()
		}
		for _, p := range list.GetPayments() {
			if p.GetRequestId() == "login-is-killed" || p.GetAmount().GetMinorUnits() == 12_34 {
				return ""
			}
		}
		return "the payment has not begun: " + list.String()
	})
	mesh.Kill(t, "login")
	mesh.Process("ledger").Signal(t, syscall.SIGCONT)
	if err := <-answered; err != nil {
		t.Errorf("a payment that had its token before login was killed: %v", err)
	}
	d.has(t, 13_34, 2)
	mesh.Start(t, "login")
}

// TestStartedBeforeLogin starts the services before there is a login. They are not ready while they cannot tell for whom they are called, and as soon as they are,
// customers are served: nobody is told that the bank is not available by a service that has said that it is.
func TestStartedBeforeLogin(t *testing.T) {
	mesh := dist.NewHome(t).Apart(t)
	mesh.Start(t, "authority", "audit", "risk")
	early := []string{"ledger", "accounts", "payments", "gateway"}
	for _, service := range early {
		mesh.Launch(t, service)
	}
	for _, service := range early {
		bank.Eventually(t, 20*time.Second, func() string {
			if why := mesh.Ready(t.Context(), service); !strings.Contains(why, "key") && !strings.Contains(why, "login") {
				return "it says nothing of login: " + why
			}
			return ""
		})
	}
	mesh.Start(t, "login")
	begun := time.Now()
	for _, service := range early {
		bank.Eventually(t, 10*time.Second, func() string { return mesh.Ready(t.Context(), service) })
	}
	t.Logf("all ready %v after login", time.Since(begun).Round(10*time.Millisecond))
	alice, bob := fundedAccounts(t, mesh)
	response, err := alice.phone.Bank().Transfer(t.Context(), pays(alice, bob, "the-first-of-all", 1_00))
	if err != nil || response.GetTransfer().GetStatus() != isDone {
		t.Errorf("the first payment: %v, %v", response, err)
	}
}

// TestTokenKeysReplaced has login sign with other keys, twice, while customers pay, whose sessions are of before and of after. No call fails: a key is
// published long before it signs anything, and long after. Time is made to pass in login's database. ATTACKS 57.
func TestTokenKeysReplaced(t *testing.T) {
	t.Parallel()
	home := dist.NewHome(t)
	untiring(t, home)
	mesh := home.Apart(t)
	mesh.StartAll(t)
	operator := mesh.Identity(t, "operator")
	customers := openFor(t, mesh, operator, 4, 1_000_000)
	calling := bank.NewCallers(t)
	calling.Add(t.Context(), payFrom(customers...), customerNames(customers)...)
	seen := make(map[string]bool)
	for n := range 3 {
		again := *customers[0].phone
		again.LogIn(t, again.Edge, false)
		token, err := again.Session.Token(t.Context())
		if err != nil {
			t.Fatal(err)
		}
		seen[fmt.Sprint(bank.ParseJWS(t, token).Header["kid"])] = true
		if _, err := again.Bank().ListAccounts(t.Context(), &mobilev1.ListAccountsRequest{}); err != nil {
			t.Errorf("with a token of after %d changes of keys: %v", n, err)
		}
		if n < 2 {
			age(t, mesh)
			was := signingKey(t.Context(), t, mesh, "access")
			bank.Eventually(t, 90*time.Second, func() string {
				if signingKey(t.Context(), t, mesh, "access").Equal(was) {
					return "login goes on signing with the same key"
				}
				return ""
			})
		}
	}
	if len(seen) != 3 {
		t.Errorf("tokens were signed by the keys %v, want three", seen)
	}
	outcomes := calling.Stop()
	if failed := bank.Failures(outcomes); len(failed) > 0 {
		t.Errorf("%d of %d payments failed:\n%s", len(failed), len(outcomes), bank.Describe(failed))
	}
	t.Logf("%d payments under %d keys, %d failed", len(outcomes), len(seen), len(bank.Failures(outcomes)))
	checkBooks(t, mesh, operator, customers)
}

// age makes login's keys a day and more older than they are.
func age(t *testing.T, mesh *bank.Apart) {
	t.Helper()
	db, err := sql.Open("sqlite", "file:"+strings.TrimPrefix(mesh.DSN("login"), "sqlite:")+"?_pragma=busy_timeout(5000)")
	if err != nil {
		t.Fatal(err)
	}
	defer db.Close()
	const day = 25 * time.Hour
	if _, err := db.ExecContext(t.Context(), fmt.Sprintf(
		"UPDATE signing_keys SET create_time = create_time - %[1]d, sign_from = sign_from - %[1]d WHERE sign_until IS NULL", day.Microseconds())); err != nil {
		t.Fatal(err)
	}
}
