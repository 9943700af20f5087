package story

import (
	"context"
	"fmt"

	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"

	ledgerv1 "github.com/countersign-mesh/countersign/proto/gen/bank/ledger/v1"
	mobilev1 "github.com/countersign-mesh/countersign/proto/gen/bank/mobile/v1"
	paymentsv1 "github.com/countersign-mesh/countersign/proto/gen/bank/payments/v1"
)

const (
	mobileService = "bank.mobile.v1.MobileBankService/"

	deposited = 1_000_00 // what Alice pays in, in cents
	paid      = 25_00    // what she pays Bob
	overlarge = 1_000_000_00
)

// openAccounts: customers reach the bank through the gateway, as the mobile app.
func (p *player) openAccounts(context.Context) error {
	for _, c := range []*customer{&p.alice, &p.bob} {
		if err := p.openAccount(c, ""); err != nil {
			return err
		}
		p.call("mobile", "gateway", mobileService+"OpenAccount", allowed)
		p.check(c.account != "", fmt.Sprintf("%s has an account: %s", c.name, c.account), "the account has no ID")
	}
	return nil
}

func (p *player) openAccount(c *customer, suffix string) error {
	var r mobilev1.OpenAccountResponse
	err := p.mobile.Call(mobileService+"OpenAccount", "", &mobilev1.OpenAccountRequest{
		CustomerId: c.id, RequestId: "open-" + c.id + suffix, DisplayName: c.name, CurrencyCode: "EUR",
	}, &r)
	c.account = r.GetAccount().GetAccountId()
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
	p.call("operator", "payments", paymentService+"DepositCash", allowed)
	expect(p, text(euros(minor))+" are in the books", paymentsv1.PaymentState_PAYMENT_STATE_POSTED, r.GetPayment().GetState())
	p.cash += minor
	return nil
}

// payBob: one payment is many calls; audit has each, and one trace holds them together.
func (p *player) payBob(ctx context.Context) error {
	trace := newTrace()
	transfer, err := p.transfer(p.alice, p.bob, paid, "coffee-"+p.run, trace.parent())
	if err != nil {
		return err
	}
	expect(p, text(euros(paid))+" went from Alice to Bob", mobilev1.TransferStatus_TRANSFER_STATUS_DONE, transfer.GetStatus())
	p.sent += paid
	return p.hops(ctx, trace)
}

func (p *player) transfer(from, to customer, minor int64, request, traceParent string) (*mobilev1.Transfer, error) {
	var r mobilev1.TransferResponse
	err := p.mobile.Call(mobileService+"Transfer", traceParent, &mobilev1.TransferRequest{
		CustomerId: from.id, RequestId: request, PayerAccountId: from.account, PayeeAccountId: to.account,
		Amount: euros(minor), Reference: "for " + to.name,
	}, &r)
	return r.GetTransfer(), err
}

// books: what the app shows, what the ledger has, and whether the whole ledger sums to zero.
func (p *player) books(ctx context.Context) error {
	if err := p.balances(""); err != nil {
		return err
	}
	r, err := p.ledgerClient().CheckTrialBalance(ctx, &ledgerv1.CheckTrialBalanceRequest{})
	if err != nil {
		return err
	}
	p.call("operator", "ledger", "bank.ledger.v1.LedgerService/CheckTrialBalance", allowed)
	zero := r.GetBalanced()
	for _, sum := range r.GetSums() {
		zero = zero && sum.GetMinorUnits() == 0
	}
	p.check(zero && r.GetEntryCount() > 0,
		fmt.Sprintf("all %d entries of %d transfers sum to zero", r.GetEntryCount(), r.GetTransferCount()), fmt.Sprint(r))
	return nil
}

// balances checks what the app shows Alice and Bob against what was paid in and what she has sent him. when is said behind it.
func (p *player) balances(when string) error {
	for _, want := range []struct {
		customer
		minor int64
	}{{p.alice, p.cash - p.sent}, {p.bob, p.sent}} {
		got, err := p.balance(want.customer)
		if err != nil {
			return err
		}
		expect(p, fmt.Sprintf("%s has %s%s", want.name, text(euros(want.minor)), when), want.minor, got)
	}
	return nil
}

func (p *player) balance(c customer) (int64, error) {
	var r mobilev1.ListAccountsResponse
	if err := p.mobile.Call(mobileService+"ListAccounts", "", &mobilev1.ListAccountsRequest{CustomerId: c.id}, &r); err != nil {
		return 0, err
	}
	for _, a := range r.GetAccounts() {
		if a.GetAccountId() == c.account {
			return a.GetBalance().GetMinorUnits(), nil
		}
	}
	return 0, status.Errorf(codes.NotFound, "the app does not show %s the account %s", c.name, c.account)
}

// overlarge: risk has its say before the books do.
func (p *player) overlarge(ctx context.Context) error {
	transfer, err := p.transfer(p.alice, p.bob, overlarge, "yacht-"+p.run, "")
	if err != nil {
		return err
	}
	expect(p, "the payment of "+text(euros(overlarge))+" is refused", mobilev1.TransferStatus_TRANSFER_STATUS_REFUSED, transfer.GetStatus())
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
	return p.balances(" still")
}
