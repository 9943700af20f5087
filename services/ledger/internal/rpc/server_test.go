package rpc_test

import (
	"context"
	"database/sql"
	"fmt"
	"math/rand/v2"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"
	"google.golang.org/protobuf/testing/protocmp"

	"github.com/countersign-mesh/countersign/pkg/database"
	ledgerv1 "github.com/countersign-mesh/countersign/proto/gen/bank/ledger/v1"
	moneyv1 "github.com/countersign-mesh/countersign/proto/gen/bank/money/v1"
)

func post(t *testing.T, c ledgerv1.LedgerServiceClient, req *ledgerv1.PostTransferRequest) *ledgerv1.PostTransferResponse {
	t.Helper()
	resp, err := c.PostTransfer(t.Context(), req)
	if err != nil {
		t.Fatal(err)
	}
	return resp
}

// entryCount asks the books themselves how many entries they hold.
func (s *service) entryCount(t *testing.T) (n int) {
	t.Helper()
	// In a snapshot, whose beginning passes over connections that a server left dead when it was killed.
	err := database.InSnapshot(t.Context(), s.db, func(tx *sql.Tx) error {
		return tx.QueryRowContext(t.Context(), "SELECT count(*) FROM entries").Scan(&n)
	})
	if err != nil {
		t.Fatal(err)
	}
	return n
}

func TestATransferIsSeenByThoseWhoMayLook(t *testing.T) {
	t.Parallel()
	s := newService(t)
	payments, gateway, operator := s.as(t, "/payments"), s.as(t, "/gateway"), s.as(t, "/operator")
	first := post(t, payments, pay("deposit-1", cash, alice, 500))
	again := post(t, payments, pay("deposit-1", cash, alice, 500))
	if diff := cmp.Diff(first, again, protocmp.Transform()); diff != "" {
		t.Errorf("a repetition answers differently (-first +again):\n%s", diff)
	}
	if first.GetTransferId() != "deposit-1" || time.Since(first.GetPostTime().AsTime()).Abs() > time.Minute {
		t.Errorf("PostTransfer = %v", first)
	}
	second := post(t, payments, pay("payment-1", alice, bob, 200))

	balance, err := gateway.GetBalance(t.Context(), &ledgerv1.GetBalanceRequest{AccountId: alice})
	if err != nil {
		t.Fatal(err)
	}
	if diff := cmp.Diff(&ledgerv1.GetBalanceResponse{Balances: []*moneyv1.Money{eur(300)}}, balance, protocmp.Transform()); diff != "" {
		t.Errorf("balance (-want +got):\n%s", diff)
	}
	entries, err := gateway.ListEntries(t.Context(), &ledgerv1.ListEntriesRequest{AccountId: alice})
	if err != nil {
		t.Fatal(err)
	}
	want := &ledgerv1.ListEntriesResponse{Entries: []*ledgerv1.Entry{
		{Sequence: 3, TransferId: "payment-1", AccountId: alice, Amount: eur(-200), BalanceAfter: eur(300), Description: "rent", PostTime: second.GetPostTime()},
		{Sequence: 2, TransferId: "deposit-1", AccountId: alice, Amount: eur(500), BalanceAfter: eur(500), Description: "rent", PostTime: first.GetPostTime()},
	}}
	if diff := cmp.Diff(want, entries, protocmp.Transform()); diff != "" {
		t.Errorf("entries (-want +got):\n%s", diff)
	}
	trial, err := operator.CheckTrialBalance(t.Context(), &ledgerv1.CheckTrialBalanceRequest{})
	if err != nil {
		t.Fatal(err)
	}
	wantTrial := &ledgerv1.CheckTrialBalanceResponse{Sums: []*moneyv1.Money{eur(0)}, TransferCount: 2, EntryCount: 4, Balanced: true}
	if diff := cmp.Diff(wantTrial, trial, protocmp.Transform()); diff != "" {
		t.Errorf("trial balance (-want +got):\n%s", diff)
	}
}

func TestAnAccountWithoutEntriesHasNothing(t *testing.T) {
	t.Parallel()
	s := newService(t)
	balance, err := s.as(t, "/accounts").GetBalance(t.Context(), &ledgerv1.GetBalanceRequest{AccountId: alice})
	if err != nil || len(balance.GetBalances()) != 0 {
		t.Errorf("GetBalance = %v, %v; want no balances", balance, err)
	}
	entries, err := s.as(t, "/gateway").ListEntries(t.Context(), &ledgerv1.ListEntriesRequest{AccountId: alice})
	if err != nil || len(entries.GetEntries()) != 0 || entries.GetNextPageToken() != "" {
		t.Errorf("ListEntries = %v, %v; want none", entries, err)
	}
	trial, err := s.as(t, "/operator").CheckTrialBalance(t.Context(), &ledgerv1.CheckTrialBalanceRequest{})
	if err != nil || !trial.GetBalanced() {
		t.Errorf("empty books: %v, %v; want them balanced", trial, err)
	}
}

