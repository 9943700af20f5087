package rpc_test

import (
	"context"
	"fmt"
	"log/slog"
	"testing"

	"github.com/google/go-cmp/cmp"
	"google.golang.org/genproto/googleapis/rpc/errdetails"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"
	"google.golang.org/protobuf/testing/protocmp"

	"github.com/countersign-mesh/countersign/pkg/database"
	"github.com/countersign-mesh/countersign/pkg/database/databasetest"
	accountsv1 "github.com/countersign-mesh/countersign/proto/gen/bank/accounts/v1"
	"github.com/countersign-mesh/countersign/services/accounts/internal/register"
	"github.com/countersign-mesh/countersign/services/accounts/internal/rpc"
)

// ATTACKS 64.
func TestADatabaseThatIsAwayIsUnavailableUntilItIsBack(t *testing.T) {
	t.Parallel()
	server := databasetest.StartServer(t)
	dsn, err := server.Create(t.Context(), "accounts")
	if err != nil {
		t.Fatal(err)
	}
	b := newBankOn(t, dsn)
	gateway := b.as(t, "/gateway")
	opened := open(t, gateway, "alice", "request-1")
	if err := server.Stop(); err != nil {
		t.Fatal(err)
	}
	const text = "the register cannot be reached; send the same request again"
	_, err = gateway.GetAccount(t.Context(), &accountsv1.GetAccountRequest{AccountId: opened.GetAccountId()})
	wantStatus(t, err, codes.Unavailable, text)
	request := &accountsv1.OpenAccountRequest{RequestId: "request-2", CustomerId: "alice", CurrencyCode: "EUR"}
	_, err = gateway.OpenAccount(t.Context(), request)
	wantStatus(t, err, codes.Unavailable, text)
	if err := server.Start(t.Context()); err != nil {
		t.Fatal(err)
	}
	if diff := cmp.Diff(opened, open(t, gateway, "alice", "request-1"), protocmp.Transform()); diff != "" {
		t.Errorf("the request from before: -first +second:\n%s", diff)
	}
	if _, err := gateway.OpenAccount(t.Context(), request); err != nil {
		t.Error(err)
	}
}

// unsure is a store whose commits get lost on their way.
type unsure struct{ register.Store }

func (unsure) Open(context.Context, register.Account, register.Opening) (register.Account, error) {
	return register.Account{}, fmt.Errorf("store account: %w: %w", database.ErrOutcomeUnknown, context.Canceled) // as a driver says it that gave up
}

// ATTACKS 64.
func TestAnOutcomeThatIsUnknownIsToldAsUnknown(t *testing.T) {
	t.Parallel()
	server := rpc.New(register.New(unsure{}, nil, nil, nil), slog.New(slog.DiscardHandler))
	_, err := server.OpenAccount(t.Context(), &accountsv1.OpenAccountRequest{RequestId: "request-1", CustomerId: "alice", CurrencyCode: "EUR"})
	wantStatus(t, err, codes.Unavailable, "it is not known whether the register was changed; send the same request again")
	want := []any{&errdetails.ErrorInfo{Reason: "OUTCOME_UNKNOWN", Domain: "bank.test"}}
	if diff := cmp.Diff(want, status.Convert(err).Details(), protocmp.Transform()); diff != "" {
		t.Errorf("details: -want +got:\n%s", diff)
	}
}
