package story

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"syscall"

	"google.golang.org/grpc/codes"

	"github.com/countersign-mesh/countersign/cmd/countersign/internal/dial"
	accountsv1 "github.com/countersign-mesh/countersign/proto/gen/bank/accounts/v1"
	mobilev1 "github.com/countersign-mesh/countersign/proto/gen/bank/mobile/v1"
	paymentsv1 "github.com/countersign-mesh/countersign/proto/gen/bank/payments/v1"
)

const (
	accountService = "bank.accounts.v1.AccountService/"
	paymentService = "bank.payments.v1.PaymentService/"

	carPrice = 5_500_00 // above what risk lets through by itself, and below what it refuses
	lunch    = 12_00
)

// review: risk does not want to decide, so a person does.
func (p *player) review(ctx context.Context) error {
	if err := p.payIn(ctx, carPrice, "savings-"); err != nil {
		return err
	}
	transfer, err := p.transfer(p.alice, p.bob, carPrice, "car-"+p.run, "")
	if err != nil {
		return err
	}
	expect(p, "Alice's payment of "+text(euros(carPrice))+" is held", mobilev1.TransferStatus_TRANSFER_STATUS_HELD, transfer.GetStatus())
	seen, err := p.inReview(ctx, transfer.GetPaymentId(), "AMOUNT_CEILING")
	if err != nil {
		return err
	}
	if err := p.balances(" still"); err != nil {
		return err
	}
	_, err = p.paymentClient().ReviewPayment(ctx, &paymentsv1.ReviewPaymentRequest{
		PaymentId: transfer.GetPaymentId(), Decision: paymentsv1.ReviewDecision_REVIEW_DECISION_APPROVE, Version: seen.GetVersion(),
	})
	if err != nil {
		return err
	}
	p.call("operator", "payments", paymentService+"ReviewPayment", allowed)
	return p.goesOn(ctx, transfer.GetPaymentId(), "the operator approves it, and it is posted", carPrice)
}

// inReview checks that a payment waits for a person, or for risk, and why, and returns it.
func (p *player) inReview(ctx context.Context, paymentID, code string) (*paymentsv1.Payment, error) {
	r, err := p.paymentClient().GetPayment(ctx, &paymentsv1.GetPaymentRequest{PaymentId: paymentID})
	if err != nil {
		return nil, err
	}
	payment := r.GetPayment()
	for _, reason := range payment.GetReasons() {
		p.note("%s: %s", reason.GetCode(), reason.GetMessage())
	}
	waits := payment.GetState() == paymentsv1.PaymentState_PAYMENT_STATE_IN_REVIEW &&
		slices.ContainsFunc(payment.GetReasons(), func(r *paymentsv1.Reason) bool { return r.GetCode() == code })
	p.check(waits, "it is in review, with the reason "+code, fmt.Sprint(payment))
	return payment, nil
}

// goesOn waits until a payment from Alice to Bob is posted, and checks what both have then.
func (p *player) goesOn(ctx context.Context, paymentID, what string, minor int64) error {
	var payment *paymentsv1.Payment
	err := p.await(ctx, func() (bool, error) {
		r, err := p.paymentClient().GetPayment(ctx, &paymentsv1.GetPaymentRequest{PaymentId: paymentID})
		payment = r.GetPayment()
		return payment.GetState() == paymentsv1.PaymentState_PAYMENT_STATE_POSTED, err
	})
	if err != nil {
		return err
	}
	expect(p, what, paymentsv1.PaymentState_PAYMENT_STATE_POSTED, payment.GetState())
	p.sent += minor
	return p.balances("")
}

// frozen: an account that is frozen neither pays nor is paid. It is given free again, also when the story ends here.
func (p *player) frozen(ctx context.Context) (err error) {
	_, err = p.accountClient().FreezeAccount(ctx, &accountsv1.FreezeAccountRequest{AccountId: p.bob.account, Reason: "countersign demo"})
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, p.unfreeze(context.WithoutCancel(ctx))) }()
	p.call("operator", "accounts", accountService+"FreezeAccount", allowed)
	_, err = p.transfer(p.alice, p.bob, lunch, "frozen-"+p.run, "")
	refusal, ok := errors.AsType[*dial.StatusError](err)
	if err != nil && !ok {
		return err
	}
	p.check(ok && refusal.Status.Code() == codes.FailedPrecondition, "Bob's account is frozen, and takes no payment", fmt.Sprint(err))
	if ok {
		p.note("%s: %s", dial.CodeName(refusal.Status.Code()), refusal.Status.Message())
	}
	return p.balances(" still")
}

func (p *player) unfreeze(ctx context.Context) error {
	_, err := p.accountClient().UnfreezeAccount(ctx, &accountsv1.UnfreezeAccountRequest{AccountId: p.bob.account})
	if err != nil {
		return fmt.Errorf("unfreeze %s: %w", p.bob.account, err)
	}
	p.call("operator", "accounts", accountService+"UnfreezeAccount", allowed)
	return nil
}

// riskAway: nobody can say what risk thinks of a payment, so it waits. Risk goes on when the story ends here, too.
func (p *player) riskAway(ctx context.Context) (err error) {
	risk, ok := p.settings.Mesh.Find("risk")
	if !ok {
		return errors.New("the mesh has no service risk")
	}
	if err := risk.Signal(syscall.SIGSTOP); err != nil {
		return err
	}
	defer func() { err = errors.Join(err, risk.Signal(syscall.SIGCONT)) }()
	p.note("risk, process %d, is stopped: it takes connections and answers nothing", risk.PID)
	transfer, err := p.patientTransfer(ctx, lunch, "lunch-"+p.run)
	if err != nil {
		return err
	}
	expect(p, "Alice's payment of "+text(euros(lunch))+" waits", mobilev1.TransferStatus_TRANSFER_STATUS_HELD, transfer.GetStatus())
	if _, err := p.inReview(ctx, transfer.GetPaymentId(), "RISK_UNAVAILABLE"); err != nil {
		return err
	}
	if err := p.balances(" still"); err != nil {
		return err
	}
	if err := risk.Signal(syscall.SIGCONT); err != nil {
		return err
	}
	return p.goesOn(ctx, transfer.GetPaymentId(), "risk goes on, and the payment with it: it is posted", lunch)
}

// patientTransfer pays Bob from Alice's account, and sends the same request again while the bank is not available, as its contract has it: a call
// that waits for a service that is away may take longer than what is left of a connection whose SVIDs are about to be renewed.
func (p *player) patientTransfer(ctx context.Context, minor int64, request string) (*mobilev1.Transfer, error) {
	var transfer *mobilev1.Transfer
	var last error
	err := p.await(ctx, func() (done bool, _ error) {
		transfer, last = p.transfer(p.alice, p.bob, minor, request, "")
		refusal, refused := errors.AsType[*dial.StatusError](last)
		return !refused || refusal.Status.Code() != codes.Unavailable, nil
	})
	return transfer, errors.Join(err, last)
}
