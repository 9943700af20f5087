package story

import (
	"context"
	"crypto/rand"
	"errors"
	"fmt"
	"slices"
	"strconv"
	"strings"

	"github.com/countersign-mesh/countersign/cmd/countersign/internal/actor"
	"github.com/countersign-mesh/countersign/cmd/countersign/internal/customer"
	"github.com/countersign-mesh/countersign/cmd/countersign/internal/dial"
	ledgerv1 "github.com/countersign-mesh/countersign/proto/gen/bank/ledger/v1"
	loginv1 "github.com/countersign-mesh/countersign/proto/gen/bank/login/v1"
	paymentsv1 "github.com/countersign-mesh/countersign/proto/gen/bank/payments/v1"
	auditv1 "github.com/countersign-mesh/countersign/proto/gen/mesh/audit/v1"
)

const (
	// cinema is what Alice asks for, and loot what is made of it.
	cinema = 9_00
	loot   = 90_00

	createPayment = paymentService + "CreatePayment"
	reserveFunds  = "bank.ledger.v1.LedgerService/ReserveFunds"
)

// capturedToken: accounts sees the transaction token of each transfer, since the gateway asks it whose the paying account is. Here both were broken
// into. What accounts would see in passing is handed to it: a token that the other one gets as the gateway does, for a payment that Alice asks for.
func (p *player) capturedToken(ctx context.Context) (err error) {
	gateway, err := p.act(ctx, "gateway-burglar", "gateway", "login", "payments")
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, gateway.Close()) }()
	accounts, err := p.act(ctx, "accounts-burglar", "accounts", "ledger", "payments")
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, accounts.Close()) }()
	asked := p.wish()
	token, err := p.capture(ctx, gateway, asked)
	if err != nil {
		return err
	}
	p.note("accounts was broken into, and has the token of Alice's payment of %s to Bob", customer.Amount(asked.GetAmount()))
	if err := p.replay(ctx, accounts, asked, token); err != nil {
		return err
	}
	p.note("the gateway was broken into as well: it is whom payments takes Alice's payments from")
	transaction, err := p.alter(ctx, gateway, asked, token)
	if err != nil {
		return err
	}
	if err := p.balances(ctx, " still"); err != nil {
		return err
	}
	if err := p.honour(ctx, gateway, asked, token); err != nil {
		return err
	}
	return p.traceOfTransaction(ctx, transaction)
}

// wish is the payment that Alice asks for.
func (p *player) wish() *paymentsv1.CreatePaymentRequest {
	return &paymentsv1.CreatePaymentRequest{
		RequestId: "cinema-" + p.run, PaymentId: "pay-" + strings.ToLower(rand.Text()), PayerAccountId: p.alice.account, PayeeAccountId: p.bob.account,
		Amount: euros(cinema), Reference: "cinema",
	}
}

// capture gets the transaction token for what Alice asks for, as the gateway does.
func (p *player) capture(ctx context.Context, gateway *actor.Actor, asked *paymentsv1.CreatePaymentRequest) (string, error) {
	token, err := p.alice.phone.session.Token(ctx)
	if err != nil {
		return "", err
	}
	const method = "bank.login.v1.TransactionTokenService/IssueTransactionToken"
	var r loginv1.IssueTransactionTokenResponse
	err = gateway.Call(actor.Call{Server: p.id("login"), Method: method}, &loginv1.IssueTransactionTokenRequest{
		AccessToken: token, Scope: "transfer", Context: map[string]string{
			"payment_id": asked.GetPaymentId(), "request_id": asked.GetRequestId(), "payer": asked.GetPayerAccountId(), "payee": asked.GetPayeeAccountId(),
			"amount": strconv.FormatInt(asked.GetAmount().GetMinorUnits(), 10), "currency": asked.GetAmount().GetCurrencyCode(),
		},
	}, &r)
	if err != nil {
		return "", err
	}
	p.call("gateway", "login", method)
	return r.GetTransactionToken(), nil
}

// replay: a token says for whom a call is made, and never who makes it. Whoever has it is still accounts, which neither pays nor keeps the books. It is turned away by
// its name, before anybody looks at the token: audit knows who it was, and does not take its word for whose token it had.
func (p *player) replay(ctx context.Context, accounts *actor.Actor, asked *paymentsv1.CreatePaymentRequest, token string) error {
	err := accounts.Call(actor.Call{Server: p.id("ledger"), Method: reserveFunds, TransactionToken: token}, &ledgerv1.ReserveFundsRequest{
		HoldId: asked.GetPaymentId(), AccountId: asked.GetPayerAccountId(), Amount: asked.GetAmount(),
	}, &ledgerv1.ReserveFundsResponse{})
	refusal, err := refusalOf(err, "the ledger let accounts set Alice's money aside")
	if err != nil {
		return err
	}
	if err := p.turnedAway(ctx, refusal, hop{"accounts", "ledger", "/" + reserveFunds}); err != nil {
		return err
	}
	err = accounts.Call(actor.Call{Server: p.id("payments"), Method: createPayment, TransactionToken: token}, p.toMallory(asked), &paymentsv1.CreatePaymentResponse{})
	if refusal, err = refusalOf(err, "payments took a payment of Alice's from accounts"); err != nil {
		return err
	}
	return p.turnedAway(ctx, refusal, hop{"accounts", "payments", "/" + createPayment})
}

