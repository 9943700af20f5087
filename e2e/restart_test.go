package e2e

import (
	"os"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/countersign-mesh/countersign/e2e/internal/bank"
	ledgerv1 "github.com/countersign-mesh/countersign/proto/gen/bank/ledger/v1"
	paymentsv1 "github.com/countersign-mesh/countersign/proto/gen/bank/payments/v1"
)

// TestPaymentResumes kills payments after risk has agreed to a payment and before the ledger has answered, and sees the payment
// reach the books after a restart, once, with nobody asking for it again. The token that the payment came with has died with the process: nobody has
// kept it.
func TestPaymentResumes(t *testing.T) {
	mesh := dist.NewHome(t, "gateway").Apart(t)
	mesh.StartAll(t)
	alice, bob := fundedAccounts(t, mesh)
	payee := bob.id
	self := mesh.Identity(t, "gateway")
	gateway := paymentsv1.NewPaymentServiceClient(mesh.Dial(t, self, "payments"))
	exchange := bank.NewExchange(alice.phone, mesh.Dial(t, self, "login"))
	operator := mesh.Identity(t, "operator")
	counter := paymentsv1.NewPaymentServiceClient(mesh.Dial(t, operator, "payments"))
	request := &paymentsv1.CreatePaymentRequest{
		RequestId: "killed-midway", PaymentId: bank.PaymentID("killed-midway"), PayerAccountId: alice.id, PayeeAccountId: payee, Amount: euros(12_34),
		Reference: "rent",
	}
	create := func() (*paymentsv1.CreatePaymentResponse, error) {
		ctx, err := exchange.For(t.Context(), request)
		if err != nil {
			return nil, err
		}
		return gateway.CreatePayment(ctx, request)
	}
	state := func(want paymentsv1.PaymentState) func() string {
		return func() string {
			list, err := counter.ListPayments(t.Context(), &paymentsv1.ListPaymentsRequest{AccountId: payee})
			if err != nil {
				return err.Error()
			}
			if len(list.GetPayments()) != 1 || list.GetPayments()[0].GetState() != want {
				return "want one payment in " + want.String() + ", got " + list.String()
			}
			return ""
		}
	}

	mesh.Process("ledger").Signal(t, syscall.SIGSTOP) // it takes connections and answers nothing
	answered := make(chan error, 1)
	go func() {
		_, err := create()
		answered <- err
	}()
	bank.Eventually(t, 10*time.Second, state(paymentsv1.PaymentState_PAYMENT_STATE_ASSESSED))
	mesh.Process("payments").Signal(t, syscall.SIGKILL)
	mesh.Process("payments").Wait(t, 5*time.Second)
	if err := <-answered; err == nil {
		t.Error("the call that was killed succeeded")
	}
	mesh.Process("ledger").Signal(t, syscall.SIGCONT)
	mesh.Start(t, "payments")
	bank.Eventually(t, 15*time.Second, state(paymentsv1.PaymentState_PAYMENT_STATE_POSTED))

	again, err := create()
	if err != nil {
		t.Fatal(err)
	}
	if got := again.GetPayment().GetState(); got != paymentsv1.PaymentState_PAYMENT_STATE_POSTED {
		t.Errorf("the same request again: %v", got)
	}
	books := ledgerv1.NewLedgerServiceClient(mesh.Dial(t, operator, "ledger"))
	entries, err := books.ListEntries(t.Context(), &ledgerv1.ListEntriesRequest{AccountId: payee})
	if err != nil {
		t.Fatal(err)
	}
	if len(entries.GetEntries()) != 1 || entries.GetEntries()[0].GetAmount().GetMinorUnits() != 12_34 {
		t.Errorf("want the payment in the books once, got %v", entries)
	}
}

