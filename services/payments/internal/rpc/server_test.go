package rpc_test

import (
	"context"
	"fmt"
	"sync"
	"testing"

	"github.com/google/go-cmp/cmp"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"
	"google.golang.org/protobuf/testing/protocmp"

	ledgerv1 "github.com/countersign-mesh/countersign/proto/gen/bank/ledger/v1"
	paymentsv1 "github.com/countersign-mesh/countersign/proto/gen/bank/payments/v1"
	riskv1 "github.com/countersign-mesh/countersign/proto/gen/bank/risk/v1"
)

func TestAPaymentGoesFromTheWishToTheBooks(t *testing.T) {
	t.Parallel()
	b := newBank(t)
	response, err := b.as(t, "/gateway").CreatePayment(t.Context(), request("request-1"))
	if err != nil {
		t.Fatal(err)
	}
	p := response.GetPayment()
	want := &paymentsv1.Payment{
		PaymentId: p.GetPaymentId(), RequestId: "request-1", Kind: paymentsv1.PaymentKind_PAYMENT_KIND_TRANSFER,
		PayerAccountId: alice, PayeeAccountId: bob, Amount: eur(1234), Reference: "rent",
		State: paymentsv1.PaymentState_PAYMENT_STATE_POSTED, CreateTime: p.GetCreateTime(), UpdateTime: p.GetUpdateTime(),
	}
	if diff := cmp.Diff(want, p, protocmp.Transform()); diff != "" {
		t.Errorf("payment: -want +got:\n%s", diff)
	}
	// Validated on the way by the neighbours' own interceptors, the form of the payment ID too.
	if diff := cmp.Diff([]*riskv1.AssessPaymentRequest{{
		PaymentId: p.GetPaymentId(), PayerCustomerId: "alice", PayerAccountId: alice, PayeeAccountId: bob, Amount: eur(1234),
	}}, b.assessed, protocmp.Transform()); diff != "" {
		t.Errorf("what risk was asked: -want +got:\n%s", diff)
	}
	if diff := cmp.Diff(map[string]*ledgerv1.PostTransferRequest{p.GetPaymentId(): {
		TransferId: p.GetPaymentId(), Description: "rent",
		Postings: []*ledgerv1.Posting{{AccountId: alice, Amount: eur(-1234)}, {AccountId: bob, Amount: eur(1234)}},
	}}, b.posted, protocmp.Transform()); diff != "" {
		t.Errorf("what the ledger was told: -want +got:\n%s", diff)
	}
}

func TestADepositComesOutOfTheVaultAndRiskIsNotAsked(t *testing.T) {
	t.Parallel()
	b := newBank(t)
	response, err := b.as(t, "/operator").DepositCash(t.Context(), &paymentsv1.DepositCashRequest{RequestId: "request-1", AccountId: alice, Amount: eur(500)})
	if err != nil {
		t.Fatal(err)
	}
	p := response.GetPayment()
	if p.GetState() != paymentsv1.PaymentState_PAYMENT_STATE_POSTED || p.GetKind() != paymentsv1.PaymentKind_PAYMENT_KIND_CASH_DEPOSIT {
		t.Errorf("a %s that is %s", p.GetKind(), p.GetState())
	}
	if diff := cmp.Diff(map[string]*ledgerv1.PostTransferRequest{p.GetPaymentId(): {
		TransferId: p.GetPaymentId(), Description: "Cash deposit",
		Postings: []*ledgerv1.Posting{{AccountId: "bank-cash", Amount: eur(-500)}, {AccountId: alice, Amount: eur(500)}},
	}}, b.posted, protocmp.Transform()); diff != "" {
		t.Errorf("what the ledger was told: -want +got:\n%s", diff)
	}
	if len(b.assessed) != 0 {
		t.Error("risk was asked")
	}
}