// turnedAway is denied for a caller whom no rule lets in with any token.
func (p *player) turnedAway(ctx context.Context, refusal *dial.StatusError, h hop) error {
	d, err := p.denial(ctx, refusal, h)
	if err != nil || d == nil {
		return err
	}
	expect(p, "nobody looked at the token, so that audit names no customer", "", d.GetSubject()+d.GetTransactionId())
	return nil
}

// alter: even the right peer with a good token is let do nothing but what Alice asked for. It returns the transaction that audit has of what was tried.
func (p *player) alter(ctx context.Context, gateway *actor.Actor, asked *paymentsv1.CreatePaymentRequest, token string) (transaction string, err error) {
	call := actor.Call{Server: p.id("payments"), Method: createPayment, TransactionToken: token}
	dearer := p.toMallory(asked)
	dearer.PayeeAccountId, dearer.Amount = asked.GetPayeeAccountId(), euros(loot)
	for _, forged := range []*paymentsv1.CreatePaymentRequest{p.toMallory(asked), dearer} {
		refusal, err := refusalOf(gateway.Call(call, forged, &paymentsv1.CreatePaymentResponse{}), "payments took a payment that Alice did not ask for")
		if err != nil {
			return "", err
		}
		d, err := p.denial(ctx, refusal, hop{"gateway", "payments", "/" + createPayment})
		if err != nil {
			return "", err
		}
		expect(p, "audit has whose token it was", p.alice.id, d.GetSubject())
		if transaction == "" {
			transaction = d.GetTransactionId()
		}
		p.check(transaction != "" && d.GetTransactionId() == transaction, "and in which transaction: "+transaction, fmt.Sprintf("%q", d.GetTransactionId()))
	}
	return transaction, nil
}

// toMallory is a payment with another payee.
func (p *player) toMallory(asked *paymentsv1.CreatePaymentRequest) *paymentsv1.CreatePaymentRequest {
	return &paymentsv1.CreatePaymentRequest{
		RequestId: asked.GetRequestId(), PaymentId: asked.GetPaymentId(), PayerAccountId: asked.GetPayerAccountId(), PayeeAccountId: p.mallory.account,
		Amount: asked.GetAmount(), Reference: asked.GetReference(),
	}
}

// honour shows that the token was good all the time: the payment that Alice asked for is made with it.
func (p *player) honour(ctx context.Context, gateway *actor.Actor, asked *paymentsv1.CreatePaymentRequest, token string) error {
	var r paymentsv1.CreatePaymentResponse
	err := gateway.Call(actor.Call{Server: p.id("payments"), Method: createPayment, TransactionToken: token}, asked, &r)
	if err != nil {
		return err
	}
	p.call("gateway", "payments", createPayment)
	return p.goesOn(ctx, r.GetPayment().GetPaymentId(), "what the token is for, and nothing else, is done with it: "+customer.Amount(asked.GetAmount())+" to Bob", cinema)
}

// traceOfTransaction: whoever looks into it afterwards asks for the transaction, and finds what Alice asked for beside what was tried with her token.
func (p *player) traceOfTransaction(ctx context.Context, transaction string) error {
	if transaction == "" {
		return nil // that check has failed before
	}
	of := func(all []*auditv1.Decision, verdict auditv1.Verdict) (n int) {
		for _, d := range all {
			if d.GetVerdict() == verdict && d.GetMethod() == "/"+createPayment {
				n++
			}
		}
		return n
	}
	var found []*auditv1.Decision
	err := p.await(ctx, func() (done bool, err error) {
		found, err = p.decisions(ctx, &auditv1.DecisionFilter{TransactionId: transaction})
		return of(found, auditv1.Verdict_VERDICT_ALLOWED) > 0, err
	})
	if err != nil {
		return err
	}
	others := slices.ContainsFunc(found, func(d *auditv1.Decision) bool { return d.GetSubject() != p.alice.id })
	tried, paid := of(found, auditv1.Verdict_VERDICT_DENIED), of(found, auditv1.Verdict_VERDICT_ALLOWED)
	p.check(tried == 2 && paid > 0 && !others, "by the transaction audit has what Alice asked for, and what was tried with her token", fmt.Sprint(found))
	return nil
}
