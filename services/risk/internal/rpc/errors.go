package rpc

import (
	"context"
	"errors"

	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"

	"github.com/countersign-mesh/countersign/pkg/database"
	"github.com/countersign-mesh/countersign/services/risk/internal/risk"
)

// status is the one place that maps errors to gRPC codes.
func (s *Server) status(ctx context.Context, err error) error {
	switch {
	case errors.Is(err, risk.ErrConflict):
		return status.Error(codes.AlreadyExists, risk.ErrConflict.Error())
	case ctx.Err() != nil:
		return status.FromContextError(ctx.Err()).Err()
	default:
		s.log.ErrorContext(ctx, "call failed", "error", err)
		if database.Unavailable(err) || errors.Is(err, database.ErrOutcomeUnknown) { // the same question again is answered by what became of it
			return status.Error(codes.Unavailable, "payments cannot be assessed at the moment; ask again")
		}
		return status.Error(codes.Internal, "internal error")
	}
}
