package rpc_test

import (
	"context"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"
	"google.golang.org/protobuf/encoding/prototext"

	"github.com/countersign-mesh/countersign/pkg/database/databasetest"
	"github.com/countersign-mesh/countersign/pkg/userauth/txntoken"
	"github.com/countersign-mesh/countersign/pkg/userauth/txntoken/txntokentest"
	paymentsv1 "github.com/countersign-mesh/countersign/proto/gen/bank/payments/v1"
)

// ofBob is a token of another customer's for the same.
func ofBob(token txntoken.Token) txntoken.Token {
	token.Subject = "bob"
	return token
}

// tokens are the ways in which a call may carry a token, when it ought to carry right. Only the last is to be let in.
func tokens(t *testing.T, login *txntokentest.Issuer, right, others, another txntoken.Token) map[string]context.Context {
	t.Helper()
	return map[string]context.Context{
		"no token":                    t.Context(),
		"another customer's token":    login.Context(t, t.Context(), others),
		"an expired token":            login.ContextAgo(t, t.Context(), right, 10*time.Minute),
		"another transaction's token": login.Context(t, t.Context(), another),
		"the right token":             login.Context(t, t.Context(), right),
	}
}

// ATTACKS 59: for each operation, of both peers and all tokens one pair is let in, and what is not has no effect.
func TestOnlyTheRightPeerWithTheRightTokenPaysForACustomer(t *testing.T) {
	t.Parallel()
	b := newBank(t)
	pay := request("request-1")
	reading := txntoken.Token{ID: "txn-reading", Subject: "alice", Scope: "accounts.read", Requesters: []string{"spiffe://bank.test/gateway"}}
	for _, op := range []struct {
		name           string
		do             func(ctx context.Context, c paymentsv1.PaymentServiceClient) error
		right, another txntoken.Token
	}{
		{"CreatePayment", func(ctx context.Context, c paymentsv1.PaymentServiceClient) error {
			_, err := c.CreatePayment(ctx, pay)
			return err
		}, wish(pay), wish(request("request-2"))},
		{"WatchPayments", watchOnce, reading, wish(pay)},
	} {
		for _, peer := range []string{"/accounts", "/gateway"} { // the one that is let in comes last: no other has had an effect before
			client := b.bare(t, peer)
			ways := tokens(t, b.login, op.right, ofBob(op.right), op.another)
			for _, way := range []string{"no token", "another customer's token", "an expired token", "another transaction's token", "the right token"} {
				want := codes.PermissionDenied
				switch {
				case peer == "/gateway" && way == "the right token":
					want = codes.OK
				case peer == "/gateway" && way == "another customer's token":
					want = codes.NotFound // the content is the same: that the account is alice's, accounts says
				}
				if err := op.do(ways[way], client); status.Code(err) != want {
					t.Errorf("%s by %s with %s: %v, want %s", op.name, peer, way, err, want)
				}
			}
		}
	}
	if n := b.postings(); n != 1 {
		t.Errorf("%d payments are in the books, want 1", n)
	}
}

// watchOnce opens a watch of alice's account, which has a payment, and takes its first message.
func watchOnce(ctx context.Context, c paymentsv1.PaymentServiceClient) error {
	ctx, leave := context.WithCancel(ctx)
	defer leave()
	stream, err := c.WatchPayments(ctx, &paymentsv1.WatchPaymentsRequest{AccountId: alice})
	if err != nil {
		return err
	}
	_, err = stream.Recv()
	return err
}

// A customer's request ID and content say nothing to another customer, even of a payment that there is.
func TestAPaymentIsNotAnsweredToAnotherCustomer(t *testing.T) {
	t.Parallel()
	b := newBank(t)
	gateway := b.bare(t, "/gateway")
	r := request("request-1")
	if _, err := gateway.CreatePayment(b.login.Context(t, t.Context(), wish(r)), r); err != nil {
		t.Fatal(err)
	}
	_, err := gateway.CreatePayment(b.login.Context(t, t.Context(), ofBob(wish(r))), r)
	wantStatus(t, err, codes.NotFound, "the paying account does not exist")
}

