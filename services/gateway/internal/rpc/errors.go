package rpc

import (
	"context"
	"slices"
	"time"

	"google.golang.org/genproto/googleapis/rpc/errdetails"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"
	"google.golang.org/protobuf/types/known/durationpb"

	"github.com/countersign-mesh/countersign/pkg/overload"
)

// errNoAccount is the answer for every account that is not the customer's, existing or not.
var errNoAccount = status.Error(codes.NotFound, "no such account")

// behind maps an error of a service behind the gateway to what a customer may know of it. Codes in known are part of the method's
// contract and pass with their text; of details nothing passes but when to try again. That a service is away passes without saying which. Everything else,
// a denial between services above all, is the bank's own affair: it is logged and answered with a fixed text.
func (s *Server) behind(ctx context.Context, err error, known ...codes.Code) error {
	if cause := ended(ctx); cause != nil {
		return status.FromContextError(cause).Err()
	}
	from := status.Convert(err)
	if slices.Contains(known, from.Code()) {
		return status.Error(from.Code(), from.Message())
	}
	switch from.Code() {
	case codes.Unavailable, codes.DeadlineExceeded, codes.Canceled: // not the customer's own deadline: that was looked at above
		s.log.WarnContext(ctx, "a service behind is away", "error", err)
		return status.Error(codes.Unavailable, "the bank is not available; send the same request again")
	case codes.ResourceExhausted:
		s.log.WarnContext(ctx, "a service behind is overloaded", "error", err)
		return busy(err)
	default:
		s.log.ErrorContext(ctx, "call failed", "error", err)
		return status.Error(codes.Internal, "internal error")
	}
}

// busy answers that the bank is busy, and for how long if the service behind has said so.
func busy(err error) error {
	answer := status.New(codes.ResourceExhausted, "the bank is busy; try again later")
	if delay, ok := overload.RetryDelay(err); ok {
		if detailed, err := answer.WithDetails(&errdetails.RetryInfo{RetryDelay: durationpb.New(delay)}); err == nil {
			answer = detailed
		}
	}
	return answer.Err()
}

// ended returns why a call is over for its own caller, nil while it is not. A neighbour may report that the deadline has passed
// before the timer of ctx has fired, so the clock is asked too.
func ended(ctx context.Context) error {
	if deadline, ok := ctx.Deadline(); ok && ctx.Err() == nil && !time.Now().Before(deadline) {
		return context.DeadlineExceeded
	}
	return ctx.Err()
}