// TestAuthorityRestart kills the authority under load, and sees the mesh go on, and the trust domain be the same afterwards. ATTACKS 27, 40.
func TestAuthorityRestart(t *testing.T) {
	mesh := dist.NewHome(t).Apart(t)
	mesh.StartAll(t)
	before := mesh.Identity(t, "operator")
	ledger := mesh.Dial(t, before, "ledger")
	for range 3 {
		mesh.Process("authority").Signal(t, syscall.SIGKILL)
		mesh.Process("authority").Wait(t, 5*time.Second)
		if err := bank.Healthy(t.Context(), ledger); err != nil {
			t.Errorf("while the authority is away: %v", err)
		}
		if err := bank.Healthy(t.Context(), mesh.Dial(t, before, "payments")); err != nil {
			t.Errorf("a new connection while the authority is away: %v", err)
		}
		mesh.Start(t, "authority")
	}
	after := mesh.Identity(t, "operator")
	if !after.Roots.Equal(before.Roots) {
		t.Error("the trust domain has other authorities after restarts")
	}
	if after.Serial() == before.Serial() {
		t.Error("the restarted authority has issued nothing new")
	}
	if err := bank.Healthy(t.Context(), mesh.Dial(t, after, "audit")); err != nil {
		t.Errorf("with an SVID of after the restarts: %v", err)
	}
}

// TestDamagedState damages what the authority keeps, file by file, and wants either the old trust domain or a refusal that names
// the file: never a new authority that nobody asked for. ATTACKS 40.
func TestDamagedState(t *testing.T) {
	mesh := dist.NewHome(t).Apart(t)
	mesh.Start(t, "authority")
	roots := mesh.Identity(t, "operator").Roots
	stop := func() {
		t.Helper()
		mesh.Process("authority").Signal(t, syscall.SIGTERM)
		if code := mesh.Process("authority").Wait(t, 10*time.Second); code != 0 {
			t.Fatalf("exit code %d", code)
		}
	}
	stop()
	for _, file := range filesIn(t, mesh.StateDir) {
		path := filepath.Join(mesh.StateDir, file)
		for name, damage := range map[string]func(good []byte) []byte{
			"truncated": func(good []byte) []byte { return good[:len(good)/2] },
			"emptied":   func([]byte) []byte { return nil },
			"changed": func(good []byte) []byte {
				bad := append([]byte(nil), good...)
				bad[len(bad)/2] ^= 0x20
				return bad
			},
			"garbage": func(good []byte) []byte { return []byte(strings.Repeat("?", len(good))) },
		} {
			t.Run(file+" "+name, func(t *testing.T) {
				good, err := os.ReadFile(path)
				if err != nil {
					t.Fatal(err)
				}
				overwrite(t, path, string(damage(good)))
				authority := mesh.Launch(t, "authority")
				defer overwrite(t, path, string(good))
				if refused(t, mesh) {
					if out := authority.Output(); !strings.Contains(out, mesh.StateDir) {
						t.Errorf("the refusal does not say where %s is:\n%s", file, out)
					}
					return
				}
				if !mesh.Identity(t, "operator").Roots.Equal(roots) {
					t.Error("a new authority in place of the old one")
				}
				stop()
			})
		}
	}
	mesh.Start(t, "authority")
	if !mesh.Identity(t, "operator").Roots.Equal(roots) {
		t.Error("the repaired state gives another authority")
	}
}

// refused waits until the authority has either ended with an error or is ready.
func refused(t *testing.T, mesh *bank.Apart) bool {
	t.Helper()
	authority := mesh.Process("authority")
	ended := false
	bank.Eventually(t, 10*time.Second, func() string {
		if ended = !authority.Running(); ended {
			if code := authority.Wait(t, time.Second); code == 0 {
				t.Error("exit code 0")
			}
			return ""
		}
		return mesh.Ready(t.Context(), "authority")
	})
	return ended
}

func filesIn(t *testing.T, dir string) []string {
	t.Helper()
	entries, err := os.ReadDir(dir)
	if err != nil {
		t.Fatal(err)
	}
	var files []string
	for _, entry := range entries {
		info, err := entry.Info()
		if err != nil {
			t.Fatal(err)
		}
		if info.Mode().IsRegular() && info.Size() > 0 { // the lock is empty
			files = append(files, entry.Name())
		}
	}
	if len(files) == 0 {
		t.Fatalf("%s is empty", dir)
	}
	return files
}