func TestARefusalIsNoError(t *testing.T) {
	t.Parallel()
	reason := &riskv1.Reason{Code: "AMOUNT_CEILING", Message: "too much"}
	for name, test := range map[string]struct {
		verdict riskv1.Verdict
		ledger  error
		state   paymentsv1.PaymentState
		reason  string
	}{
		"risk refuses":                          {riskv1.Verdict_VERDICT_REFUSE, nil, paymentsv1.PaymentState_PAYMENT_STATE_REFUSED, "AMOUNT_CEILING"},
		"risk holds":                            {riskv1.Verdict_VERDICT_HOLD, nil, paymentsv1.PaymentState_PAYMENT_STATE_HELD, "AMOUNT_CEILING"},
		"the ledger refuses for want of money":  {riskv1.Verdict_VERDICT_ALLOW, precondition("INSUFFICIENT_FUNDS"), paymentsv1.PaymentState_PAYMENT_STATE_REFUSED, "INSUFFICIENT_FUNDS"},
		"the ledger refuses for want of room":   {riskv1.Verdict_VERDICT_ALLOW, precondition("BALANCE_OUT_OF_RANGE"), paymentsv1.PaymentState_PAYMENT_STATE_REFUSED, "BALANCE_OUT_OF_RANGE"},
		"the ledger takes it for invalid":       {riskv1.Verdict_VERDICT_ALLOW, status.Error(codes.InvalidArgument, "no"), paymentsv1.PaymentState_PAYMENT_STATE_HELD, "LEDGER_REJECTED"},
		"the ledger has another under its name": {riskv1.Verdict_VERDICT_ALLOW, status.Error(codes.AlreadyExists, "no"), paymentsv1.PaymentState_PAYMENT_STATE_HELD, "LEDGER_REJECTED"},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			b := newBank(t)
			b.verdict = &riskv1.AssessPaymentResponse{Verdict: test.verdict, Reasons: []*riskv1.Reason{reason}}
			b.on("BeforePost", func(context.Context) error { return test.ledger })
			response, err := b.as(t, "/gateway").CreatePayment(t.Context(), request("request-1"))
			if err != nil {
				t.Fatal(err)
			}
			p := response.GetPayment()
			if p.GetState() != test.state || len(p.GetReasons()) != 1 || p.GetReasons()[0].GetCode() != test.reason {
				t.Errorf("%s, %v; want %s, %s", p.GetState(), p.GetReasons(), test.state, test.reason)
			}
			if b.postings() != 0 {
				t.Error("it is in the ledger")
			}
		})
	}
}

// Whatever is said instead of a clear answer, the payment stays under way until there is one. ATTACKS 64.
func TestAnOutcomeThatIsNotKnownIsSaidToBeSoAndFoundOut(t *testing.T) {
	t.Parallel()
	type answer struct {
		method string
		code   codes.Code
	}
	tests := map[string]answer{
		"risk gives no verdict":                                   {"verdict", codes.OK},
		"the ledger fails for a reason that payments do not know": {"BeforePost", codes.FailedPrecondition},
		"the ledger does not let payments post, by some bad rule": {"BeforePost", codes.PermissionDenied},
	}
	for _, code := range []codes.Code{codes.Unavailable, codes.DeadlineExceeded, codes.Canceled, codes.Internal} {
		tests["risk answers "+code.String()] = answer{"AssessPayment", code}
		tests["the ledger answers "+code.String()] = answer{"BeforePost", code}
		tests["the ledger has posted and answers "+code.String()] = answer{"PostTransfer", code}
	}
	for name, test := range tests {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			b := newBank(t)
			b.on(test.method, func(context.Context) error { return status.Error(test.code, "10.0.0.7") })
			good := b.verdict
			if test.method == "verdict" {
				b.verdict = &riskv1.AssessPaymentResponse{}
			}
			gateway := b.as(t, "/gateway")
			_, err := gateway.CreatePayment(t.Context(), request("request-1"))
			wantStatus(t, err, codes.Unavailable, outcomeUnknown)
			state := paymentsv1.PaymentState_PAYMENT_STATE_CREATED
			if test.method != "AssessPayment" && test.method != "verdict" {
				state = paymentsv1.PaymentState_PAYMENT_STATE_ASSESSED
			}
			operator := b.as(t, "/operator")
			p := only(t, operator)
			if p.GetState() != state {
				t.Errorf("state %s, want %s", p.GetState(), state)
			}
			b.on(test.method, nil)
			b.mu.Lock()
			b.verdict = good
			b.mu.Unlock()
			becomes(t, operator, p.GetPaymentId(), paymentsv1.PaymentState_PAYMENT_STATE_POSTED)
			response, err := gateway.CreatePayment(t.Context(), request("request-1"))
			if err != nil || response.GetPayment().GetPaymentId() != p.GetPaymentId() {
				t.Errorf("the same request again: %v, %v", response.GetPayment().GetPaymentId(), err)
			}
			if b.postings() != 1 {
				t.Errorf("%d transfers in the ledger, want 1", b.postings())
			}
		})
	}
}

func TestACallerWhoLeavesFindsThePaymentDone(t *testing.T) {
	t.Parallel()
	b := newBank(t)
	goOn := make(chan struct{})
	ctx, leave := context.WithCancel(t.Context())
	b.on("AssessPayment", func(ctx context.Context) error {
		leave()
		select {
		case <-goOn:
			return nil
		case <-ctx.Done(): // the payment was given up with its caller
			return status.FromContextError(ctx.Err()).Err()
		}
	})
	gateway := b.as(t, "/gateway")
	if _, err := gateway.CreatePayment(ctx, request("request-1")); status.Code(err) != codes.Canceled {
		t.Fatalf("%v, want Canceled", err)
	}
	close(goOn)
	operator := b.as(t, "/operator")
	becomes(t, operator, only(t, operator).GetPaymentId(), paymentsv1.PaymentState_PAYMENT_STATE_POSTED)
	if b.calls["AssessPayment"] != 1 {
		t.Errorf("risk was asked %d times, want 1", b.calls["AssessPayment"])
	}
}

