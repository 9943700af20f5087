package rpc_test

import (
	"context"
	"fmt"
	"maps"
	"os"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"google.golang.org/genproto/googleapis/rpc/errdetails"
	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/metadata"
	"google.golang.org/grpc/status"
	"google.golang.org/protobuf/testing/protocmp"
	"google.golang.org/protobuf/types/known/durationpb"

	"github.com/countersign-mesh/countersign/pkg/overload"
	accountsv1 "github.com/countersign-mesh/countersign/proto/gen/bank/accounts/v1"
	ledgerv1 "github.com/countersign-mesh/countersign/proto/gen/bank/ledger/v1"
	mobilev1 "github.com/countersign-mesh/countersign/proto/gen/bank/mobile/v1"
	moneyv1 "github.com/countersign-mesh/countersign/proto/gen/bank/money/v1"
	paymentsv1 "github.com/countersign-mesh/countersign/proto/gen/bank/payments/v1"
)

// Every method that takes an account, as the contract has them, for an account that is another customer's and one that is not
// there.
func TestAnotherCustomersAccountIsLikeOneThatDoesNotExist(t *testing.T) {
	t.Parallel()
	b, mobile := newBank(t)
	ctx, cancel := context.WithTimeout(t.Context(), 20*time.Second) // a watch that is let through has no end
	defer cancel()
	calls := methods(ctx, mobile)
	if diff := cmp.Diff(accountMethods(), slices.Sorted(maps.Keys(calls))); diff != "" {
		t.Fatalf("methods that take an account: -contract +tested:\n%s", diff)
	}
	for name, call := range calls {
		foreign, missing := status.Convert(call("alice", bobAccount)), status.Convert(call("alice", noAccount))
		if foreign.Code() != codes.NotFound {
			t.Errorf("%s on bob's account as alice: %v, want NotFound", name, foreign)
		}
		if diff := cmp.Diff(missing.Proto(), foreign.Proto(), protocmp.Transform()); diff != "" {
			t.Errorf("%s tells an account that exists from one that does not: -missing +foreign:\n%s", name, diff)
		}
	}
	for _, message := range b.asked {
		if _, ok := message.(*accountsv1.GetAccountRequest); !ok {
			t.Errorf("asked for somebody else: %T", message)
		}
	}
}

func TestTheCustomerIsReadInOnePlace(t *testing.T) {
	t.Parallel()
	entries, err := os.ReadDir(".")
	if err != nil {
		t.Fatal(err)
	}
	var places []string
	for _, entry := range entries {
		if !strings.HasSuffix(entry.Name(), ".go") || strings.HasSuffix(entry.Name(), "_test.go") {
			continue
		}
		text, err := os.ReadFile(entry.Name())
		if err != nil {
			t.Fatal(err)
		}
		for range strings.Count(string(text), "req.GetCustomerId()") + strings.Count(string(text), "req.CustomerId") {
			places = append(places, entry.Name())
		}
	}
	if diff := cmp.Diff([]string{"customer.go"}, places); diff != "" {
		t.Errorf("-want +got:\n%s", diff)
	}
}

// ATTACKS 62.
func TestRequestIDsOfTwoCustomersDoNotMeet(t *testing.T) {
	t.Parallel()
	b, mobile := newBank(t)
	transfer := func(customer, request, payer, payee string) string {
		t.Helper()
		if _, err := mobile.Transfer(t.Context(), transferRequest(customer, request, payer, payee)); err != nil {
			t.Fatal(err) // also when the key is not what payments' rules allow
		}
		asked := questions[*paymentsv1.CreatePaymentRequest](b)
		return asked[len(asked)-1].GetRequestId()
	}
	alice := transfer("alice", "request-1", aliceAccount, bobAccount)
	// Keys are stored behind: computed otherwise after an upgrade, a transfer that is sent again would be made again.
	if want := "f952f5b3b674427940b63f22b424cb408465c27001a4275ceb2b8a8a17d5c15e"; alice != want {
		t.Errorf("key %s, want %s", alice, want)
	}
	if again := transfer("alice", "request-1", aliceAccount, bobAccount); again != alice {
		t.Errorf("the same request has the keys %s and %s", alice, again)
	}
	if other := transfer("alice", "request-2", aliceAccount, bobAccount); other == alice {
		t.Error("two requests share a key")
	}
	if bob := transfer("bob", "request-1", bobAccount, aliceAccount); bob == alice {
		t.Error("two customers share a key")
	}
	open := func(customer string) string {
		t.Helper()
		request := &mobilev1.OpenAccountRequest{CustomerId: customer, RequestId: "request-1", CurrencyCode: "EUR"}
		if _, err := mobile.OpenAccount(t.Context(), request); err != nil {
			t.Fatal(err)
		}
		asked := questions[*accountsv1.OpenAccountRequest](b)
		return asked[len(asked)-1].GetRequestId()
	}
	if open("alice") == open("bob") {
		t.Error("two customers share a key for accounts")
	}
}

