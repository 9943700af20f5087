package rpc_test

import (
	"context"
	"maps"
	"slices"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"
	"google.golang.org/protobuf/testing/protocmp"

	accountsv1 "github.com/countersign-mesh/countersign/proto/gen/bank/accounts/v1"
	mobilev1 "github.com/countersign-mesh/countersign/proto/gen/bank/mobile/v1"
	paymentsv1 "github.com/countersign-mesh/countersign/proto/gen/bank/payments/v1"
)

// Every method that takes an account, as the contract has them, for an account that is another customer's and one that is not
// there.
func TestAnotherCustomersAccountIsLikeOneThatDoesNotExist(t *testing.T) {
	t.Parallel()
	b, mobile := newBank(t)
	ctx, cancel := context.WithTimeout(t.Context(), 20*time.Second) // a watch that is let through has no end
	defer cancel()
	calls := methods(ctx, mobile)
	if diff := cmp.Diff(accountMethods(), slices.Sorted(maps.Keys(calls))); diff != "" {
		t.Fatalf("methods that take an account: -contract +tested:\n%s", diff)
	}
	for name, call := range calls {
		foreign, missing := status.Convert(call("alice", bobAccount)), status.Convert(call("alice", noAccount))
		if foreign.Code() != codes.NotFound {
			t.Errorf("%s on bob's account as alice: %v, want NotFound", name, foreign)
		}
		if diff := cmp.Diff(missing.Proto(), foreign.Proto(), protocmp.Transform()); diff != "" {
			t.Errorf("%s tells an account that exists from one that does not: -missing +foreign:\n%s", name, diff)
		}
	}
	for _, message := range b.asked {
		if _, ok := message.(*accountsv1.GetAccountRequest); !ok {
			t.Errorf("asked for somebody else: %T", message)
		}
	}
}

// ATTACKS 62.
func TestRequestIDsOfTwoCustomersDoNotMeet(t *testing.T) {
	t.Parallel()
	b, mobile := newBank(t)
	transfer := func(customer, request, payer, payee string) string {
		t.Helper()
		if _, err := mobile.Transfer(as(t.Context(), customer), transferRequest(request, payer, payee)); err != nil {
			t.Fatal(err) // also when the key is not what payments' rules allow
		}
		asked := questions[*paymentsv1.CreatePaymentRequest](b)
		return asked[len(asked)-1].GetRequestId()
	}
	alice := transfer("alice", "request-1", aliceAccount, bobAccount)
	// Keys are stored behind: computed otherwise after an upgrade, a transfer that is sent again would be made again.
	if want := "f952f5b3b674427940b63f22b424cb408465c27001a4275ceb2b8a8a17d5c15e"; alice != want {
		t.Errorf("key %s, want %s", alice, want)
	}
	if again := transfer("alice", "request-1", aliceAccount, bobAccount); again != alice {
		t.Errorf("the same request has the keys %s and %s", alice, again)
	}
	if other := transfer("alice", "request-2", aliceAccount, bobAccount); other == alice {
		t.Error("two requests share a key")
	}
	if bob := transfer("bob", "request-1", bobAccount, aliceAccount); bob == alice {
		t.Error("two customers share a key")
	}
	open := func(customer string) string {
		t.Helper()
		request := &mobilev1.OpenAccountRequest{RequestId: "request-1", CurrencyCode: "EUR"}
		if _, err := mobile.OpenAccount(as(t.Context(), customer), request); err != nil {
			t.Fatal(err)
		}
		asked := questions[*accountsv1.OpenAccountRequest](b)
		return asked[len(asked)-1].GetRequestId()
	}
	if open("alice") == open("bob") {
		t.Error("two customers share a key for accounts")
	}
}

// The ID is stored behind, and the tokens of transactions name it: made otherwise after an upgrade, a transfer that is sent again would be another one.
func TestAPaymentsIDIsMadeOfItsRequest(t *testing.T) {
	t.Parallel()
	b, mobile := newBank(t)
	for range 2 {
		if _, err := mobile.Transfer(as(t.Context(), "alice"), transferRequest("request-1", aliceAccount, bobAccount)); err != nil {
			t.Fatal(err)
		}
	}
	for _, asked := range questions[*paymentsv1.CreatePaymentRequest](b) {
		if want := "pay-abalcvftwasp3dtlvcueewj6sq"; asked.GetPaymentId() != want {
			t.Errorf("payment %s, want %s", asked.GetPaymentId(), want)
		}
	}
}

// The scope of each method is asked for by the method itself too, and before anything is asked of anybody.
func TestAMethodIsNotServedWithoutItsScope(t *testing.T) {
	t.Parallel()
	b, mobile := newBank(t)
	all := []string{"accounts.read", "accounts.open", "accounts.close", "transfer"}
	for method, c := range map[string]struct {
		scope string
		call  func(ctx context.Context) error
	}{
		"OpenAccount": {"accounts.open", func(ctx context.Context) error {
			_, err := mobile.OpenAccount(ctx, &mobilev1.OpenAccountRequest{RequestId: "request-1", CurrencyCode: "EUR"})
			return err
		}},
		"ListAccounts": {"accounts.read", func(ctx context.Context) error {
			_, err := mobile.ListAccounts(ctx, &mobilev1.ListAccountsRequest{})
			return err
		}},
		"CloseAccount": {"accounts.close", func(ctx context.Context) error {
			_, err := mobile.CloseAccount(ctx, &mobilev1.CloseAccountRequest{AccountId: aliceAccount})
			return err
		}},
		"Transfer": {"transfer", func(ctx context.Context) error {
			_, err := mobile.Transfer(ctx, transferRequest("request-1", aliceAccount, bobAccount))
			return err
		}},
		"GetStatement": {"accounts.read", func(ctx context.Context) error {
			_, err := mobile.GetStatement(ctx, &mobilev1.GetStatementRequest{AccountId: aliceAccount})
			return err
		}},
		"WatchActivity": {"accounts.read", func(ctx context.Context) error {
			stream, err := mobile.WatchActivity(ctx, &mobilev1.WatchActivityRequest{AccountId: aliceAccount})
			if err == nil {
				_, err = stream.Recv()
			}
			return err
		}},
	} {
		others := slices.DeleteFunc(slices.Clone(all), func(scope string) bool { return scope == c.scope })
		if err := c.call(with(t.Context(), "alice", "urn:bank:acr:2", others...)); status.Code(err) != codes.PermissionDenied {
			t.Errorf("%s without its scope: %v", method, err)
		}
		if err := c.call(t.Context()); status.Code(err) != codes.Unauthenticated {
			t.Errorf("%s for nobody: %v", method, err)
		}
	}
	if len(b.asked) != 0 {
		t.Errorf("asked: %v", b.asked)
	}
}
