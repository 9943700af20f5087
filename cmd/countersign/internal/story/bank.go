package story

import (
	"context"
	"errors"
	"fmt"
	"time"

	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"

	"github.com/countersign-mesh/countersign/cmd/countersign/internal/customer"
	"github.com/countersign-mesh/countersign/cmd/countersign/internal/dial"
	ledgerv1 "github.com/countersign-mesh/countersign/proto/gen/bank/ledger/v1"
	mobilev1 "github.com/countersign-mesh/countersign/proto/gen/bank/mobile/v1"
	paymentsv1 "github.com/countersign-mesh/countersign/proto/gen/bank/payments/v1"
)

const (
	deposited = 1_000_00 // what Alice pays in, in cents
	paid      = 25_00    // what she pays Bob
	overlarge = 1_000_000_00
)

// openAccounts: customers reach the bank through the gateway's edge. For whom an account is, no request says: it is for whom the token is of.
func (p *player) openAccounts(ctx context.Context) error {
	for _, who := range []*person{&p.alice, &p.bob} {
		if err := p.openAccount(ctx, who); err != nil {
			return err
		}
		p.edgeCall(who.name, "OpenAccount", allowed)
		p.check(who.account != "", fmt.Sprintf("%s has an account: %s", who.name, who.account), "the account has no ID")
	}
	return nil
}

func (p *player) openAccount(ctx context.Context, who *person) error {
	r, err := who.phone.bank().OpenAccount(ctx, &mobilev1.OpenAccountRequest{RequestId: "open-" + who.id, DisplayName: who.name, CurrencyCode: "EUR"})
	who.account = r.GetAccount().GetAccountId()
	return err
}

// deposit: money enters the bank at the counter, by the operator.
func (p *player) deposit(ctx context.Context) error {
	return p.payIn(ctx, deposited, "cash-")
}

// payIn pays cash into Alice's account.
func (p *player) payIn(ctx context.Context, minor int64, request string) error {
	r, err := p.paymentClient().DepositCash(ctx, &paymentsv1.DepositCashRequest{
		RequestId: request + p.alice.id, AccountId: p.alice.account, Amount: euros(minor), Reference: "cash",
	})
	if err != nil {
		return err
	}
	p.call("operator", "payments", paymentService+"DepositCash")
	expect(p, customer.Amount(euros(minor))+" are in the books", paymentsv1.PaymentState_PAYMENT_STATE_POSTED, r.GetPayment().GetState())
	p.cash += minor
	return nil
}

// payBob: one payment is many calls; audit has each, and one trace holds them together.
func (p *player) payBob(ctx context.Context) error {
	begin := time.Now()
	transfer, err := p.transfer(ctx, paid, "coffee-"+p.run)
	if err != nil {
		return err
	}
	expect(p, customer.Amount(euros(paid))+" went from Alice to Bob", mobilev1.TransferStatus_TRANSFER_STATUS_DONE, transfer.GetStatus())
	p.sent += paid
	return p.hops(ctx, begin)
}

// transfer pays Bob from Alice's account, by her phone.
func (p *player) transfer(ctx context.Context, minor int64, request string) (*mobilev1.Transfer, error) {
	r, err := p.alice.phone.bank().Transfer(ctx, &mobilev1.TransferRequest{
		RequestId: request, PayerAccountId: p.alice.account, PayeeAccountId: p.bob.account,
		Amount: euros(minor), Reference: "for " + p.bob.name,
	})
	return r.GetTransfer(), dial.Explain(err)
}

// books: what the app shows, what the ledger has, and whether the whole ledger sums to zero.
func (p *player) books(ctx context.Context) error {
	if err := p.balances(ctx, ""); err != nil {
		return err
	}
	r, err := p.ledgerClient().CheckTrialBalance(ctx, &ledgerv1.CheckTrialBalanceRequest{})
	if err != nil {
		return err
	}
	p.call("operator", "ledger", "bank.ledger.v1.LedgerService/CheckTrialBalance")
	zero := r.GetBalanced()
	for _, sum := range r.GetSums() {
		zero = zero && sum.GetMinorUnits() == 0
	}
	p.check(zero && r.GetEntryCount() > 0,
		fmt.Sprintf("all %d entries of %d transfers sum to zero", r.GetEntryCount(), r.GetTransferCount()), fmt.Sprint(r))
	return nil
}

// balances checks what the app shows Alice and Bob against what was paid in and what she has sent him. when is said behind it.
func (p *player) balances(ctx context.Context, when string) error {
	for _, want := range []struct {
		person
		minor int64
	}{{p.alice, p.cash - p.sent}, {p.bob, p.sent}} {
		got, err := p.balance(ctx, want.person)
		if err != nil {
			return err
		}
		expect(p, fmt.Sprintf("%s has %s%s", want.name, customer.Amount(euros(want.minor)), when), want.minor, got)
	}
	return nil
}

func (p *player) balance(ctx context.Context, who person) (int64, error) {
	r, err := who.phone.bank().ListAccounts(ctx, &mobilev1.ListAccountsRequest{})
	if err != nil {
		return 0, err
	}
	for _, a := range r.GetAccounts() {
		if a.GetAccountId() == who.account {
			return a.GetBalance().GetMinorUnits(), nil
		}
	}
	return 0, status.Errorf(codes.NotFound, "the app does not show %s the account %s", who.name, who.account)
}

// stepUp: a token that was had with a password alone does not pay much. Who has the phone and knows the password has not the authenticator app.
func (p *player) stepUp(ctx context.Context) error {
	_, err := p.transfer(ctx, overlarge, "yacht-"+p.run)
	refusal, ok := errors.AsType[*dial.StatusError](err)
	if err != nil && !ok {
		return err
	}
	p.check(ok && refusal.Status.Code() == codes.Unauthenticated && customer.Reason(err) == customer.ReasonStepUp,
		"the gateway asks for more than a password before it passes "+customer.Amount(euros(overlarge))+" on", fmt.Sprint(err))
	p.edgeCall("Alice", "Transfer", denied)
	code, err := p.alice.codes.Next(ctx)
	if err != nil {
		return err
	}
	if err := p.logIn(ctx, &p.alice, p.alice.phone, code); err != nil {
		return err
	}
	p.note("Alice logs in again, with a one-time code as well")
	return nil
}

// overlarge: risk has its say before the books do.
func (p *player) overlarge(ctx context.Context) error {
	transfer, err := p.transfer(ctx, overlarge, "yacht-"+p.run)
	if err != nil {
		return err
	}
	expect(p, "the payment of "+customer.Amount(euros(overlarge))+" is refused", mobilev1.TransferStatus_TRANSFER_STATUS_REFUSED, transfer.GetStatus())
	r, err := p.paymentClient().GetPayment(ctx, &paymentsv1.GetPaymentRequest{PaymentId: transfer.GetPaymentId()})
	if err != nil {
		return err
	}
	ceiling := false
	for _, reason := range r.GetPayment().GetReasons() {
		ceiling = ceiling || reason.GetCode() == "AMOUNT_CEILING"
		p.note("%s: %s", reason.GetCode(), reason.GetMessage())
	}
	p.check(ceiling, "by risk, for its amount", fmt.Sprint(r.GetPayment()))
	return p.balances(ctx, " still")
}