func TestACustomerWhoPaysFromAnothersAccountLeavesNothing(t *testing.T) {
	t.Parallel()
	b := newBank(t)
	r := request("request-1")
	_, err := b.bare(t, "/gateway").CreatePayment(b.login.Context(t, t.Context(), ofBob(wish(r))), r)
	wantStatus(t, err, codes.NotFound, "the paying account does not exist")
	page, err := b.as(t, "/operator").ListPayments(t.Context(), &paymentsv1.ListPaymentsRequest{AccountId: alice})
	if err != nil || len(page.GetPayments()) != 0 {
		t.Errorf("%d payments (%v), want none", len(page.GetPayments()), err)
	}
}

// A token that ends while the ledger is being asked would be good for the first attempt and not for the next.
func TestATokenThatIsAboutToEndIsRenewedFirst(t *testing.T) {
	t.Parallel()
	for name, test := range map[string]struct {
		ago     time.Duration
		renewed bool
	}{
		"a fresh one":           {0, false},
		"one with seconds left": {2*time.Minute - 4*time.Second, true},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			b := newBank(t)
			r := request("request-1")
			b.remember(wish(r))
			response, err := b.bare(t, "/gateway").CreatePayment(b.login.ContextAgo(t, t.Context(), wish(r), test.ago), r)
			if err != nil || response.GetPayment().GetState() != paymentsv1.PaymentState_PAYMENT_STATE_POSTED {
				t.Errorf("%s (%v)", response.GetPayment().GetState(), err)
			}
			if renewed := b.called("RenewTransactionToken") > 0; renewed != test.renewed {
				t.Errorf("renewed: %t, want %t", renewed, test.renewed)
			}
		})
	}
}

// outlived has a payment wait at a method until its own token has ended, and returns it.
func (b *bank) outlived(t *testing.T, method string) *paymentsv1.Payment {
	t.Helper()
	b.on(method, func(context.Context) error { return status.Error(codes.Unavailable, "away") })
	r := request("request-1")
	b.remember(wish(r))
	// It ends within moments: less than a call to the ledger may take.
	response, err := b.bare(t, "/gateway").CreatePayment(b.login.ContextAgo(t, t.Context(), wish(r), 2*time.Minute-4*time.Second), r)
	if err != nil {
		t.Fatal(err)
	}
	return response.GetPayment()
}

func TestAPaymentThatOutlivesItsTokenGoesOnWithARenewedOne(t *testing.T) {
	t.Parallel()
	b := newBank(t)
	p := b.outlived(t, "AssessPayment")
	b.on("AssessPayment", nil)
	becomes(t, b.as(t, "/operator"), p.GetPaymentId(), paymentsv1.PaymentState_PAYMENT_STATE_POSTED)
	if b.called("RenewTransactionToken") == 0 {
		t.Error("no token was renewed")
	}
}

func TestWhileLoginIsAwayAPaymentWaitsWhereItStands(t *testing.T) {
	t.Parallel()
	b := newBank(t)
	b.on("RenewTransactionToken", func(context.Context) error { return status.Error(codes.Unavailable, "away") })
	p := b.outlived(t, "AssessPayment")
	b.on("AssessPayment", nil)
	operator := b.as(t, "/operator")
	becomes(t, operator, p.GetPaymentId(), paymentsv1.PaymentState_PAYMENT_STATE_ASSESSED)
	if n := b.called("BeforeReserveFunds"); n != 0 {
		t.Errorf("the ledger was asked %d times", n)
	}
	b.on("RenewTransactionToken", nil)
	becomes(t, operator, p.GetPaymentId(), paymentsv1.PaymentState_PAYMENT_STATE_POSTED)
}

func TestAPaymentThatLoginKnowsNothingOfIsForAPersonToLookAt(t *testing.T) {
	t.Parallel()
	b := newBank(t)
	b.on("RenewTransactionToken", func(context.Context) error { return status.Error(codes.NotFound, "no such transaction") })
	p := b.outlived(t, "AssessPayment")
	b.on("AssessPayment", nil)
	got := becomes(t, b.as(t, "/operator"), p.GetPaymentId(), paymentsv1.PaymentState_PAYMENT_STATE_IN_REVIEW)
	for got.GetReasons()[0].GetCode() != "LEDGER_REJECTED" { // it was in review for want of risk before
		got = becomes(t, b.as(t, "/operator"), p.GetPaymentId(), paymentsv1.PaymentState_PAYMENT_STATE_IN_REVIEW)
	}
	if !strings.Contains(b.log.String(), "nothing proves to the ledger that a customer asked for a payment") {
		t.Error("the log does not say why")
	}
}

