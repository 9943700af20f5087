package rpc

import (
	"context"
	"encoding/hex"
	"errors"

	"google.golang.org/genproto/googleapis/rpc/errdetails"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"

	"github.com/countersign-mesh/countersign/pkg/database"
	"github.com/countersign-mesh/countersign/pkg/pagetoken"
	"github.com/countersign-mesh/countersign/services/ledger/internal/ledger"
	"github.com/countersign-mesh/countersign/services/ledger/internal/store"
)

// Machine-readable reasons, in an errdetails.ErrorInfo.
const (
	errorDomain             = "bank.test"
	reasonTransferReused    = "TRANSFER_ID_REUSED"
	reasonHoldReused        = "HOLD_ID_REUSED"
	reasonInsufficientFunds = "INSUFFICIENT_FUNDS"
	reasonBalanceRange      = "BALANCE_OUT_OF_RANGE"
	reasonHoldReleased      = "HOLD_RELEASED"
	reasonHoldCaptured      = "HOLD_CAPTURED"
	reasonOutcomeUnknown    = "OUTCOME_UNKNOWN"
)

// status is the one place that maps errors to gRPC codes. What the database says is for the log alone.
func (s *Server) status(ctx context.Context, err error) error {
	if refusal := refused(err); refusal != nil {
		return refusal
	}
	switch {
	case errors.Is(err, database.ErrOutcomeUnknown):
		s.log.WarnContext(ctx, "the outcome of a call is unknown", "error", err)
		return detailed(codes.Unavailable, "it is not known whether this took place; send the same request again", reasonOutcomeUnknown, nil)
	case errors.Is(err, ledger.ErrDamaged):
		s.log.ErrorContext(ctx, "the books are damaged", "error", err)
		return status.Error(codes.DataLoss, ledger.ErrDamaged.Error()) // where is for the log
	case ctx.Err() != nil:
		return status.FromContextError(ctx.Err()).Err()
	case unavailable(err):
		s.log.ErrorContext(ctx, "the database does not serve", "error", err)
		return status.Error(codes.Unavailable, "the books are not available")
	default:
		s.log.ErrorContext(ctx, "call failed", "error", err)
		return status.Error(codes.Internal, "internal error")
	}
}

// unavailable reports whether a call whose own time is not over failed because the database does not serve, or not in time.
func unavailable(err error) bool {
	return database.Unavailable(err) || errors.Is(err, store.ErrClosed) || errors.Is(err, context.DeadlineExceeded)
}

// refused returns the status of what the rules refuse, and nil for another error.
func refused(err error) error {
	if conflict, ok := errors.AsType[*ledger.ConflictError](err); ok {
		reason := reasonTransferReused
		if conflict.Kind == "hold" {
			reason = reasonHoldReused
		}
		return detailed(codes.AlreadyExists, conflict.Error(), reason, map[string]string{"digest": hex.EncodeToString(conflict.Digest[:])})
	}
	if funds, ok := errors.AsType[*ledger.InsufficientFundsError](err); ok {
		return detailed(codes.FailedPrecondition, funds.Error(), reasonInsufficientFunds,
			map[string]string{"account_id": funds.Account, "currency_code": funds.Currency})
	}
	switch {
	case errors.Is(err, ledger.ErrInvalid):
		return status.Error(codes.InvalidArgument, err.Error())
	case errors.Is(err, pagetoken.ErrInvalid):
		return status.Error(codes.InvalidArgument, "page_token: it was not issued by this method for this account_id")
	case errors.Is(err, ledger.ErrBalanceRange):
		return detailed(codes.FailedPrecondition, ledger.ErrBalanceRange.Error(), reasonBalanceRange, nil)
	case errors.Is(err, ledger.ErrNoHold):
		return status.Error(codes.NotFound, ledger.ErrNoHold.Error())
	case errors.Is(err, ledger.ErrHoldReleased):
		return detailed(codes.FailedPrecondition, ledger.ErrHoldReleased.Error(), reasonHoldReleased, nil)
	case errors.Is(err, ledger.ErrHoldCaptured):
		return detailed(codes.FailedPrecondition, ledger.ErrHoldCaptured.Error(), reasonHoldCaptured, nil)
	default:
		return nil
	}
}

// detailed returns a status with its reason for programs.
func detailed(code codes.Code, text, reason string, metadata map[string]string) error {
	plain := status.New(code, text)
	detailed, err := plain.WithDetails(&errdetails.ErrorInfo{Reason: reason, Domain: errorDomain, Metadata: metadata})
	if err != nil {
		return plain.Err() // only if ErrorInfo could not be marshalled; the code alone is still true
	}
	return detailed.Err()
}
