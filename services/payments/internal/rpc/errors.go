package rpc

import (
	"context"
	"errors"

	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"

	"github.com/countersign-mesh/countersign/pkg/pagetoken"
	"github.com/countersign-mesh/countersign/services/payments/internal/activity"
	"github.com/countersign-mesh/countersign/services/payments/internal/payment"
)

// watchEnded returns what the caller of a watch is told. That the stream itself is over, because its reader has left, the policy no longer
// lets it in or the server stops, is no failure of the watch: it has its status already and is not logged.
func (s *Server) watchEnded(ctx context.Context, sent, err error) error {
	if sent != nil {
		return sent
	}
	if cause := context.Cause(ctx); cause != nil {
		if _, ok := status.FromError(cause); ok {
			return cause
		}
	}
	return s.status(ctx, err)
}

// status is the one place that maps errors to gRPC codes. A caller is told the text of a sentinel, never that of what it wraps. Everything else
// is logged and answered with a fixed text.
func (s *Server) status(ctx context.Context, err error) error {
	if refused, ok := errors.AsType[*payment.AccountError](err); ok {
		if errors.Is(err, payment.ErrNoAccount) {
			return status.Error(codes.NotFound, refused.Error())
		}
		return status.Error(codes.FailedPrecondition, refused.Error())
	}
	for _, known := range []struct {
		is   error
		code codes.Code
	}{
		// First, because what made an outcome unknown may be one of those below.
		{payment.ErrOutcomeUnknown, codes.Unavailable},
		{payment.ErrAway, codes.Unavailable},
		{payment.ErrNotFound, codes.NotFound},
		{payment.ErrRequestReused, codes.AlreadyExists},
		{payment.ErrNotInReview, codes.FailedPrecondition},
		{pagetoken.ErrInvalid, codes.InvalidArgument},
		{activity.ErrUnknownCursor, codes.InvalidArgument},
		{context.Canceled, codes.Canceled},
		{context.DeadlineExceeded, codes.DeadlineExceeded},
	} {
		if errors.Is(err, known.is) {
			if known.code == codes.Unavailable {
				s.log.WarnContext(ctx, "call could not be finished", "error", err)
			}
			return status.Error(known.code, known.is.Error())
		}
	}
	if ctx.Err() != nil {
		return status.FromContextError(ctx.Err()).Err() // such as a stream that its reader has left
	}
	s.log.ErrorContext(ctx, "call failed", "error", err)
	return status.Error(codes.Internal, "internal error")
}