// What login renews is read before it is sent: one for something else goes nowhere.
func TestARenewedTokenForSomethingElseIsNotSent(t *testing.T) {
	t.Parallel()
	b := newBank(t)
	p := b.outlived(t, "AssessPayment")
	b.remember(func() txntoken.Token { other := wish(request("request-2")); other.ID = "txn-request-1"; return other }())
	b.on("AssessPayment", nil)
	operator := b.as(t, "/operator")
	becomes(t, operator, p.GetPaymentId(), paymentsv1.PaymentState_PAYMENT_STATE_ASSESSED)
	b.eventually(t, func() bool { return strings.Contains(b.log.String(), "the renewed one is for something else") })
	if n := b.called("BeforeReserveFunds"); n != 0 {
		t.Errorf("the ledger was asked %d times", n)
	}
	b.remember(wish(request("request-1")))
	becomes(t, operator, p.GetPaymentId(), paymentsv1.PaymentState_PAYMENT_STATE_POSTED)
}

// That the ledger denies a call says nothing of the books: its policy, its keys or its clock may be at fault.
func TestADenialOfTheLedgerIsNoAnswer(t *testing.T) {
	t.Parallel()
	for method, state := range map[string]paymentsv1.PaymentState{
		"BeforeReserveFunds": paymentsv1.PaymentState_PAYMENT_STATE_ASSESSED,
		"BeforePost":         paymentsv1.PaymentState_PAYMENT_STATE_UNKNOWN,
	} {
		t.Run(method, func(t *testing.T) {
			t.Parallel()
			b := newBank(t)
			b.on(method, func(context.Context) error { return status.Error(codes.PermissionDenied, "permission denied") })
			response, err := b.as(t, "/gateway").CreatePayment(t.Context(), request("request-1"))
			if err != nil || response.GetPayment().GetState() != state {
				t.Fatalf("%s (%v), want %s", response.GetPayment().GetState(), err, state)
			}
			b.eventually(t, func() bool { return b.called("RenewTransactionToken") > 0 }) // the next time with a new token
			b.on(method, nil)
			becomes(t, b.as(t, "/operator"), response.GetPayment().GetPaymentId(), paymentsv1.PaymentState_PAYMENT_STATE_POSTED)
		})
	}
}

// ATTACKS 60: a token is in no log, no answer and no database; what a transaction is called is all that stays.
func TestATokenStaysNowhere(t *testing.T) {
	t.Parallel()
	dsn := databasetest.SQLite(t)
	b := newBankOver(t, dsn)
	p := b.outlived(t, "AssessPayment")
	b.on("AssessPayment", nil)
	posted := becomes(t, b.as(t, "/operator"), p.GetPaymentId(), paymentsv1.PaymentState_PAYMENT_STATE_POSTED)
	const signed = "eyJ" // how each part of a token begins
	if text := prototext.Format(p) + prototext.Format(posted); strings.Contains(text, signed) {
		t.Errorf("a token is in an answer: %s", text)
	}
	if logged := b.log.String(); strings.Contains(logged, signed) || !strings.Contains(logged, "payment is not finished yet") {
		t.Errorf("a token is in the log, or the log does not say anything: %s", logged)
	}
	files, err := filepath.Glob(strings.TrimPrefix(dsn, "sqlite:") + "*")
	if err != nil || len(files) == 0 {
		t.Fatalf("no files of %s (%v)", dsn, err)
	}
	found := false
	for _, file := range files {
		content, err := os.ReadFile(file)
		if err != nil {
			t.Fatal(err)
		}
		if strings.Contains(string(content), signed) {
			t.Errorf("a token is in %s", file)
		}
		found = found || strings.Contains(string(content), "txn-request-1")
	}
	if !found {
		t.Error("the transaction is in no file: the test looks at the wrong ones")
	}
}
