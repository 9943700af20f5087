package rpc_test

import (
	"context"
	"sync"
	"testing"

	"github.com/google/go-cmp/cmp"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"
	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/testing/protocmp"

	"github.com/countersign-mesh/countersign/pkg/database/databasetest"
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
		State: paymentsv1.PaymentState_PAYMENT_STATE_POSTED, CreateTime: p.GetCreateTime(), UpdateTime: p.GetUpdateTime(), Version: 4,
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
	if diff := cmp.Diff(map[string]*ledgerv1.Hold{p.GetPaymentId(): {
		HoldId: p.GetPaymentId(), AccountId: alice, Amount: eur(1234),
		State: ledgerv1.HoldState_HOLD_STATE_CAPTURED, TransferId: p.GetPaymentId(),
	}}, b.books.holds, protocmp.Transform()); diff != "" {
		t.Errorf("what was set aside: -want +got:\n%s", diff)
	}
	if diff := cmp.Diff(map[string]proto.Message{p.GetPaymentId(): &ledgerv1.CaptureHoldRequest{
		HoldId: p.GetPaymentId(), TransferId: p.GetPaymentId(), Description: "rent",
		Postings: []*ledgerv1.Posting{{AccountId: alice, Amount: eur(-1234)}, {AccountId: bob, Amount: eur(1234)}},
	}}, b.books.posted, protocmp.Transform()); diff != "" {
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
	if diff := cmp.Diff(map[string]proto.Message{p.GetPaymentId(): &ledgerv1.PostTransferRequest{
		TransferId: p.GetPaymentId(), Description: "Cash deposit",
		Postings: []*ledgerv1.Posting{{AccountId: "bank-cash", Amount: eur(-500)}, {AccountId: alice, Amount: eur(500)}},
	}}, b.books.posted, protocmp.Transform()); diff != "" {
		t.Errorf("what the ledger was told: -want +got:\n%s", diff)
	}
	if len(b.assessed) != 0 {
		t.Error("risk was asked")
	}
}

func TestARefusalIsNoError(t *testing.T) {
	t.Parallel()
	reason := &riskv1.Reason{Code: "AMOUNT_CEILING", Message: "too much"}
	const allow = riskv1.Verdict_VERDICT_ALLOW
	const refused, review = paymentsv1.PaymentState_PAYMENT_STATE_REFUSED, paymentsv1.PaymentState_PAYMENT_STATE_IN_REVIEW
	for name, test := range map[string]struct {
		verdict riskv1.Verdict
		method  string
		ledger  error
		state   paymentsv1.PaymentState
		reason  string
	}{
		"risk refuses":                                 {riskv1.Verdict_VERDICT_REFUSE, "", nil, refused, "AMOUNT_CEILING"},
		"risk holds":                                   {riskv1.Verdict_VERDICT_HOLD, "", nil, review, "AMOUNT_CEILING"},
		"there is too little to set aside":             {allow, "BeforeReserveFunds", precondition("INSUFFICIENT_FUNDS"), refused, "INSUFFICIENT_FUNDS"},
		"the hold's name is another's":                 {allow, "BeforeReserveFunds", status.Error(codes.AlreadyExists, "no"), review, "LEDGER_REJECTED"},
		"the ledger refuses for want of money":         {allow, "BeforePost", precondition("INSUFFICIENT_FUNDS"), refused, "INSUFFICIENT_FUNDS"},
		"the ledger refuses for want of room":          {allow, "BeforePost", precondition("BALANCE_OUT_OF_RANGE"), refused, "BALANCE_OUT_OF_RANGE"},
		"the ledger takes it for invalid":              {allow, "BeforePost", status.Error(codes.InvalidArgument, "no"), review, "LEDGER_REJECTED"},
		"the ledger has another under its name":        {allow, "BeforePost", status.Error(codes.AlreadyExists, "no"), review, "LEDGER_REJECTED"},
		"the ledger knows nothing of the hold":         {allow, "BeforePost", status.Error(codes.NotFound, "no"), review, "LEDGER_REJECTED"},
		"another transfer has taken what was held":     {allow, "BeforePost", precondition("HOLD_CAPTURED"), review, "LEDGER_REJECTED"},
		"what was held is available again, it is said": {allow, "BeforePost", precondition("HOLD_RELEASED"), refused, "LEDGER_REJECTED"},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			b := newBank(t)
			b.verdict = &riskv1.AssessPaymentResponse{Verdict: test.verdict, Reasons: []*riskv1.Reason{reason}}
			b.on(test.method, func(context.Context) error { return test.ledger })
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

// Whatever is said instead of a clear answer, the payment stays under way until there is one, and its caller is told how it stands.
// ATTACKS 64.
func TestAnOutcomeThatIsNotKnownIsSaidToBeSoAndFoundOut(t *testing.T) {
	t.Parallel()
	type answer struct {
		method string
		code   codes.Code
	}
	tests := map[string]answer{
		"risk gives no verdict":                                        {"verdict", codes.OK},
		"risk does not let payments ask":                               {"AssessPayment", codes.PermissionDenied},
		"the ledger fails for a reason that payments do not know":      {"BeforePost", codes.FailedPrecondition},
		"the ledger does not let payments post, by some bad rule":      {"BeforePost", codes.PermissionDenied},
		"the ledger does not set aside for a reason that is not known": {"BeforeReserveFunds", codes.FailedPrecondition},
	}
	for _, code := range []codes.Code{codes.Unavailable, codes.DeadlineExceeded, codes.Canceled, codes.Internal, codes.ResourceExhausted} {
		tests["risk answers "+code.String()] = answer{"AssessPayment", code}
		tests["asked to set aside, the ledger answers "+code.String()] = answer{"BeforeReserveFunds", code}
		tests["the ledger has set aside and answers "+code.String()] = answer{"ReserveFunds", code}
		tests["the ledger answers "+code.String()] = answer{"BeforePost", code}
		tests["the ledger has posted and answers "+code.String()] = answer{"Post", code}
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
			response, err := gateway.CreatePayment(t.Context(), request("request-1"))
			if err != nil {
				t.Fatal(err)
			}
			want := map[string]paymentsv1.PaymentState{
				"AssessPayment": paymentsv1.PaymentState_PAYMENT_STATE_IN_REVIEW, "verdict": paymentsv1.PaymentState_PAYMENT_STATE_IN_REVIEW,
				"BeforeReserveFunds": paymentsv1.PaymentState_PAYMENT_STATE_ASSESSED, "ReserveFunds": paymentsv1.PaymentState_PAYMENT_STATE_ASSESSED,
				"BeforePost": paymentsv1.PaymentState_PAYMENT_STATE_UNKNOWN, "Post": paymentsv1.PaymentState_PAYMENT_STATE_UNKNOWN,
			}[test.method]
			if got := response.GetPayment().GetState(); got != want {
				t.Errorf("answered as %s, want %s", got, want)
			}
			operator := b.as(t, "/operator")
			p := only(t, operator)
			if p.GetState() != want {
				t.Errorf("state %s, want %s", p.GetState(), want)
			}
			b.on(test.method, nil)
			b.mu.Lock()
			b.verdict = good
			b.mu.Unlock()
			becomes(t, operator, p.GetPaymentId(), paymentsv1.PaymentState_PAYMENT_STATE_POSTED)
			response, err = gateway.CreatePayment(t.Context(), request("request-1"))
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
	databasetest.Each(t, func(t *testing.T, dsn string) {
		b := newBankOver(t, dsn)
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
		operator := b.as(t, "/operator")
		becomes(t, operator, only(t, operator).GetPaymentId(), paymentsv1.PaymentState_PAYMENT_STATE_POSTED)
		if b.calls["AssessPayment"] != 1 || b.calls["ReserveFunds"] != 1 || b.calls["Post"] != 1 || b.postings() != 1 {
			t.Errorf("calls %v, want one to risk and one to the ledger for each step", b.calls)
		}
	})
}
