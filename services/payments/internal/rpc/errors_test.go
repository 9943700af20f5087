package rpc_test

import (
	"bytes"
	"context"
	"fmt"
	"io"
	"log/slog"
	"testing"

	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/peer"
	"google.golang.org/grpc/status"

	"github.com/countersign-mesh/countersign/pkg/identity"
	"github.com/countersign-mesh/countersign/pkg/userauth/txntoken"
	paymentsv1 "github.com/countersign-mesh/countersign/proto/gen/bank/payments/v1"
	"github.com/countersign-mesh/countersign/services/payments/internal/payment"
	"github.com/countersign-mesh/countersign/services/payments/internal/rpc"
)

// oneChange is a feed with one change, which then waits for its watcher to leave.
type oneChange struct{}

func (oneChange) Follow(ctx context.Context, _ string, _ int64, send func(payment.Change) error) error {
	if err := send(payment.Change{Sequence: 1}); err != nil {
		return err
	}
	<-ctx.Done()
	return ctx.Err()
}

// endedStream is a stream of a server that has ended it: messages are not sent any more, and ctx is over for the same cause.
type endedStream struct {
	grpc.ServerStreamingServer[paymentsv1.WatchPaymentsResponse]
	ctx  context.Context
	sent error
}

func (s endedStream) Context() context.Context                     { return s.ctx }
func (s endedStream) Send(*paymentsv1.WatchPaymentsResponse) error { return s.sent }

func TestTheEndOfAStreamIsNoFailureOfAWatch(t *testing.T) {
	t.Parallel()
	denied := status.Error(codes.PermissionDenied, "denied")
	for name, test := range map[string]struct {
		sent, cause error
		want        codes.Code
	}{
		"a message is denied":                {denied, nil, codes.PermissionDenied},
		"a watch is denied while it waits":   {nil, denied, codes.PermissionDenied},
		"the reader leaves while it waits":   {nil, context.Canceled, codes.Canceled},
		"the connection ends at the message": {status.Error(codes.Unavailable, "transport is closing"), nil, codes.Unavailable},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			var log bytes.Buffer
			server := rpc.New(nil, nil, oneChange{}, nil, slog.New(slog.NewTextHandler(&log, nil)))
			ctx, end := context.WithCancelCause(t.Context())
			defer end(nil)
			if test.cause != nil {
				end(test.cause)
			}
			err := server.WatchPayments(&paymentsv1.WatchPaymentsRequest{AccountId: alice}, endedStream{ctx: ctx, sent: test.sent})
			if status.Code(err) != test.want {
				t.Errorf("%v, want %s", err, test.want)
			}
			if log.Len() != 0 {
				t.Errorf("logged: %s", &log)
			}
		})
	}
}

// operator is a connection of the operator's.
type operator struct{}

func (operator) AuthType() string { return "test" }

func (operator) Peer() *identity.Peer { return &identity.Peer{} }

// answering is a maker of payments that answers an error to everything.
type answering struct{ err error }

func (a answering) Create(context.Context, payment.Order) (payment.Payment, error) {
	return payment.Payment{}, a.err
}

func (a answering) Review(context.Context, string, payment.Review) (payment.Payment, error) {
	return payment.Payment{}, a.err
}

func TestACallerIsToldWhatIsKnownAndNotWhy(t *testing.T) {
	t.Parallel()
	for name, test := range map[string]struct {
		err  error
		code codes.Code
		text string
	}{
		"nobody knows whether it is stored": {fmt.Errorf("store: %w: %w", payment.ErrOutcomeUnknown, io.ErrUnexpectedEOF), codes.Unavailable, "the outcome is not yet known; send the same request again"},
		"not even whether the caller left":  {fmt.Errorf("store: %w: %w", payment.ErrOutcomeUnknown, context.Canceled), codes.Unavailable, "the outcome is not yet known; send the same request again"},
		"there is nothing to decide on":     {fmt.Errorf("store: %w", payment.ErrNotInReview), codes.FailedPrecondition, notInReview},
		"something broke":                   {io.ErrUnexpectedEOF, codes.Internal, "internal error"},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			server := rpc.New(answering{test.err}, nil, nil, nil, slog.New(slog.DiscardHandler))
			ctx := peer.NewContext(t.Context(), &peer.Peer{AuthInfo: operator{}})
			ctx = txntoken.NewContext(ctx, &txntoken.Token{ID: "txn-00000001", Subject: "alice"})
			_, err := server.CreatePayment(ctx, request("request-1"))
			wantStatus(t, err, test.code, test.text)
			_, err = server.ReviewPayment(ctx, &paymentsv1.ReviewPaymentRequest{})
			wantStatus(t, err, test.code, test.text)
		})
	}
}