// ATTACKS 62.
func TestARequestSentManyTimesAtOnceIsOnePayment(t *testing.T) {
	t.Parallel()
	b := newBank(t)
	gateway := b.as(t, "/gateway")
	ids := make([]string, 64)
	var group sync.WaitGroup
	for i := range ids {
		group.Go(func() {
			response, err := gateway.CreatePayment(t.Context(), request("request-1"))
			if err != nil {
				t.Error(err)
			}
			ids[i] = response.GetPayment().GetPaymentId()
		})
	}
	group.Wait()
	for _, id := range ids {
		if id != ids[0] {
			t.Fatalf("one request made %s and %s", ids[0], id)
		}
	}
	if b.calls["AssessPayment"] != 1 || b.calls["PostTransfer"] != 1 {
		t.Errorf("calls %v, want one to risk and one to the ledger", b.calls)
	}
}

func TestCallersDoNotShareRequestIDs(t *testing.T) {
	t.Parallel()
	b := newBank(t)
	paid, err := b.as(t, "/gateway").CreatePayment(t.Context(), request("request-1"))
	if err != nil {
		t.Fatal(err)
	}
	deposited, err := b.as(t, "/operator").DepositCash(t.Context(), &paymentsv1.DepositCashRequest{RequestId: "request-1", AccountId: bob, Amount: eur(1234)})
	if err != nil {
		t.Fatal(err)
	}
	if paid.GetPayment().GetPaymentId() == deposited.GetPayment().GetPaymentId() {
		t.Error("two callers share a payment")
	}
}

func TestWhatTheCallerIsTold(t *testing.T) {
	t.Parallel()
	b := newBank(t)
	gateway := b.as(t, "/gateway")
	if _, err := gateway.CreatePayment(t.Context(), request("request-used")); err != nil {
		t.Fatal(err)
	}
	for name, test := range map[string]struct {
		change func(*paymentsv1.CreatePaymentRequest)
		code   codes.Code
		text   string
	}{
		"a payer that does not exist":  {func(r *paymentsv1.CreatePaymentRequest) { r.PayerAccountId = nobody }, codes.NotFound, "the paying account does not exist"},
		"a payee that does not exist":  {func(r *paymentsv1.CreatePaymentRequest) { r.PayeeAccountId = nobody }, codes.NotFound, "the paid account does not exist"},
		"a closed payer":               {func(r *paymentsv1.CreatePaymentRequest) { r.PayerAccountId = closed }, codes.FailedPrecondition, "the paying account is closed"},
		"a payee of another currency":  {func(r *paymentsv1.CreatePaymentRequest) { r.PayeeAccountId = dollar }, codes.FailedPrecondition, "the paid account is of another currency"},
		"a request ID that was used":   {func(r *paymentsv1.CreatePaymentRequest) { r.RequestId = "request-used"; r.Reference = "x" }, codes.AlreadyExists, "the request_id was used for other content; choose a new one"},
		"the same account twice":       {func(r *paymentsv1.CreatePaymentRequest) { r.PayeeAccountId = alice }, codes.InvalidArgument, "validation error: payer_account_id and payee_account_id must differ"},
		"an amount that is below zero": {func(r *paymentsv1.CreatePaymentRequest) { r.Amount = eur(-1) }, codes.InvalidArgument, "validation error: amount: must be above zero"},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			r := request("request-2")
			test.change(r)
			_, err := gateway.CreatePayment(t.Context(), r)
			wantStatus(t, err, test.code, test.text)
		})
	}
	_, err := b.as(t, "/operator").GetPayment(t.Context(), &paymentsv1.GetPaymentRequest{PaymentId: "pay-aaaaaaaaaaaaaaaaaaaaaaaaaa"})
	wantStatus(t, err, codes.NotFound, "no such payment")
}

func TestAnAccountsServiceThatIsAwayLeavesNothing(t *testing.T) {
	t.Parallel()
	for name, test := range map[string]struct {
		from codes.Code
		code codes.Code
		text string
	}{
		"away":   {codes.Unavailable, codes.Unavailable, "a service that has to be asked first cannot be reached; send the same request again"},
		"slow":   {codes.DeadlineExceeded, codes.Unavailable, "a service that has to be asked first cannot be reached; send the same request again"},
		"denies": {codes.PermissionDenied, codes.Internal, "internal error"},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			b := newBank(t)
			b.on("GetAccount", func(context.Context) error { return status.Error(test.from, "10.0.0.7") })
			gateway := b.as(t, "/gateway")
			_, err := gateway.CreatePayment(t.Context(), request("request-1"))
			wantStatus(t, err, test.code, test.text)
			page, err := b.as(t, "/operator").ListPayments(t.Context(), &paymentsv1.ListPaymentsRequest{AccountId: alice})
			if err != nil || len(page.GetPayments()) != 0 {
				t.Errorf("%d payments (%v), want none", len(page.GetPayments()), err)
			}
		})
	}
}

