package rpc_test

import (
	"testing"

	"github.com/google/go-cmp/cmp"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"
	"google.golang.org/protobuf/testing/protocmp"

	"github.com/countersign-mesh/countersign/pkg/database"
	accountsv1 "github.com/countersign-mesh/countersign/proto/gen/bank/accounts/v1"
	moneyv1 "github.com/countersign-mesh/countersign/proto/gen/bank/money/v1"
)

func TestAnAccountIsFrozenAndUnfrozen(t *testing.T) {
	t.Parallel()
	b := newBank(t)
	gateway, operator := b.as(t, "/gateway"), b.as(t, "/operator")
	opened := open(t, gateway, "alice", "request-1")
	id := opened.GetAccountId()
	frozen, err := operator.FreezeAccount(t.Context(), &accountsv1.FreezeAccountRequest{AccountId: id, Reason: "a court's order"})
	if err != nil {
		t.Fatal(err)
	}
	if a := frozen.GetAccount(); a.GetStatus() != accountsv1.AccountStatus_ACCOUNT_STATUS_FROZEN || a.GetFreezeTime() == nil || a.GetCloseTime() != nil {
		t.Errorf("frozen as %v", a)
	}
	again, err := operator.FreezeAccount(t.Context(), &accountsv1.FreezeAccountRequest{AccountId: id, Reason: "another reason"})
	if err != nil {
		t.Fatal(err)
	}
	if diff := cmp.Diff(frozen, again, protocmp.Transform()); diff != "" {
		t.Errorf("frozen again: -first +second:\n%s", diff)
	}
	got, err := b.as(t, "/payments").GetAccount(t.Context(), &accountsv1.GetAccountRequest{AccountId: id})
	if err != nil {
		t.Fatal(err)
	}
	if diff := cmp.Diff(frozen.GetAccount(), got.GetAccount(), protocmp.Transform()); diff != "" {
		t.Errorf("GetAccount: -frozen +got:\n%s", diff)
	}
	_, err = gateway.CloseAccount(t.Context(), &accountsv1.CloseAccountRequest{AccountId: id})
	wantStatus(t, err, codes.FailedPrecondition, "the account is frozen; it has to be unfrozen first")
	for _, reason := range []string{"the order was lifted", "again"} {
		free, err := operator.UnfreezeAccount(t.Context(), &accountsv1.UnfreezeAccountRequest{AccountId: id, Reason: reason})
		if err != nil {
			t.Fatal(err)
		}
		if diff := cmp.Diff(opened, free.GetAccount(), protocmp.Transform()); diff != "" {
			t.Errorf("unfrozen: -opened +unfrozen:\n%s", diff)
		}
	}
	// Who and why, once each.
	if diff := cmp.Diff([]string{"freeze by spiffe://bank.test/operator: a court's order", "unfreeze by spiffe://bank.test/operator: the order was lifted"}, b.history(t, id)); diff != "" {
		t.Errorf("history: -want +got:\n%s", diff)
	}
}

// history returns what the database holds of who froze and unfroze an account.
func (b *bank) history(t *testing.T, accountID string) (lines []string) {
	t.Helper()
	db, err := database.OpenReadOnly(t.Context(), b.dsn)
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = db.Close() }()
	rows, err := db.QueryContext(t.Context(), `SELECT kind || ' by ' || actor || ': ' || reason FROM interventions WHERE account_id = $1 ORDER BY number`, accountID)
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = rows.Close() }()
	for rows.Next() {
		var line string
		if err := rows.Scan(&line); err != nil {
			t.Fatal(err)
		}
		lines = append(lines, line)
	}
	if err := rows.Err(); err != nil {
		t.Fatal(err)
	}
	return lines
}

func TestAClosedAccountIsNeitherFrozenNorUnfrozen(t *testing.T) {
	t.Parallel()
	b := newBank(t)
	gateway, operator := b.as(t, "/gateway"), b.as(t, "/operator")
	id := open(t, gateway, "alice", "request-1").GetAccountId()
	if _, err := gateway.CloseAccount(t.Context(), &accountsv1.CloseAccountRequest{AccountId: id}); err != nil {
		t.Fatal(err)
	}
	_, err := operator.FreezeAccount(t.Context(), &accountsv1.FreezeAccountRequest{AccountId: id, Reason: "fraud"})
	wantStatus(t, err, codes.FailedPrecondition, "the account is closed")
	_, err = operator.UnfreezeAccount(t.Context(), &accountsv1.UnfreezeAccountRequest{AccountId: id})
	wantStatus(t, err, codes.FailedPrecondition, "the account is closed")
}

// ATTACKS 46.
func TestOnlyTheOperatorFreezes(t *testing.T) {
	t.Parallel()
	b := newBank(t)
	id := open(t, b.as(t, "/gateway"), "alice", "request-1").GetAccountId()
	for _, path := range []string{"/gateway", "/payments", "/risk", "/mobile", "/operator-evil"} {
		caller := b.as(t, path)
		_, freeze := caller.FreezeAccount(t.Context(), &accountsv1.FreezeAccountRequest{AccountId: id, Reason: "fraud"})
		_, unfreeze := caller.UnfreezeAccount(t.Context(), &accountsv1.UnfreezeAccountRequest{AccountId: id})
		if status.Code(freeze) != codes.PermissionDenied || status.Code(unfreeze) != codes.PermissionDenied {
			t.Errorf("%s: %v and %v, want PermissionDenied", path, freeze, unfreeze)
		}
	}
	if lines := b.history(t, id); len(lines) != 0 {
		t.Errorf("denied calls left %v", lines)
	}
}

// The ledger says what it holds of an account, and not accounts: a balance of zero with something held, which cannot be, closes nothing.
func TestAnAccountOfWhichSomethingIsHeldIsNotClosed(t *testing.T) {
	t.Parallel()
	b := newBank(t)
	gateway := b.as(t, "/gateway")
	id := open(t, gateway, "alice", "request-1").GetAccountId()
	b.ledger.held = []*moneyv1.Money{{CurrencyCode: "EUR", MinorUnits: 1}}
	_, err := gateway.CloseAccount(t.Context(), &accountsv1.CloseAccountRequest{AccountId: id})
	wantStatus(t, err, codes.FailedPrecondition, "the account's balance is not zero; move the money first")
}
