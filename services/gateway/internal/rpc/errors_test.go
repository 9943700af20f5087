package rpc_test

import (
	"context"
	"testing"
	"time"

	"google.golang.org/genproto/googleapis/rpc/errdetails"
	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/metadata"
	"google.golang.org/grpc/status"
	"google.golang.org/protobuf/types/known/durationpb"

	"github.com/countersign-mesh/countersign/pkg/overload"
	paymentsv1 "github.com/countersign-mesh/countersign/proto/gen/bank/payments/v1"
)

func TestWhatACustomerIsToldOfErrorsBehind(t *testing.T) {
	t.Parallel()
	const unavailable, internal = "the bank is not available; send the same request again", "internal error"
	for name, test := range map[string]struct {
		method string
		from   codes.Code
		call   string
		code   codes.Code
		text   string
	}{
		"payments refuses the payee":             {"CreatePayment", codes.NotFound, "Transfer", codes.NotFound, "from behind"},
		"an account is closed":                   {"CreatePayment", codes.FailedPrecondition, "Transfer", codes.FailedPrecondition, "from behind"},
		"the request was used":                   {"CreatePayment", codes.AlreadyExists, "Transfer", codes.AlreadyExists, "from behind"},
		"the outcome is not known":               {"CreatePayment", codes.Unavailable, "Transfer", codes.Unavailable, unavailable},
		"payments took too long":                 {"CreatePayment", codes.DeadlineExceeded, "Transfer", codes.Unavailable, unavailable},
		"payments is overloaded":                 {"CreatePayment", codes.ResourceExhausted, "Transfer", codes.ResourceExhausted, "the bank is busy; try again later"},
		"the gateway may not call payments":      {"CreatePayment", codes.PermissionDenied, "Transfer", codes.Internal, internal},
		"the gateway sent nonsense":              {"CreatePayment", codes.InvalidArgument, "Transfer", codes.Internal, internal},
		"payments broke":                         {"CreatePayment", codes.Internal, "Transfer", codes.Internal, internal},
		"accounts is away":                       {"GetAccount", codes.Unavailable, "Transfer", codes.Unavailable, unavailable},
		"the gateway may not ask accounts":       {"GetAccount", codes.PermissionDenied, "GetStatement", codes.Internal, internal},
		"the account is not empty":               {"CloseAccount", codes.FailedPrecondition, "CloseAccount", codes.FailedPrecondition, "from behind"},
		"the account is frozen":                  {"CreatePayment", codes.FailedPrecondition, "Transfer", codes.FailedPrecondition, "from behind"},
		"the account to close is frozen":         {"CloseAccount", codes.FailedPrecondition, "CloseAccount", codes.FailedPrecondition, "from behind"},
		"the account is being closed":            {"CloseAccount", codes.Aborted, "CloseAccount", codes.Aborted, "from behind"},
		"the ledger is away when it is closed":   {"CloseAccount", codes.Unavailable, "CloseAccount", codes.Unavailable, unavailable},
		"a page token is another list's":         {"ListEntries", codes.InvalidArgument, "GetStatement", codes.InvalidArgument, "from behind"},
		"the ledger is away":                     {"ListEntries", codes.Unavailable, "GetStatement", codes.Unavailable, unavailable},
		"a cursor is another account's":          {"WatchPayments", codes.InvalidArgument, "WatchActivity", codes.InvalidArgument, "from behind"},
		"payments stops while somebody watches":  {"WatchPayments", codes.Unavailable, "WatchActivity", codes.Unavailable, unavailable},
		"the gateway may no longer watch":        {"WatchPayments", codes.PermissionDenied, "WatchActivity", codes.Internal, internal},
		"the ledger does not let gateway ask it": {"GetBalance", codes.PermissionDenied, "CloseAccount", codes.Internal, internal},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			b, mobile := newBank(t)
			s, err := status.New(test.from, "from behind").WithDetails(&errdetails.ErrorInfo{Reason: "DENIED", Metadata: map[string]string{"decision_id": "x"}})
			if err != nil {
				t.Fatal(err)
			}
			b.errs[test.method] = []error{s.Err()}
			got := status.Convert(methods(t.Context(), mobile)[test.call]("alice", aliceAccount))
			if got.Code() != test.code || got.Message() != test.text {
				t.Errorf("%s: %q, want %s: %q", got.Code(), got.Message(), test.code, test.text)
			}
			if len(got.Details()) != 0 {
				t.Errorf("details: %v", got.Details())
			}
		})
	}
}

// ATTACKS 53: a customer is told when to try again, in the words of the service that is busy, and in the trailer that gRPC's clients heed.
func TestACustomerIsToldWhenABusyBankIsToBeAskedAgain(t *testing.T) {
	t.Parallel()
	b, mobile := newBank(t)
	s, err := status.New(codes.ResourceExhausted, "the server is full").WithDetails(
		&errdetails.ErrorInfo{Reason: "SERVER_FULL", Domain: "countersign"}, &errdetails.RetryInfo{RetryDelay: durationpb.New(1500 * time.Millisecond)})
	if err != nil {
		t.Fatal(err)
	}
	b.errs["CreatePayment"] = []error{s.Err()}
	var trailer metadata.MD
	_, err = mobile.Transfer(as(t.Context(), "alice"), transferRequest("request-1", aliceAccount, bobAccount), grpc.Trailer(&trailer))
	got := status.Convert(err)
	if delay, ok := overload.RetryDelay(err); got.Code() != codes.ResourceExhausted || !ok || delay != 1500*time.Millisecond || len(got.Details()) != 1 {
		t.Errorf("%v with %v", err, got.Details())
	}
	if pushback := trailer.Get("grpc-retry-pushback-ms"); len(pushback) != 1 || pushback[0] != "1500" {
		t.Errorf("the trailer says %v", pushback)
	}
}

func TestAServiceThatIsAwayForAMomentIsAskedAgain(t *testing.T) {
	t.Parallel()
	b, mobile := newBank(t)
	away := status.Error(codes.Unavailable, "away")
	b.errs["GetAccount"] = []error{away, away, nil}
	b.errs["CreatePayment"] = []error{away, away, nil}
	if _, err := mobile.Transfer(as(t.Context(), "alice"), transferRequest("request-1", aliceAccount, bobAccount)); err != nil {
		t.Fatal(err)
	}
	asked := questions[*paymentsv1.CreatePaymentRequest](b)
	if len(asked) != 3 || asked[0].GetRequestId() != asked[2].GetRequestId() {
		t.Errorf("payments was asked %d times, want 3 times for the same request", len(asked))
	}
}

func TestACustomersOwnDeadlineIsTold(t *testing.T) {
	t.Parallel()
	b, mobile := newBank(t)
	leave := make(chan struct{})
	t.Cleanup(func() { close(leave) })
	b.hook = func(method string) {
		if method == "CreatePayment" {
			<-leave
		}
	}
	ctx, cancel := context.WithTimeout(t.Context(), time.Second)
	defer cancel()
	_, err := mobile.Transfer(as(ctx, "alice"), transferRequest("request-1", aliceAccount, bobAccount))
	if status.Code(err) != codes.DeadlineExceeded {
		t.Errorf("%v, want DeadlineExceeded", err)
	}
}