// ATTACKS 42 and 46: every identity but that of payments is denied, and nothing has happened by then.
func TestOnlyPaymentsPosts(t *testing.T) {
	t.Parallel()
	s := newService(t)
	for _, path := range []string{"/risk", "/gateway", "/accounts", "/audit", "/operator", "/mobile", "/ledger", "/payments-evil", "/payments/x", "/unknown"} {
		t.Run(path, func(t *testing.T) {
			t.Parallel()
			_, err := s.as(t, path).PostTransfer(t.Context(), pay("deposit-1", cash, alice, 500))
			if status.Code(err) != codes.PermissionDenied {
				t.Errorf("PostTransfer as %s = %v, want PERMISSION_DENIED", path, err)
			}
			if n := s.entryCount(t); n != 0 {
				t.Errorf("a denied call left %d entries", n)
			}
		})
	}
}

// A peer that may not call learns nothing from validation either.
func TestADeniedCallIsNotValidated(t *testing.T) {
	t.Parallel()
	s := newService(t)
	_, err := s.as(t, "/risk").PostTransfer(t.Context(), &ledgerv1.PostTransferRequest{TransferId: "!"})
	if status.Code(err) != codes.PermissionDenied {
		t.Errorf("a bad request of risk = %v, want PERMISSION_DENIED", err)
	}
}

func TestPagesOfEntries(t *testing.T) {
	t.Parallel()
	s := newService(t)
	payments, gateway := s.as(t, "/payments"), s.as(t, "/gateway")
	for i := range 5 {
		post(t, payments, pay(fmt.Sprintf("deposit-%d", i), cash, alice, int64(i+1)))
	}
	post(t, payments, pay("deposit-b", cash, bob, 1))
	var amounts []int64
	req := &ledgerv1.ListEntriesRequest{AccountId: alice, PageSize: 2}
	for {
		page, err := gateway.ListEntries(t.Context(), req)
		if err != nil {
			t.Fatal(err)
		}
		for _, e := range page.GetEntries() {
			amounts = append(amounts, e.GetAmount().GetMinorUnits())
		}
		if page.GetNextPageToken() == "" {
			break
		}
		req.PageToken = page.GetNextPageToken()
		// What is posted meanwhile shifts no page.
		post(t, payments, pay("deposit-x"+fmt.Sprint(len(amounts)), cash, alice, 100))
	}
	if diff := cmp.Diff([]int64{5, 4, 3, 2, 1}, amounts); diff != "" {
		t.Errorf("amounts (-want +got):\n%s", diff)
	}
	for name, bad := range map[string]*ledgerv1.ListEntriesRequest{
		"another account's token": {AccountId: bob, PageToken: req.GetPageToken()},
		"an invented token":       {AccountId: alice, PageToken: "7"},
	} {
		if _, err := gateway.ListEntries(t.Context(), bad); status.Code(err) != codes.InvalidArgument {
			t.Errorf("%s: %v, want INVALID_ARGUMENT", name, err)
		}
	}
}

// ATTACKS 61: a caller that goes away between commit and reply learns the truth by asking again.
func TestARetryTellsWhatBecameOfACallThatWasCutShort(t *testing.T) {
	t.Parallel()
	s := newService(t)
	payments := s.as(t, "/payments")
	const calls = 60
	for i := range calls {
		req := pay(fmt.Sprintf("deposit-%d", i), cash, alice, 1)
		ctx, cancel := context.WithTimeout(t.Context(), rand.N(4*time.Millisecond))
		first, err := payments.PostTransfer(ctx, req)
		cancel()
		if code := status.Code(err); err != nil && code != codes.DeadlineExceeded && code != codes.Canceled && code != codes.Unavailable {
			t.Errorf("a call that was cut short = %v", err)
		}
		again := post(t, payments, req)
		if diff := cmp.Diff(first.GetPostTime(), again.GetPostTime(), protocmp.Transform()); err == nil && diff != "" {
			t.Errorf("the retry answers another time (-first +again):\n%s", diff)
		}
	}
	balance, err := s.as(t, "/operator").GetBalance(t.Context(), &ledgerv1.GetBalanceRequest{AccountId: alice})
	if err != nil {
		t.Fatal(err)
	}
	if diff := cmp.Diff([]*moneyv1.Money{eur(calls)}, balance.GetBalances(), protocmp.Transform()); diff != "" {
		t.Errorf("balance (-want +got):\n%s", diff)
	}
}
