package rpc_test

import (
	"context"
	"testing"
	"time"

	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"

	paymentsv1 "github.com/countersign-mesh/countersign/proto/gen/bank/payments/v1"
	riskv1 "github.com/countersign-mesh/countersign/proto/gen/bank/risk/v1"
)

const (
	approve, refuse  = paymentsv1.ReviewDecision_REVIEW_DECISION_APPROVE, paymentsv1.ReviewDecision_REVIEW_DECISION_REFUSE
	posted, refused  = paymentsv1.PaymentState_PAYMENT_STATE_POSTED, paymentsv1.PaymentState_PAYMENT_STATE_REFUSED
	notInReview      = "the payment is not in review at this version; look at it again"
	nobodysPaymentID = "pay-aaaaaaaaaaaaaaaaaaaaaaaaaa"
)

func TestAPersonDecidesOnWhatRiskDoesNotWantToDecide(t *testing.T) {
	t.Parallel()
	for name, test := range map[string]struct {
		decision paymentsv1.ReviewDecision
		other    paymentsv1.ReviewDecision
		want     paymentsv1.PaymentState
		reason   string
		postings int
	}{
		"approved it is posted and not assessed again": {approve, refuse, posted, "", 1},
		"refused it is not":                            {refuse, approve, refused, "REVIEW_REFUSED", 0},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			b := newBank(t)
			b.verdict = &riskv1.AssessPaymentResponse{Verdict: riskv1.Verdict_VERDICT_HOLD, Reasons: []*riskv1.Reason{{Code: "AMOUNT_CEILING"}}}
			created, err := b.as(t, "/gateway").CreatePayment(t.Context(), request("request-1"))
			if err != nil {
				t.Fatal(err)
			}
			operator := b.as(t, "/operator")
			review := func(decision paymentsv1.ReviewDecision) (*paymentsv1.Payment, error) {
				response, err := operator.ReviewPayment(t.Context(), &paymentsv1.ReviewPaymentRequest{
					PaymentId: created.GetPayment().GetPaymentId(), Decision: decision, Version: created.GetPayment().GetVersion(),
				})
				return response.GetPayment(), err
			}
			for range 2 { // the same decision again changes nothing
				p, err := review(test.decision)
				if err != nil || p.GetState() != test.want {
					t.Fatalf("%s (%v), want %s", p.GetState(), err, test.want)
				}
				if (test.reason != "") != (len(p.GetReasons()) == 1) || test.reason != "" && p.GetReasons()[0].GetCode() != test.reason {
					t.Errorf("reasons %v, want %q", p.GetReasons(), test.reason)
				}
			}
			_, err = review(test.other)
			wantStatus(t, err, codes.FailedPrecondition, notInReview)
			if b.postings() != test.postings || b.active() != 0 || b.calls["AssessPayment"] != 1 {
				t.Errorf("%d in the ledger, %d active holds, assessed %d times", b.postings(), b.active(), b.calls["AssessPayment"])
			}
		})
	}
}

func TestAPersonDecidesWhileRiskIsAway(t *testing.T) {
	t.Parallel()
	b := newBank(t)
	b.on("AssessPayment", func(context.Context) error { return status.Error(codes.PermissionDenied, "no") })
	created, err := b.as(t, "/gateway").CreatePayment(t.Context(), request("request-1"))
	if err != nil || created.GetPayment().GetReasons()[0].GetCode() != "RISK_UNAVAILABLE" {
		t.Fatalf("%v (%v), want RISK_UNAVAILABLE", created.GetPayment(), err)
	}
	response, err := b.as(t, "/operator").ReviewPayment(t.Context(), &paymentsv1.ReviewPaymentRequest{
		PaymentId: created.GetPayment().GetPaymentId(), Decision: approve, Version: created.GetPayment().GetVersion(),
	})
	if err != nil || response.GetPayment().GetState() != posted || b.postings() != 1 {
		t.Errorf("%s (%v), %d in the ledger; want posted, 1", response.GetPayment().GetState(), err, b.postings())
	}
}

