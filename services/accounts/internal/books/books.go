// Package books asks the ledger for balances.
package books

import (
	"context"
	"fmt"
	"slices"
	"time"

	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"

	ledgerv1 "github.com/countersign-mesh/countersign/proto/gen/bank/ledger/v1"
	"github.com/countersign-mesh/countersign/services/accounts/internal/register"
)

// ServiceConfig is for the connection to the ledger (https://github.com/grpc/grpc/blob/master/doc/service_config.md): a question changes
// nothing, so UNAVAILABLE is answered by asking again, within a deadline that no call lacks.
const ServiceConfig = `{
  "loadBalancingConfig": [{"round_robin": {}}],
  "retryThrottling": {"maxTokens": 100, "tokenRatio": 0.1},
  "methodConfig": [{
    "name": [{"service": "bank.ledger.v1.LedgerService", "method": "GetBalance"}],
    "timeout": "3s",
    "retryPolicy": {
      "maxAttempts": 4, "initialBackoff": "0.05s", "maxBackoff": "0.5s", "backoffMultiplier": 2,
      "retryableStatusCodes": ["UNAVAILABLE"]
    }
  }]
}`

// Books asks the ledger. It is safe for concurrent use. It implements register.Books.
type Books struct {
	ledger ledgerv1.LedgerServiceClient
}

// New returns Books over a connection to the ledger.
func New(conn grpc.ClientConnInterface) *Books {
	return &Books{ledger: ledgerv1.NewLedgerServiceClient(conn)}
}

// Empty implements register.Books.
func (b *Books) Empty(ctx context.Context, accountID string) (bool, error) {
	response, err := b.ledger.GetBalance(ctx, &ledgerv1.GetBalanceRequest{AccountId: accountID})
	if err != nil {
		return false, explain(ctx, err)
	}
	// What is held is a part of the balance. It is asked about all the same: the ledger says what it holds, and not this service.
	for _, balance := range slices.Concat(response.GetBalances(), response.GetHeld()) {
		if balance.GetMinorUnits() != 0 {
			return false, nil
		}
	}
	return true, nil
}

// explain tells a ledger that is away from one that says no, and from a caller who has gone.
func explain(ctx context.Context, err error) error {
	if cause := ended(ctx); cause != nil {
		return cause
	}
	switch status.Code(err) {
	case codes.Unavailable, codes.DeadlineExceeded, codes.Canceled, codes.ResourceExhausted:
		return fmt.Errorf("%w: %w", register.ErrBooksAway, err)
	default:
		return fmt.Errorf("ledger: %w", err)
	}
}

// ended returns why a call is over for its own caller, nil while it is not. A neighbour may report that the deadline has passed
// before the timer of ctx has fired, so the clock is asked too.
func ended(ctx context.Context) error {
	if deadline, ok := ctx.Deadline(); ok && ctx.Err() == nil && !time.Now().Before(deadline) {
		return context.DeadlineExceeded
	}
	return ctx.Err()
}
