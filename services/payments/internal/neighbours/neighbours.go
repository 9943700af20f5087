// Package neighbours asks the services that a payment needs: accounts, risk, the ledger, and login for the token that the ledger wants.
package neighbours

import (
	"context"
	"fmt"
	"time"

	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"

	accountsv1 "github.com/countersign-mesh/countersign/proto/gen/bank/accounts/v1"
	moneyv1 "github.com/countersign-mesh/countersign/proto/gen/bank/money/v1"
	"github.com/countersign-mesh/countersign/services/payments/internal/payment"
)

// Accounts asks the accounts service. It is safe for concurrent use.
type Accounts struct {
	client accountsv1.AccountServiceClient
}

// NewAccounts returns Accounts over a connection.
func NewAccounts(conn grpc.ClientConnInterface) *Accounts {
	return &Accounts{client: accountsv1.NewAccountServiceClient(conn)}
}

// Account returns an account; see machine.Accounts.
func (a *Accounts) Account(ctx context.Context, accountID string) (payment.Account, error) {
	response, err := a.client.GetAccount(ctx, &accountsv1.GetAccountRequest{AccountId: accountID})
	if err != nil {
		return payment.Account{}, explainAccounts(ctx, err)
	}
	account := response.GetAccount()
	known := payment.Account{CustomerID: account.GetCustomerId(), CurrencyCode: account.GetCurrencyCode()}
	switch account.GetStatus() {
	case accountsv1.AccountStatus_ACCOUNT_STATUS_OPEN:
		known.Status = payment.Open
	case accountsv1.AccountStatus_ACCOUNT_STATUS_FROZEN:
		known.Status = payment.Frozen
	case accountsv1.AccountStatus_ACCOUNT_STATUS_CLOSED:
		known.Status = payment.Closed
	default: // of a newer accounts service: it may be usable or not
		return payment.Account{}, fmt.Errorf("accounts: an account in status %s", account.GetStatus())
	}
	return known, nil
}

func explainAccounts(ctx context.Context, err error) error {
	if cause := ended(ctx); cause != nil {
		return cause // the caller's own end, not the neighbour's fault
	}
	switch status.Code(err) {
	case codes.NotFound:
		return payment.ErrNoAccount
	case codes.Unavailable, codes.DeadlineExceeded, codes.Canceled, codes.ResourceExhausted:
		return fmt.Errorf("%w: accounts: %w", payment.ErrAway, err)
	default:
		return fmt.Errorf("accounts: %w", err)
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

func money(currencyCode string, minorUnits int64) *moneyv1.Money {
	return &moneyv1.Money{CurrencyCode: currencyCode, MinorUnits: minorUnits}
}
