package e2e

import (
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"github.com/countersign-mesh/countersign/pkg/database/databasetest"
	mobilev1 "github.com/countersign-mesh/countersign/proto/gen/bank/mobile/v1"
	paymentsv1 "github.com/countersign-mesh/countersign/proto/gen/bank/payments/v1"
)

// TestUpOnPostgres lets countersign up keep the bank's state on a PostgreSQL server, where it is after a restart, and nowhere else.
func TestUpOnPostgres(t *testing.T) {
	server := databasetest.StartServer(t)
	for _, service := range stores() {
		if _, err := server.Create(t.Context(), "bank_"+service); err != nil {
			t.Fatal(err)
		}
	}
	home := dist.NewHome(t)
	dsn := "--dsn=" + server.DSN("bank_{service}")
	first := home.Up(t, dsn)
	phone := first.Phone(t, "alice")
	account := openAccount(t, phone, "open-alice", "EUR")
	counter := paymentsv1.NewPaymentServiceClient(first.Dial(t, first.Identity(t, "operator"), "payments"))
	cash := &paymentsv1.DepositCashRequest{RequestId: "cash-for-alice", AccountId: account, Amount: euros(12_34)}
	if _, err := counter.DepositCash(t.Context(), cash); err != nil {
		t.Fatal(err)
	}
	if code := first.Stop(t); code != 0 {
		t.Fatalf("exit code %d", code)
	}
	files, err := filepath.Glob(filepath.Join(home.RunDir, "data", "*.db"))
	if err != nil || !slices.Equal(files, []string{filepath.Join(home.RunDir, "data", "audit.db")}) {
		t.Errorf("want no database file but the audit trail's, got %v (%v)", files, err)
	}
	second := home.Up(t, dsn)
	phone.LogIn(t, second.Edge(t), false, "accounts.read") // its device is known, and has its certificate from before
	accounts, err := phone.Bank().ListAccounts(t.Context(), &mobilev1.ListAccountsRequest{})
	if err != nil || len(accounts.GetAccounts()) != 1 || accounts.GetAccounts()[0].GetBalance().GetMinorUnits() != 12_34 {
		t.Errorf("want Alice's account with 12.34 in it, got %v (%v)", accounts, err)
	}
	out, code := home.CLI(t, "up", "--base-port=0", "--dsn=postgres://bank:secret@localhost/bank")
	if code == 0 || !strings.Contains(out, "{service}") || strings.Contains(out, "secret") {
		t.Errorf("one database for all services: exit code %d, want a refusal that says what is right and no password:\n%s", code, out)
	}
}