func TestPagesOfAnAccountAreForThatAccount(t *testing.T) {
	t.Parallel()
	b := newBank(t)
	gateway, operator := b.as(t, "/gateway"), b.as(t, "/operator")
	var want []string
	for n := range 5 {
		response, err := gateway.CreatePayment(t.Context(), request(fmt.Sprintf("request-%d", n)))
		if err != nil {
			t.Fatal(err)
		}
		want = append([]string{response.GetPayment().GetPaymentId()}, want...)
	}
	var got []string
	token := ""
	for {
		page, err := operator.ListPayments(t.Context(), &paymentsv1.ListPaymentsRequest{AccountId: bob, PageSize: 2, PageToken: token})
		if err != nil {
			t.Fatal(err)
		}
		for _, p := range page.GetPayments() {
			got = append(got, p.GetPaymentId())
		}
		if token = page.GetNextPageToken(); token == "" {
			break
		}
		_, err = operator.ListPayments(t.Context(), &paymentsv1.ListPaymentsRequest{AccountId: alice, PageToken: token})
		wantStatus(t, err, codes.InvalidArgument, "page token was not issued for this list")
	}
	if diff := cmp.Diff(want, got); diff != "" {
		t.Errorf("-want +got:\n%s", diff)
	}
}

// The gateway makes and watches payments, and what it does not do it may not do.
func TestTheGatewayMayNotLookPaymentsUp(t *testing.T) {
	t.Parallel()
	gateway := newBank(t).as(t, "/gateway")
	_, err := gateway.GetPayment(t.Context(), &paymentsv1.GetPaymentRequest{PaymentId: "pay-aaaaaaaaaaaaaaaaaaaaaaaaaa"})
	if status.Code(err) != codes.PermissionDenied {
		t.Errorf("GetPayment: %v, want PermissionDenied", err)
	}
	_, err = gateway.ListPayments(t.Context(), &paymentsv1.ListPaymentsRequest{AccountId: alice})
	if status.Code(err) != codes.PermissionDenied {
		t.Errorf("ListPayments: %v, want PermissionDenied", err)
	}
}

func TestAWatchResumesFromItsCursor(t *testing.T) {
	t.Parallel()
	b := newBank(t)
	gateway := b.as(t, "/gateway")
	pay := func(n int) string {
		response, err := gateway.CreatePayment(t.Context(), request(fmt.Sprintf("request-%d", n)))
		if err != nil {
			t.Fatal(err)
		}
		return response.GetPayment().GetPaymentId()
	}
	var want, got []string
	cursor := ""
	// watch takes n messages, while during goes on, and leaves.
	watch := func(n int, during func()) {
		ctx, leave := context.WithCancel(t.Context())
		defer leave()
		stream, err := gateway.WatchPayments(ctx, &paymentsv1.WatchPaymentsRequest{AccountId: bob, Cursor: cursor})
		if err != nil {
			t.Fatal(err)
		}
		during()
		for range n {
			message, err := stream.Recv()
			if err != nil {
				t.Fatal(err)
			}
			cursor = message.GetCursor()
			got = append(got, fmt.Sprintf("%s %s", message.GetPayment().GetPaymentId(), message.GetPayment().GetState()))
		}
		leave()
		for err == nil { // what had already arrived is thrown away: the cursor does not count it
			_, err = stream.Recv()
		}
		if status.Code(err) != codes.Canceled {
			t.Errorf("after leaving: %v, want Canceled", err)
		}
	}
	expect := func(id string) {
		for _, state := range []string{"CREATED", "ASSESSED", "POSTED"} {
			want = append(want, fmt.Sprintf("%s PAYMENT_STATE_%s", id, state))
		}
	}
	expect(pay(1))
	watch(2, func() {})
	expect(pay(2)) // while nobody watches
	watch(5, func() { expect(pay(3)) })
	watch(2, func() {})
	if diff := cmp.Diff(want, got); diff != "" {
		t.Errorf("-want +got:\n%s", diff)
	}
	for _, wrong := range []string{"x", cursor} {
		stream, err := gateway.WatchPayments(t.Context(), &paymentsv1.WatchPaymentsRequest{AccountId: alice, Cursor: wrong})
		if err != nil {
			t.Fatal(err)
		}
		_, err = stream.Recv()
		wantStatus(t, err, codes.InvalidArgument, "cursor was not issued for this account")
	}
}
