package rpc_test

import (
	"context"
	"strings"
	"testing"
	"time"

	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"

	"github.com/countersign-mesh/countersign/pkg/userauth/txntoken"
	"github.com/countersign-mesh/countersign/pkg/userauth/txntoken/txntokentest"
	ledgerv1 "github.com/countersign-mesh/countersign/proto/gen/bank/ledger/v1"
)

const (
	payment        = "pay-aaaaaaaaaaaaaaaaaaaaaaaaaa"
	anotherPayment = "pay-bbbbbbbbbbbbbbbbbbbbbbbbbb"
)

// operation is what is done with a customer's money, or shown of it.
type operation struct {
	name, peer, wrong string
	do                func(ctx context.Context, c ledgerv1.LedgerServiceClient) error
	// right is what the token has to say, others what another customer's says, and another what a token of the right customer says who asked for
	// something else.
	right, others, another *txntoken.Token
}

func operations() []operation {
	reserve := &ledgerv1.ReserveFundsRequest{HoldId: payment, AccountId: alice, Amount: eur(200)}
	capture := &ledgerv1.CaptureHoldRequest{HoldId: payment, TransferId: payment, Postings: pay(payment, alice, bob, 200).GetPostings()}
	direct := pay(anotherPayment, alice, bob, 200)
	theirs := asked(pay("pay-cccccccccccccccccccccccccc", bob, alice, 200))
	theirs.Subject = "bob"
	balance, entries := &ledgerv1.GetBalanceRequest{AccountId: alice}, &ledgerv1.ListEntriesRequest{AccountId: alice}
	bobs := asked(&ledgerv1.GetBalanceRequest{AccountId: bob})
	bobs.Subject = "bob"
	type client = ledgerv1.LedgerServiceClient
	return []operation{
		{
			"ReserveFunds", "/payments", "/gateway", func(ctx context.Context, c client) error { _, err := c.ReserveFunds(ctx, reserve); return err },
			asked(reserve), theirs, asked(direct),
		},
		{
			"CaptureHold", "/payments", "/accounts", func(ctx context.Context, c client) error { _, err := c.CaptureHold(ctx, capture); return err },
			asked(capture), theirs, asked(direct),
		},
		{
			"PostTransfer", "/payments", "/accounts", func(ctx context.Context, c client) error { _, err := c.PostTransfer(ctx, direct); return err },
			asked(direct), theirs, asked(capture),
		},
		{"GetBalance", "/gateway", "/payments", func(ctx context.Context, c client) error {
			_, err := c.GetBalance(ctx, balance)
			return err
		}, asked(balance), bobs, asked(capture)},
		{"ListEntries", "/gateway", "/payments", func(ctx context.Context, c client) error {
			_, err := c.ListEntries(ctx, entries)
			return err
		}, asked(entries), bobs, asked(capture)},
	}
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
func TestOnlyTheRightPeerWithTheRightTokenMovesACustomersMoney(t *testing.T) {
	t.Parallel()
	s := newService(t)
	post(t, s.as(t, "/payments"), pay("deposit-1", cash, alice, 500))
	want := s.entryCount(t)
	for _, op := range operations() {
		for _, peer := range []string{op.wrong, op.peer} { // the one that is let in comes last: no other has had an effect before
			client := s.bare(t, peer)
			ways := tokens(t, s.login, *op.right, *op.others, *op.another)
			for _, way := range []string{"no token", "another customer's token", "an expired token", "another transaction's token", "the right token"} {
				code := codes.PermissionDenied
				if peer == op.peer && way == "the right token" {
					code = codes.OK
				}
				if err := op.do(ways[way], client); status.Code(err) != code {
					t.Errorf("%s by %s with %s: %v, want %s", op.name, peer, way, err, code)
				}
				if posts := op.name == "CaptureHold" || op.name == "PostTransfer"; posts && code == codes.OK {
					want += 2
				}
				if n := s.entryCount(t); n != want {
					t.Errorf("%s by %s with %s: %d entries, want %d", op.name, peer, way, n, want)
				}
			}
		}
	}
}

// A token for a payment that was captured from it is good for this payment and for no other content, however payments is asked for it, and what comes in at the
// counter needs none.
func TestATokenIsGoodForItsOwnTransferAlone(t *testing.T) {
	t.Parallel()
	s := newService(t)
	payments := s.bare(t, "/payments")
	post(t, payments, pay("deposit-1", cash, alice, 500))
	ctx := s.login.Context(t, t.Context(), *asked(pay(payment, alice, bob, 200)))
	for name, request := range map[string]*ledgerv1.PostTransferRequest{
		"another payee":       pay(payment, alice, "acc-cccccccccccccccccccccccccc", 200),
		"another payer":       pay(payment, "acc-cccccccccccccccccccccccccc", bob, 200),
		"another amount":      pay(payment, alice, bob, 201),
		"another transfer":    pay(anotherPayment, alice, bob, 200),
		"the other way round": pay(payment, bob, alice, 200),
		"with a third": {TransferId: payment, Postings: []*ledgerv1.Posting{
			{AccountId: alice, Amount: eur(-200)}, {AccountId: bob, Amount: eur(199)}, {AccountId: "acc-cccccccccccccccccccccccccc", Amount: eur(1)},
		}},
		"beside the vault": {TransferId: payment, Postings: []*ledgerv1.Posting{
			{AccountId: cash, Amount: eur(-1)}, {AccountId: alice, Amount: eur(-199)}, {AccountId: bob, Amount: eur(200)},
		}},
	} {
		if _, err := payments.PostTransfer(ctx, request); status.Code(err) != codes.PermissionDenied {
			t.Errorf("%s: %v, want PERMISSION_DENIED", name, err)
		}
	}
	if n := s.entryCount(t); n != 2 {
		t.Errorf("%d entries, want those of the deposit", n)
	}
	if logged := s.log.String(); strings.Contains(logged, "eyJ") {
		t.Errorf("a token is in the log: %s", logged)
	}
}
