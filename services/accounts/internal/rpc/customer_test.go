package rpc_test

import (
	"context"
	"log/slog"
	"testing"
	"time"

	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"

	"github.com/countersign-mesh/countersign/pkg/userauth/txntoken"
	"github.com/countersign-mesh/countersign/pkg/userauth/txntoken/txntokentest"
	accountsv1 "github.com/countersign-mesh/countersign/proto/gen/bank/accounts/v1"
	"github.com/countersign-mesh/countersign/services/accounts/internal/rpc"
)

// operation is what the gateway does for a customer.
type operation struct {
	// do asks for it.
	do func(ctx context.Context, c accountsv1.AccountServiceClient) error
	// right is what the token has to say, others what another customer's says who asked for the same, and another what a token of the right customer says
	// who asked for something else.
	right, others, another txntoken.Token
	// hides is what the handler says where another customer's token is good by the policy: only accounts knows owners.
	hides codes.Code
}

// operations returns what is done with an account of alice's.
func operations(account string) map[string]operation {
	open := &accountsv1.OpenAccountRequest{RequestId: "request-matrix", CustomerId: "alice", CurrencyCode: "EUR"}
	openAnother := &accountsv1.OpenAccountRequest{RequestId: "request-other", CustomerId: "alice", CurrencyCode: "EUR"}
	openOfBob := &accountsv1.OpenAccountRequest{RequestId: "request-matrix", CustomerId: "bob", CurrencyCode: "EUR"}
	get, list := &accountsv1.GetAccountRequest{AccountId: account}, &accountsv1.ListAccountsRequest{CustomerId: "alice"}
	shut, shutAnother := &accountsv1.CloseAccountRequest{AccountId: account}, &accountsv1.CloseAccountRequest{AccountId: "acc-bbbbbbbbbbbbbbbbbbbbbbbbbb"}
	type client = accountsv1.AccountServiceClient
	return map[string]operation{
		"OpenAccount": {
			func(ctx context.Context, c client) error { _, err := c.OpenAccount(ctx, open); return err },
			*asked("", open), *asked("", openOfBob), *asked("", openAnother), codes.PermissionDenied,
		},
		"GetAccount": {
			func(ctx context.Context, c client) error { _, err := c.GetAccount(ctx, get); return err },
			*asked("alice", get), *asked("bob", get), *asked("", open), codes.NotFound,
		},
		"ListAccounts": {
			func(ctx context.Context, c client) error { _, err := c.ListAccounts(ctx, list); return err },
			*asked("alice", list), *asked("", &accountsv1.ListAccountsRequest{CustomerId: "bob"}), *asked("", open), codes.PermissionDenied,
		},
		"CloseAccount": {
			func(ctx context.Context, c client) error { _, err := c.CloseAccount(ctx, shut); return err },
			*asked("alice", shut), *asked("bob", shut), *asked("alice", shutAnother), codes.NotFound,
		},
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
func TestOnlyTheRightPeerWithTheRightTokenActsForACustomer(t *testing.T) {
	t.Parallel()
	b := newBank(t)
	account := open(t, b.as(t, "/gateway"), "alice", "request-0001").GetAccountId()
	operator := b.as(t, "/operator")
	for name, op := range operations(account) {
		if name == "CloseAccount" {
			continue // last, below
		}
		testOperation(t, b, name, op)
	}
	testOperation(t, b, "CloseAccount", operations(account)["CloseAccount"])
	page, err := operator.ListAccounts(t.Context(), &accountsv1.ListAccountsRequest{CustomerId: "alice"})
	if err != nil || len(page.GetAccounts()) != 2 {
		t.Errorf("alice has %d accounts (%v), want 2", len(page.GetAccounts()), err)
	}
}

func testOperation(t *testing.T, b *bank, name string, op operation) {
	t.Helper()
	passed := 0
	for _, peer := range []string{"/ledger", "/gateway"} { // the one that is let in comes last: no other has had an effect before
		client := b.bare(t, peer)
		ways := tokens(t, b.login, op.right, op.others, op.another)
		for _, way := range []string{"no token", "another customer's token", "an expired token", "another transaction's token", "the right token"} {
			want := codes.PermissionDenied
			switch {
			case peer == "/gateway" && way == "the right token":
				want = codes.OK
			case peer == "/gateway" && way == "another customer's token":
				want = op.hides
			}
			err := op.do(ways[way], client)
			if status.Code(err) != want {
				t.Errorf("%s by %s with %s: %v, want %s", name, peer, way, err, want)
			}
			if err == nil {
				passed++
			}
		}
	}
	if passed != 1 {
		t.Errorf("%s: %d cells pass, want 1", name, passed)
	}
}

// A customer's token is good for looking, and says whose account may be seen. What does not come from a customer sees all that the policy lets it see.
func TestAnotherCustomersAccountIsLikeNone(t *testing.T) {
	t.Parallel()
	b := newBank(t)
	account := open(t, b.as(t, "/gateway"), "alice", "request-0001").GetAccountId()
	get := &accountsv1.GetAccountRequest{AccountId: account}
	_, err := b.bare(t, "/gateway").GetAccount(b.login.Context(t, t.Context(), *asked("bob", get)), get)
	none := &accountsv1.GetAccountRequest{AccountId: "acc-nnnnnnnnnnnnnnnnnnnnnnnnnn"}
	_, errNone := b.bare(t, "/gateway").GetAccount(b.login.Context(t, t.Context(), *asked("bob", none)), none)
	if err == nil || status.Convert(err).Message() != status.Convert(errNone).Message() || status.Code(err) != status.Code(errNone) {
		t.Errorf("another customer's account: %v; none: %v", err, errNone)
	}
	for _, peer := range []string{"/payments", "/operator"} {
		if _, err := b.bare(t, peer).GetAccount(t.Context(), get); err != nil {
			t.Errorf("%s: %v", peer, err)
		}
	}
}

// Whoever wrote the policy may have let in a call without a token. No account is closed by that.
func TestNobodyButACustomerClosesAnAccount(t *testing.T) {
	t.Parallel()
	server := rpc.New(nil, slog.New(slog.DiscardHandler)) // which does not even ask the register
	_, err := server.CloseAccount(t.Context(), &accountsv1.CloseAccountRequest{AccountId: "acc-aaaaaaaaaaaaaaaaaaaaaaaaaa"})
	if status.Code(err) != codes.PermissionDenied {
		t.Errorf("%v, want PermissionDenied", err)
	}
}
