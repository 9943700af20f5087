package rpc

import (
	"context"
	"errors"

	"google.golang.org/genproto/googleapis/rpc/errdetails"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"

	"github.com/countersign-mesh/countersign/pkg/database"
	"github.com/countersign-mesh/countersign/pkg/pagetoken"
	"github.com/countersign-mesh/countersign/services/accounts/internal/register"
)

// status is the one place that maps errors to gRPC codes. A caller is told the text of a sentinel, never that of what it wraps. Everything else
// is logged and answered with a fixed text.
func (s *Server) status(ctx context.Context, err error) error {
	// First, because what made the outcome unknown may be one of those below.
	if errors.Is(err, database.ErrOutcomeUnknown) {
		s.log.ErrorContext(ctx, "it is not known whether the register was changed", "error", err)
		return outcomeUnknown()
	}
	for _, known := range []struct {
		is   error
		code codes.Code
	}{
		{register.ErrNotFound, codes.NotFound},
		{register.ErrRequestReused, codes.AlreadyExists},
		{register.ErrNotEmpty, codes.FailedPrecondition},
		{register.ErrFrozen, codes.FailedPrecondition},
		{register.ErrClosed, codes.FailedPrecondition},
		{register.ErrBusy, codes.Aborted},
		{register.ErrBooksAway, codes.Unavailable},
		{register.ErrNUL, codes.InvalidArgument},
		{pagetoken.ErrInvalid, codes.InvalidArgument},
		{context.Canceled, codes.Canceled},
		{context.DeadlineExceeded, codes.DeadlineExceeded},
	} {
		if errors.Is(err, known.is) {
			if known.code == codes.Unavailable {
				s.log.WarnContext(ctx, "a neighbour is away", "error", err)
			}
			return status.Error(known.code, known.is.Error())
		}
	}
	s.log.ErrorContext(ctx, "call failed", "error", err)
	if database.Unavailable(err) {
		return status.Error(codes.Unavailable, "the register cannot be reached; send the same request again")
	}
	return status.Error(codes.Internal, "internal error")
}

// outcomeUnknown is the answer when it is not known whether the register was changed. Every method is idempotent, so that the same request again
// answers what became of it. The reason is the bank's own, the same for all services.
func outcomeUnknown() error {
	unknown := status.New(codes.Unavailable, "it is not known whether the register was changed; send the same request again")
	detailed, err := unknown.WithDetails(&errdetails.ErrorInfo{Reason: "OUTCOME_UNKNOWN", Domain: "bank.test"})
	if err != nil {
		return unknown.Err()
	}
	return detailed.Err()
}
