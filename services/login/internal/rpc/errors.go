package rpc

import (
	"context"
	"errors"

	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"

	"github.com/countersign-mesh/countersign/pkg/database"
	"github.com/countersign-mesh/countersign/services/login/internal/customer"
	"github.com/countersign-mesh/countersign/services/login/internal/device"
	"github.com/countersign-mesh/countersign/services/login/internal/keys"
	"github.com/countersign-mesh/countersign/services/login/internal/transaction"
)

// status is the one place that maps errors to gRPC codes. A caller is told the text of a sentinel, never that of what it wraps. Everything else
// is logged and answered with a fixed text.
func (p Parts) status(ctx context.Context, err error) error {
	// First, because what made the outcome unknown may be one of those below.
	if errors.Is(err, database.ErrOutcomeUnknown) {
		p.Log.ErrorContext(ctx, "it is not known whether something was changed", "error", err)
		return status.Error(codes.Unavailable, "it is not known whether something was changed; look before you send the request again")
	}
	for _, known := range []struct {
		is   error
		code codes.Code
	}{
		{customer.ErrTaken, codes.AlreadyExists},
		{customer.ErrWeak, codes.InvalidArgument},
		{device.ErrUnknown, codes.NotFound},
		{transaction.ErrToken, codes.Unauthenticated},
		{transaction.ErrScope, codes.PermissionDenied},
		{transaction.ErrUnknown, codes.NotFound},
		{keys.ErrStale, codes.Unavailable},
		{context.Canceled, codes.Canceled},
		{context.DeadlineExceeded, codes.DeadlineExceeded},
	} {
		if errors.Is(err, known.is) {
			if known.code == codes.Unauthenticated {
				p.Log.InfoContext(ctx, "no transaction token for an access token", "error", err)
			}
			return status.Error(known.code, known.is.Error())
		}
	}
	p.Log.ErrorContext(ctx, "call failed", "error", err)
	if database.Unavailable(err) {
		return status.Error(codes.Unavailable, "the database cannot be reached; send the same request again")
	}
	return status.Error(codes.Internal, "internal error")
}