// A person approves what waits for risk alone. By then risk has spoken, and wants a person to look: nobody has, at that.
func TestADecisionIsOnWhatThePersonHasSeen(t *testing.T) {
	t.Parallel()
	b := newBank(t)
	b.verdict = &riskv1.AssessPaymentResponse{Verdict: riskv1.Verdict_VERDICT_HOLD, Reasons: []*riskv1.Reason{{Code: "AMOUNT_CEILING"}}}
	b.on("AssessPayment", func(context.Context) error { return status.Error(codes.PermissionDenied, "no") })
	created, err := b.as(t, "/gateway").CreatePayment(t.Context(), request("request-1"))
	if err != nil {
		t.Fatal(err)
	}
	seen, operator := created.GetPayment(), b.as(t, "/operator")
	b.on("AssessPayment", nil)
	now, tick := seen, time.NewTicker(5*time.Millisecond)
	defer tick.Stop()
	for deadline := time.Now().Add(20 * time.Second); now.GetReasons()[0].GetCode() != "AMOUNT_CEILING"; <-tick.C {
		response, err := operator.GetPayment(t.Context(), &paymentsv1.GetPaymentRequest{PaymentId: seen.GetPaymentId()})
		if err != nil || time.Now().After(deadline) {
			t.Fatalf("%v (%v), want in review for risk's own reason", now, err)
		}
		now = response.GetPayment()
	}
	approves := func(p *paymentsv1.Payment) (*paymentsv1.Payment, error) {
		response, err := operator.ReviewPayment(t.Context(), &paymentsv1.ReviewPaymentRequest{
			PaymentId: p.GetPaymentId(), Decision: approve, Version: p.GetVersion(),
		})
		return response.GetPayment(), err
	}
	_, err = approves(seen)
	wantStatus(t, err, codes.FailedPrecondition, notInReview)
	if b.postings() != 0 {
		t.Error("what nobody has looked at is in the ledger")
	}
	if p, err := approves(now); err != nil || p.GetState() != posted {
		t.Errorf("%s (%v), want posted", p.GetState(), err)
	}
}

// What the ledger has rejected may be set aside there, or be in its books by now.
func TestARefusalAfterMoneyWasSetAsideMakesItAvailableAgain(t *testing.T) {
	t.Parallel()
	b := newBank(t)
	b.on("BeforePost", func(context.Context) error { return status.Error(codes.InvalidArgument, "no") })
	created, err := b.as(t, "/gateway").CreatePayment(t.Context(), request("request-1"))
	if err != nil || b.active() != 1 {
		t.Fatalf("%v, %d active holds, want 1", err, b.active())
	}
	response, err := b.as(t, "/operator").ReviewPayment(t.Context(), &paymentsv1.ReviewPaymentRequest{
		PaymentId: created.GetPayment().GetPaymentId(), Decision: refuse, Version: created.GetPayment().GetVersion(),
	})
	if err != nil || response.GetPayment().GetState() != refused || b.active() != 0 {
		t.Errorf("%s (%v), %d active holds; want refused, none", response.GetPayment().GetState(), err, b.active())
	}
}

func TestWhatIsNotInReviewIsNotDecidedOn(t *testing.T) {
	t.Parallel()
	b := newBank(t)
	created, err := b.as(t, "/gateway").CreatePayment(t.Context(), request("request-1"))
	if err != nil {
		t.Fatal(err)
	}
	operator := b.as(t, "/operator")
	_, err = operator.ReviewPayment(t.Context(), &paymentsv1.ReviewPaymentRequest{
		PaymentId: created.GetPayment().GetPaymentId(), Decision: approve, Version: created.GetPayment().GetVersion(),
	})
	wantStatus(t, err, codes.FailedPrecondition, notInReview)
	_, err = operator.ReviewPayment(t.Context(), &paymentsv1.ReviewPaymentRequest{PaymentId: nobodysPaymentID, Decision: approve, Version: 1})
	wantStatus(t, err, codes.NotFound, "no such payment")
	for name, incomplete := range map[string]*paymentsv1.ReviewPaymentRequest{
		"no decision":     {PaymentId: nobodysPaymentID, Version: 1},
		"no version":      {PaymentId: nobodysPaymentID, Decision: approve},
		"not any version": {PaymentId: nobodysPaymentID, Decision: approve, Version: -1},
	} {
		if _, err = operator.ReviewPayment(t.Context(), incomplete); status.Code(err) != codes.InvalidArgument {
			t.Errorf("%s: %v, want InvalidArgument", name, err)
		}
	}
	_, err = b.as(t, "/gateway").ReviewPayment(t.Context(), &paymentsv1.ReviewPaymentRequest{PaymentId: nobodysPaymentID, Decision: approve, Version: 1})
	if status.Code(err) != codes.PermissionDenied {
		t.Errorf("the gateway: %v, want PermissionDenied", err)
	}
}

// Frozen between the wish and the books, an account takes no part.
func TestAnAccountThatIsFrozenOnTheWayEndsThePayment(t *testing.T) {
	t.Parallel()
	b := newBank(t)
	b.on("ReserveFunds", func(context.Context) error {
		b.mu.Lock()
		defer b.mu.Unlock()
		b.frozen[bob] = true
		return nil
	})
	created, err := b.as(t, "/gateway").CreatePayment(t.Context(), request("request-1"))
	if err != nil || created.GetPayment().GetState() != refused || created.GetPayment().GetReasons()[0].GetCode() != "ACCOUNT_FROZEN" {
		t.Errorf("%v (%v), want refused, ACCOUNT_FROZEN", created.GetPayment(), err)
	}
	if b.postings() != 0 || b.active() != 0 {
		t.Errorf("%d in the ledger, %d active holds; want none", b.postings(), b.active())
	}
}
