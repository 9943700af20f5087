package rpc

import (
	"context"
	"errors"

	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"

	"github.com/countersign-mesh/countersign/pkg/pagetoken"
	"github.com/countersign-mesh/countersign/services/audit/internal/store"
)

var (
	errNobody = errors.New("the caller has no verified identity")
	errSlow   = errors.New("records are made faster than they are read; resume after the last position")
	errFuture = errors.New("after_position was not given to any record yet")
)

// status maps an error to what the caller may know of it. Everything else is logged and answered with a fixed text.
func (s *Service) status(ctx context.Context, err error) error {
	if _, ok := status.FromError(err); ok {
		return err // of the stream, or of the server that ends it
	}
	switch {
	case errors.Is(err, store.ErrInvalid), errors.Is(err, pagetoken.ErrInvalid), errors.Is(err, errFuture):
		return status.Error(codes.InvalidArgument, err.Error())
	case errors.Is(err, errNobody):
		return status.Error(codes.Unauthenticated, err.Error())
	case errors.Is(err, errSlow):
		return status.Error(codes.ResourceExhausted, err.Error())
	case ctx.Err() != nil && (errors.Is(err, context.Canceled) || errors.Is(err, context.DeadlineExceeded)):
		return status.FromContextError(ctx.Err()).Err()
	}
	s.log.ErrorContext(ctx, "call failed", "error", err)
	return status.Error(codes.Internal, "internal error")
}
