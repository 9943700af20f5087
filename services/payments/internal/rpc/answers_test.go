package rpc_test

import (
	"context"
	"fmt"
	"testing"

	"github.com/google/go-cmp/cmp"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"

	paymentsv1 "github.com/countersign-mesh/countersign/proto/gen/bank/payments/v1"
)

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
		"a payer that does not exist":           {func(r *paymentsv1.CreatePaymentRequest) { r.PayerAccountId = nobody }, codes.NotFound, "the paying account does not exist"},
		"a payee that does not exist":           {func(r *paymentsv1.CreatePaymentRequest) { r.PayeeAccountId = nobody }, codes.NotFound, "the paid account does not exist"},
		"a closed payer":                        {func(r *paymentsv1.CreatePaymentRequest) { r.PayerAccountId = closed }, codes.FailedPrecondition, "the paying account is closed"},
		"a frozen payer":                        {func(r *paymentsv1.CreatePaymentRequest) { r.PayerAccountId = frozen }, codes.FailedPrecondition, "the paying account is frozen"},
		"a frozen payee":                        {func(r *paymentsv1.CreatePaymentRequest) { r.PayeeAccountId = frozen }, codes.FailedPrecondition, "the paid account is frozen"},
		"a payee of another currency":           {func(r *paymentsv1.CreatePaymentRequest) { r.PayeeAccountId = dollar }, codes.FailedPrecondition, "the paid account is of another currency"},
		"a request ID that was used":            {func(r *paymentsv1.CreatePaymentRequest) { r.RequestId = "request-used"; r.Reference = "x" }, codes.AlreadyExists, "the request_id was used for other content; choose a new one"},
		"the same account twice":                {func(r *paymentsv1.CreatePaymentRequest) { r.PayeeAccountId = alice }, codes.InvalidArgument, "validation error: payer_account_id and payee_account_id must differ"},
		"a NUL, which not every database keeps": {func(r *paymentsv1.CreatePaymentRequest) { r.Reference = "re\x00nt" }, codes.InvalidArgument, "validation error: reference: contains substring `\x00`"},
		"an amount that is below zero":          {func(r *paymentsv1.CreatePaymentRequest) { r.Amount = eur(-1) }, codes.InvalidArgument, "validation error: amount: must be above zero"},
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
		for _, state := range []string{"CREATED", "ASSESSED", "HELD", "POSTED"} {
			want = append(want, fmt.Sprintf("%s PAYMENT_STATE_%s", id, state))
		}
	}
	expect(pay(1))
	watch(2, func() {})
	expect(pay(2)) // while nobody watches
	watch(7, func() { expect(pay(3)) })
	watch(3, func() {})
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
