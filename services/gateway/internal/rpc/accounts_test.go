package rpc_test

import (
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"google.golang.org/protobuf/testing/protocmp"

	accountsv1 "github.com/countersign-mesh/countersign/proto/gen/bank/accounts/v1"
	ledgerv1 "github.com/countersign-mesh/countersign/proto/gen/bank/ledger/v1"
	mobilev1 "github.com/countersign-mesh/countersign/proto/gen/bank/mobile/v1"
	moneyv1 "github.com/countersign-mesh/countersign/proto/gen/bank/money/v1"
)

func TestOpenAccount(t *testing.T) {
	t.Parallel()
	b, mobile := newBank(t)
	b.balances[aliceAccount] = []*moneyv1.Money{eur(7)} // the request is a repetition, money has come in since
	response, err := mobile.OpenAccount(as(t.Context(), "alice"), &mobilev1.OpenAccountRequest{
		RequestId: "request-1", DisplayName: "Rent", CurrencyCode: "EUR",
	})
	if err != nil {
		t.Fatal(err)
	}
	want := &mobilev1.Account{AccountId: aliceAccount, DisplayName: "alice's", Balance: eur(7), OpenTime: noon}
	if diff := cmp.Diff(want, response.GetAccount(), protocmp.Transform()); diff != "" {
		t.Errorf("-want +got:\n%s", diff)
	}
	asked := questions[*accountsv1.OpenAccountRequest](b)[0]
	if asked.GetCustomerId() != "alice" || asked.GetDisplayName() != "Rent" || asked.GetCurrencyCode() != "EUR" {
		t.Errorf("accounts was asked for %v", asked)
	}
}

func TestAccountsAreListedInOrderWithBalancesAskedForAFewAtATime(t *testing.T) {
	t.Parallel()
	b, mobile := newBank(t)
	want := &mobilev1.ListAccountsResponse{NextPageToken: "next"}
	b.accounts = nil
	for n := range 40 {
		id := "acc-" + strings.Repeat(string(rune('a'+n%26)), 13) + strings.Repeat(string(rune('a'+n/26)), 13)
		a := account(id, "alice")
		balance := eur(int64(n))
		switch n {
		case 0:
			balance.MinorUnits = 0 // the ledger has no postings for it
		case 1:
			b.balances[id] = []*moneyv1.Money{balance, {CurrencyCode: "USD", MinorUnits: 1}}
		case 2:
			a.Status = accountsv1.AccountStatus_ACCOUNT_STATUS_CLOSED
			b.balances[id] = []*moneyv1.Money{balance}
		case 3:
			a.Status = accountsv1.AccountStatus_ACCOUNT_STATUS_FROZEN
			b.balances[id] = []*moneyv1.Money{balance}
		case 4:
			a.Status = 99 // of a later version
			b.balances[id] = []*moneyv1.Money{balance}
		default:
			b.balances[id] = []*moneyv1.Money{balance}
		}
		b.accounts = append(b.accounts, a)
		want.Accounts = append(want.Accounts, &mobilev1.Account{
			AccountId: id, DisplayName: "alice's", Balance: balance, Closed: n == 2 || n == 4, Frozen: n == 3, OpenTime: noon,
		})
	}
	b.accounts = append(b.accounts, account(bobAccount, "bob"))
	var now, most atomic.Int64
	full, ninth := make(chan struct{}), make(chan struct{})
	tooMany := sync.OnceFunc(func() { close(ninth) })
	isFull := sync.OnceFunc(func() {
		select {
		case <-ninth:
		case <-time.After(200 * time.Millisecond): // nobody more is let in
		}
		close(full)
	})
	b.hook = func(method string) {
		if method != "GetBalance" {
			return
		}
		n := now.Add(1)
		for old := most.Load(); n > old && !most.CompareAndSwap(old, n); old = most.Load() {
		}
		switch {
		case n == 8:
			isFull()
		case n > 8:
			tooMany()
		}
		<-full // so that as many come in at once as are let
		now.Add(-1)
	}
	got, err := mobile.ListAccounts(as(t.Context(), "alice"), &mobilev1.ListAccountsRequest{PageSize: 40, PageToken: "token"})
	if err != nil {
		t.Fatal(err)
	}
	if diff := cmp.Diff(want, got, protocmp.Transform()); diff != "" {
		t.Errorf("-want +got:\n%s", diff)
	}
	asked := questions[*accountsv1.ListAccountsRequest](b)[0]
	if diff := cmp.Diff(&accountsv1.ListAccountsRequest{CustomerId: "alice", PageSize: 40, PageToken: "token"}, asked, protocmp.Transform()); diff != "" {
		t.Errorf("question: -want +got:\n%s", diff)
	}
	if most.Load() != 8 {
		t.Errorf("%d balances were asked for at once, want 8", most.Load())
	}
}

func TestAStatementIsTheAccountsEntries(t *testing.T) {
	t.Parallel()
	b, mobile := newBank(t)
	b.entries = &ledgerv1.ListEntriesResponse{NextPageToken: "next", Entries: []*ledgerv1.Entry{
		{Sequence: 9, TransferId: "pay-x", AccountId: aliceAccount, Amount: eur(-5), BalanceAfter: eur(2), Description: "rent", PostTime: noon},
	}}
	got, err := mobile.GetStatement(as(t.Context(), "alice"), &mobilev1.GetStatementRequest{AccountId: aliceAccount, PageSize: 3, PageToken: "token"})
	if err != nil {
		t.Fatal(err)
	}
	want := &mobilev1.GetStatementResponse{NextPageToken: "next", Lines: []*mobilev1.StatementLine{
		{Amount: eur(-5), BalanceAfter: eur(2), Description: "rent", PostTime: noon},
	}}
	if diff := cmp.Diff(want, got, protocmp.Transform()); diff != "" {
		t.Errorf("-want +got:\n%s", diff)
	}
	asked := questions[*ledgerv1.ListEntriesRequest](b)[0]
	if diff := cmp.Diff(&ledgerv1.ListEntriesRequest{AccountId: aliceAccount, PageSize: 3, PageToken: "token"}, asked, protocmp.Transform()); diff != "" {
		t.Errorf("question: -want +got:\n%s", diff)
	}
}

// An app that may open accounts and read none learns no balance.
func TestABalanceIsForWhoMayRead(t *testing.T) {
	t.Parallel()
	b, mobile := newBank(t)
	opened, err := mobile.OpenAccount(with(t.Context(), "alice", "", "accounts.open"), &mobilev1.OpenAccountRequest{RequestId: "request-1", CurrencyCode: "EUR"})
	if err != nil {
		t.Fatal(err)
	}
	closed, err := mobile.CloseAccount(with(t.Context(), "alice", "", "accounts.close"), &mobilev1.CloseAccountRequest{AccountId: aliceAccount})
	if err != nil {
		t.Fatal(err)
	}
	if opened.GetAccount().GetBalance() != nil || closed.GetAccount().GetBalance() != nil || len(questions[*ledgerv1.GetBalanceRequest](b)) != 0 {
		t.Errorf("%v, %v", opened, closed)
	}
}
