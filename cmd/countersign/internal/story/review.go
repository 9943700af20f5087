package story

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"sync"

	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"

	"github.com/countersign-mesh/countersign/cmd/countersign/internal/admin"
	"github.com/countersign-mesh/countersign/cmd/countersign/internal/customer"
	"github.com/countersign-mesh/countersign/cmd/countersign/internal/dial"
	"github.com/countersign-mesh/countersign/cmd/countersign/internal/policyfile"
	"github.com/countersign-mesh/countersign/pkg/identity"
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
	transfer, err := p.transfer(ctx, carPrice, "car-"+p.run)
	if err != nil {
		return err
	}
	expect(p, "Alice's payment of "+customer.Amount(euros(carPrice))+" is held", mobilev1.TransferStatus_TRANSFER_STATUS_HELD, transfer.GetStatus())
	seen, err := p.inReview(ctx, transfer.GetPaymentId(), "AMOUNT_CEILING")
	if err != nil {
		return err
	}
	if err := p.balances(ctx, " still"); err != nil {
		return err
	}
	_, err = p.paymentClient().ReviewPayment(ctx, &paymentsv1.ReviewPaymentRequest{
		PaymentId: transfer.GetPaymentId(), Decision: paymentsv1.ReviewDecision_REVIEW_DECISION_APPROVE, Version: seen.GetVersion(),
	})
	if err != nil {
		return err
	}
	p.call("operator", "payments", paymentService+"ReviewPayment")
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
	return p.balances(ctx, "")
}

// frozen: an account that is frozen neither pays nor is paid. It is given free again, also when the story ends here.
func (p *player) frozen(ctx context.Context) (err error) {
	_, err = p.accountClient().FreezeAccount(ctx, &accountsv1.FreezeAccountRequest{AccountId: p.bob.account, Reason: "countersign demo"})
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, p.unfreeze(context.WithoutCancel(ctx))) }()
	p.call("operator", "accounts", accountService+"FreezeAccount")
	_, err = p.transfer(ctx, lunch, "frozen-"+p.run)
	refusal, ok := errors.AsType[*dial.StatusError](err)
	if err != nil && !ok {
		return err
	}
	p.check(ok && refusal.Status.Code() == codes.FailedPrecondition, "Bob's account is frozen, and takes no payment", fmt.Sprint(err))
	if ok {
		p.note("%s: %s", dial.CodeName(refusal.Status.Code()), refusal.Status.Message())
	}
	return p.balances(ctx, " still")
}

func (p *player) unfreeze(ctx context.Context) error {
	_, err := p.accountClient().UnfreezeAccount(ctx, &accountsv1.UnfreezeAccountRequest{AccountId: p.bob.account})
	if err != nil {
		return fmt.Errorf("unfreeze %s: %w", p.bob.account, err)
	}
	p.call("operator", "accounts", accountService+"UnfreezeAccount")
	return nil
}

// riskAway: nobody believes risk any more, so nobody can say what risk thinks of a payment, and the payment waits. Risk is believed again when
// the story ends here, too.
func (p *player) riskAway(ctx context.Context) (err error) {
	payments, closePayments, err := p.servers(ctx, "payments")
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, closePayments()) }()
	ledger, closeLedger, err := p.servers(ctx, "ledger")
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, closeLedger()) }()
	change, takeBack, err := p.disownRisk(ctx, slices.Concat(payments, ledger)...)
	if err != nil {
		return err
	}
	believed := false
	defer func() {
		if !believed {
			err = errors.Join(err, takeBack(context.WithoutCancel(ctx)))
		}
	}()
	p.note("the operator revokes risk's identity in the policy, %s", change.Entry)
	if ok, err := p.ignored(ctx, change, payments...); !ok || err != nil {
		return err
	}
	transfer, err := p.patientTransfer(ctx, lunch, "lunch-"+p.run)
	if err != nil {
		return err
	}
	expect(p, "Alice's payment of "+customer.Amount(euros(lunch))+" waits", mobilev1.TransferStatus_TRANSFER_STATUS_HELD, transfer.GetStatus())
	if _, err := p.inReview(ctx, transfer.GetPaymentId(), "RISK_UNAVAILABLE"); err != nil {
		return err
	}
	if err := p.balances(ctx, " still"); err != nil {
		return err
	}
	if err := takeBack(ctx); err != nil {
		return err
	}
	believed = true
	return p.goesOn(ctx, transfer.GetPaymentId(), "risk is believed again, and the payment goes on by itself: it is posted", lunch)
}

// ignored checks that every server of payments heeds the revocation of risk: the next payment may be in the hands of any.
func (p *player) ignored(ctx context.Context, change policyfile.Change, payments ...*grpc.ClientConn) (bool, error) {
	id, err := p.settings.Mesh.ID("risk")
	if err != nil {
		return false, err
	}
	ctx, cancel := context.WithTimeout(ctx, forceBound)
	defer cancel()
	revoked := admin.Revoked{What: identity.Revocation{ID: id}, Version: change.Version, Time: change.Time}
	outcomes := make([]admin.Outcome, len(payments))
	var group sync.WaitGroup
	for i, conn := range payments {
		group.Go(func() { outcomes[i] = revoked.Follow(ctx, conn) })
	}
	group.Wait()
	cuts, errs := 0, make([]error, len(outcomes))
	for i, o := range outcomes {
		cuts += len(o.Cuts)
		if errs[i] = o.Err; o.Err != nil && len(payments) > 1 {
			errs[i] = fmt.Errorf("%s: %w", payments[i].Target(), o.Err)
		}
	}
	err = errors.Join(errs...)
	p.check(err == nil, fmt.Sprintf("payments has no connection to risk any more: it has cut %d", cuts), fmt.Sprint(err))
	return err == nil, nil
}

// patientTransfer pays Bob from Alice's account, and sends the same request again while the bank is not available, as its contract has it: a call
// that waits for a service that is away may take longer than what is left of a connection whose SVIDs are about to be renewed.
func (p *player) patientTransfer(ctx context.Context, minor int64, request string) (*mobilev1.Transfer, error) {
	var transfer *mobilev1.Transfer
	var last error
	err := p.await(ctx, func() (done bool, _ error) {
		transfer, last = p.transfer(ctx, minor, request)
		refusal, refused := errors.AsType[*dial.StatusError](last)
		return !refused || refusal.Status.Code() != codes.Unavailable, nil
	})
	return transfer, errors.Join(err, last)
}