func TestOpenAccount(t *testing.T) {
	t.Parallel()
	b, mobile := newBank(t)
	b.balances[aliceAccount] = []*moneyv1.Money{eur(7)} // the request is a repetition, money has come in since
	response, err := mobile.OpenAccount(t.Context(), &mobilev1.OpenAccountRequest{
		CustomerId: "alice", RequestId: "request-1", DisplayName: "Rent", CurrencyCode: "EUR",
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
	got, err := mobile.ListAccounts(t.Context(), &mobilev1.ListAccountsRequest{CustomerId: "alice", PageSize: 40, PageToken: "token"})
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
	got, err := mobile.GetStatement(t.Context(), &mobilev1.GetStatementRequest{CustomerId: "alice", AccountId: aliceAccount, PageSize: 3, PageToken: "token"})
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

func TestHowATransferStands(t *testing.T) {
	t.Parallel()
	statuses := map[paymentsv1.PaymentState]mobilev1.TransferStatus{
		paymentsv1.PaymentState_PAYMENT_STATE_CREATED:   mobilev1.TransferStatus_TRANSFER_STATUS_PENDING,
		paymentsv1.PaymentState_PAYMENT_STATE_ASSESSED:  mobilev1.TransferStatus_TRANSFER_STATUS_PENDING,
		paymentsv1.PaymentState_PAYMENT_STATE_HELD:      mobilev1.TransferStatus_TRANSFER_STATUS_PENDING,
		paymentsv1.PaymentState_PAYMENT_STATE_UNKNOWN:   mobilev1.TransferStatus_TRANSFER_STATUS_PENDING,
		paymentsv1.PaymentState_PAYMENT_STATE_RELEASING: mobilev1.TransferStatus_TRANSFER_STATUS_PENDING,
		paymentsv1.PaymentState_PAYMENT_STATE_POSTED:    mobilev1.TransferStatus_TRANSFER_STATUS_DONE,
		paymentsv1.PaymentState_PAYMENT_STATE_REFUSED:   mobilev1.TransferStatus_TRANSFER_STATUS_REFUSED,
		paymentsv1.PaymentState_PAYMENT_STATE_IN_REVIEW: mobilev1.TransferStatus_TRANSFER_STATUS_HELD,
	}
	if n := paymentsv1.PaymentState_PAYMENT_STATE_UNSPECIFIED.Descriptor().Values().Len(); len(statuses) != n-1 { // that is no state
		t.Errorf("%d states are tested, the contract has %d", len(statuses), n-1)
	}
	for state, want := range statuses {
		t.Run(state.String(), func(t *testing.T) {
			t.Parallel()
			b, mobile := newBank(t)
			b.payment = &paymentsv1.Payment{
				PaymentId: "pay-x", RequestId: "internal", Kind: paymentsv1.PaymentKind_PAYMENT_KIND_TRANSFER,
				PayerAccountId: aliceAccount, PayeeAccountId: bobAccount, Amount: eur(100), Reference: "rent", State: state,
				Reasons: []*paymentsv1.Reason{{Code: "CODE", Message: "too much"}}, CreateTime: noon, UpdateTime: noon,
			}
			got, err := mobile.Transfer(t.Context(), transferRequest("alice", "request-1", aliceAccount, bobAccount))
			if err != nil {
				t.Fatal(err)
			}
			transfer := &mobilev1.Transfer{
				PaymentId: "pay-x", PayerAccountId: aliceAccount, PayeeAccountId: bobAccount, Amount: eur(100), Reference: "rent",
				Status: want, UpdateTime: noon,
			}
			if want != mobilev1.TransferStatus_TRANSFER_STATUS_PENDING { // why is told when it is so
				transfer.Reasons = []string{"too much"}
			}
			if diff := cmp.Diff(transfer, got.GetTransfer(), protocmp.Transform()); diff != "" {
				t.Errorf("-want +got:\n%s", diff)
			}
		})
	}
}

func TestWhatACustomerIsToldOfErrorsBehind(t *testing.T) {
	t.Parallel()
	const unavailable, internal = "the bank is not available; send the same request again", "internal error"
	for name, test := range map[string]struct {
		method string
		from   codes.Code
		call   string
		code   codes.Code
		text   string
	}{
		"payments refuses the payee":             {"CreatePayment", codes.NotFound, "Transfer", codes.NotFound, "from behind"},
		"an account is closed":                   {"CreatePayment", codes.FailedPrecondition, "Transfer", codes.FailedPrecondition, "from behind"},
		"the request was used":                   {"CreatePayment", codes.AlreadyExists, "Transfer", codes.AlreadyExists, "from behind"},
		"the outcome is not known":               {"CreatePayment", codes.Unavailable, "Transfer", codes.Unavailable, unavailable},
		"payments took too long":                 {"CreatePayment", codes.DeadlineExceeded, "Transfer", codes.Unavailable, unavailable},
		"payments is overloaded":                 {"CreatePayment", codes.ResourceExhausted, "Transfer", codes.ResourceExhausted, "the bank is busy; try again later"},
		"the gateway may not call payments":      {"CreatePayment", codes.PermissionDenied, "Transfer", codes.Internal, internal},
		"the gateway sent nonsense":              {"CreatePayment", codes.InvalidArgument, "Transfer", codes.Internal, internal},
		"payments broke":                         {"CreatePayment", codes.Internal, "Transfer", codes.Internal, internal},
		"accounts is away":                       {"GetAccount", codes.Unavailable, "Transfer", codes.Unavailable, unavailable},
		"the gateway may not ask accounts":       {"GetAccount", codes.PermissionDenied, "GetStatement", codes.Internal, internal},
		"the account is not empty":               {"CloseAccount", codes.FailedPrecondition, "CloseAccount", codes.FailedPrecondition, "from behind"},
		"the account is frozen":                  {"CreatePayment", codes.FailedPrecondition, "Transfer", codes.FailedPrecondition, "from behind"},
		"the account to close is frozen":         {"CloseAccount", codes.FailedPrecondition, "CloseAccount", codes.FailedPrecondition, "from behind"},
		"the account is being closed":            {"CloseAccount", codes.Aborted, "CloseAccount", codes.Aborted, "from behind"},
		"the ledger is away when it is closed":   {"CloseAccount", codes.Unavailable, "CloseAccount", codes.Unavailable, unavailable},
		"a page token is another list's":         {"ListEntries", codes.InvalidArgument, "GetStatement", codes.InvalidArgument, "from behind"},
		"the ledger is away":                     {"ListEntries", codes.Unavailable, "GetStatement", codes.Unavailable, unavailable},
		"a cursor is another account's":          {"WatchPayments", codes.InvalidArgument, "WatchActivity", codes.InvalidArgument, "from behind"},
		"payments stops while somebody watches":  {"WatchPayments", codes.Unavailable, "WatchActivity", codes.Unavailable, unavailable},
		"the gateway may no longer watch":        {"WatchPayments", codes.PermissionDenied, "WatchActivity", codes.Internal, internal},
		"the ledger does not let gateway ask it": {"GetBalance", codes.PermissionDenied, "CloseAccount", codes.Internal, internal},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			b, mobile := newBank(t)
			s, err := status.New(test.from, "from behind").WithDetails(&errdetails.ErrorInfo{Reason: "DENIED", Metadata: map[string]string{"decision_id": "x"}})
			if err != nil {
				t.Fatal(err)
			}
			b.errs[test.method] = []error{s.Err()}
			got := status.Convert(methods(t.Context(), mobile)[test.call]("alice", aliceAccount))
			if got.Code() != test.code || got.Message() != test.text {
				t.Errorf("%s: %q, want %s: %q", got.Code(), got.Message(), test.code, test.text)
			}
			if len(got.Details()) != 0 {
				t.Errorf("details: %v", got.Details())
			}
		})
	}
}

// ATTACKS 53: a customer is told when to try again, in the words of the service that is busy, and in the trailer that gRPC's clients heed.
func TestACustomerIsToldWhenABusyBankIsToBeAskedAgain(t *testing.T) {
	t.Parallel()
	b, mobile := newBank(t)
	s, err := status.New(codes.ResourceExhausted, "the server is full").WithDetails(
		&errdetails.ErrorInfo{Reason: "SERVER_FULL", Domain: "countersign"}, &errdetails.RetryInfo{RetryDelay: durationpb.New(1500 * time.Millisecond)})
	if err != nil {
		t.Fatal(err)
	}
	b.errs["CreatePayment"] = []error{s.Err()}
	var trailer metadata.MD
	_, err = mobile.Transfer(t.Context(), transferRequest("alice", "request-1", aliceAccount, bobAccount), grpc.Trailer(&trailer))
	got := status.Convert(err)
	if delay, ok := overload.RetryDelay(err); got.Code() != codes.ResourceExhausted || !ok || delay != 1500*time.Millisecond || len(got.Details()) != 1 {
		t.Errorf("%v with %v", err, got.Details())
	}
	if pushback := trailer.Get("grpc-retry-pushback-ms"); len(pushback) != 1 || pushback[0] != "1500" {
		t.Errorf("the trailer says %v", pushback)
	}
}

func TestAServiceThatIsAwayForAMomentIsAskedAgain(t *testing.T) {
	t.Parallel()
	b, mobile := newBank(t)
	away := status.Error(codes.Unavailable, "away")
	b.errs["GetAccount"] = []error{away, away, nil}
	b.errs["CreatePayment"] = []error{away, away, nil}
	if _, err := mobile.Transfer(t.Context(), transferRequest("alice", "request-1", aliceAccount, bobAccount)); err != nil {
		t.Fatal(err)
	}
	asked := questions[*paymentsv1.CreatePaymentRequest](b)
	if len(asked) != 3 || asked[0].GetRequestId() != asked[2].GetRequestId() {
		t.Errorf("payments was asked %d times, want 3 times for the same request", len(asked))
	}
}

func TestACustomersOwnDeadlineIsTold(t *testing.T) {
	t.Parallel()
	b, mobile := newBank(t)
	leave := make(chan struct{})
	t.Cleanup(func() { close(leave) })
	b.hook = func(method string) {
		if method == "CreatePayment" {
			<-leave
		}
	}
	ctx, cancel := context.WithTimeout(t.Context(), 200*time.Millisecond)
	defer cancel()
	_, err := mobile.Transfer(ctx, transferRequest("alice", "request-1", aliceAccount, bobAccount))
	if status.Code(err) != codes.DeadlineExceeded {
		t.Errorf("%v, want DeadlineExceeded", err)
	}
}

func TestAWatchIsRelayedFromItsCursorAndEndsWithItsReader(t *testing.T) {
	t.Parallel()
	b, mobile := newBank(t)
	states := []paymentsv1.PaymentState{
		paymentsv1.PaymentState_PAYMENT_STATE_CREATED, paymentsv1.PaymentState_PAYMENT_STATE_ASSESSED,
		paymentsv1.PaymentState_PAYMENT_STATE_REFUSED, paymentsv1.PaymentState_PAYMENT_STATE_IN_REVIEW,
		paymentsv1.PaymentState_PAYMENT_STATE_POSTED,
	}
	for n := range 20 {
		b.changes = append(b.changes, &paymentsv1.WatchPaymentsResponse{Cursor: fmt.Sprintf("cursor-%d", n), Payment: &paymentsv1.Payment{
			PaymentId: "pay-x", PayerAccountId: aliceAccount, PayeeAccountId: bobAccount, Amount: eur(1), State: states[n%len(states)],
			Reasons: []*paymentsv1.Reason{{Code: "INSUFFICIENT_FUNDS", Message: "there is not enough money in the account"}},
		}})
	}
	for customer, want := range map[string]struct {
		account  string
		messages []int
		reasons  []string
	}{
		"alice": {aliceAccount, []int{0, 1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12, 13, 14, 15, 16, 17, 18, 19}, []string{"there is not enough money in the account"}},
		// Money that has come in, each with its own cursor. What alice has in her account is not bob's to know, nor what she wrote
		// without sending money.
		"bob": {bobAccount, []int{4, 9, 14, 19}, nil},
	} {
		ctx, leave := context.WithCancel(t.Context())
		t.Cleanup(leave)
		stream, err := mobile.WatchActivity(ctx, &mobilev1.WatchActivityRequest{CustomerId: customer, AccountId: want.account, Cursor: "from here"})
		if err != nil {
			t.Fatal(err)
		}
		for _, n := range want.messages {
			message, err := stream.Recv()
			if err != nil {
				t.Fatal(err)
			}
			if got := message.GetCursor(); got != fmt.Sprintf("cursor-%d", n) {
				t.Errorf("%s: message %d has cursor %s", customer, n, got)
			}
			reasons := want.reasons
			if n%len(states) < 2 { // it is under way, and nothing has been decided
				reasons = nil
			}
			if diff := cmp.Diff(reasons, message.GetTransfer().GetReasons()); diff != "" {
				t.Errorf("%s: reasons: -want +got:\n%s", customer, diff)
			}
		}
		leave()
	}
	for _, asked := range questions[*paymentsv1.WatchPaymentsRequest](b) {
		if asked.GetCursor() != "from here" {
			t.Errorf("payments was asked from cursor %q", asked.GetCursor())
		}
	}
	tick := time.NewTicker(5 * time.Millisecond)
	defer tick.Stop()
	for deadline := time.Now().Add(10 * time.Second); ; <-tick.C {
		b.mu.Lock()
		left := b.watchers
		b.mu.Unlock()
		if left == 0 {
			break
		}
		if time.Now().After(deadline) {
			t.Fatalf("%d watches behind did not end", left)
		}
	}
}
