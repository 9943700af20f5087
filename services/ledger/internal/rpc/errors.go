package rpc

import (
	"context"
	"errors"

	"google.golang.org/genproto/googleapis/rpc/errdetails"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"

	"github.com/countersign-mesh/countersign/pkg/pagetoken"
	"github.com/countersign-mesh/countersign/services/ledger/internal/ledger"
	"github.com/countersign-mesh/countersign/services/ledger/internal/store"
)

// Machine-readable reasons of FAILED_PRECONDITION, in an errdetails.ErrorInfo.
const (
	errorDomain             = "bank.test"
	reasonInsufficientFunds = "INSUFFICIENT_FUNDS"
	reasonBalanceRange      = "BALANCE_OUT_OF_RANGE"
)

// status is the one place that maps errors to gRPC codes. An error that is not the caller's to know becomes INTERNAL; whether
// a transfer then took place is unknown, and posting it again tells.
func (s *Server) status(ctx context.Context, err error) error {
	var funds *store.InsufficientFundsError
	switch {
	case errors.Is(err, ledger.ErrInvalid):
		return status.Error(codes.InvalidArgument, err.Error())
	case errors.Is(err, pagetoken.ErrInvalid):
		return status.Error(codes.InvalidArgument, "page_token: it was not issued by this method for this account_id")
	case errors.Is(err, ledger.ErrConflict):
		return status.Error(codes.AlreadyExists, ledger.ErrConflict.Error())
	case errors.As(err, &funds):
		return precondition(funds.Error(), reasonInsufficientFunds, map[string]string{"account_id": funds.Account, "currency_code": funds.Currency})
	case errors.Is(err, ledger.ErrBalanceRange):
		return precondition(ledger.ErrBalanceRange.Error(), reasonBalanceRange, nil)
	case errors.Is(err, ledger.ErrDamaged):
		s.log.ErrorContext(ctx, "the books are damaged", "error", err)
		return status.Error(codes.DataLoss, err.Error()) // to the operator, who alone may ask
	case ctx.Err() != nil:
		return status.FromContextError(ctx.Err()).Err()
	default:
		s.log.ErrorContext(ctx, "call failed", "error", err)
		return status.Error(codes.Internal, "internal error")
	}
}

func precondition(text, reason string, metadata map[string]string) error {
	plain := status.New(codes.FailedPrecondition, text)
	detailed, err := plain.WithDetails(&errdetails.ErrorInfo{Reason: reason, Domain: errorDomain, Metadata: metadata})
	if err != nil {
		return plain.Err() // only if ErrorInfo could not be marshalled; the code alone is still true
	}
	return detailed.Err()
}
