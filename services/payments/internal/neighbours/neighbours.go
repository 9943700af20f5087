// Package neighbours asks the services that a payment needs: accounts, risk and the ledger.
package neighbours

import (
	"context"
	"fmt"
	"time"

	"google.golang.org/genproto/googleapis/rpc/errdetails"
	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"

	accountsv1 "github.com/countersign-mesh/countersign/proto/gen/bank/accounts/v1"
	ledgerv1 "github.com/countersign-mesh/countersign/proto/gen/bank/ledger/v1"
	moneyv1 "github.com/countersign-mesh/countersign/proto/gen/bank/money/v1"
	riskv1 "github.com/countersign-mesh/countersign/proto/gen/bank/risk/v1"
	"github.com/countersign-mesh/countersign/services/payments/internal/payment"
)

// ServiceConfig is for the connections to all three (https://github.com/grpc/grpc/blob/master/doc/service_config.md). Every method is
// idempotent, so UNAVAILABLE is answered by trying again, within a deadline that no call lacks. The ledger's is the longest: giving up on it
// leaves the outcome open.
const ServiceConfig = `{
  "loadBalancingConfig": [{"round_robin": {}}],
  "retryThrottling": {"maxTokens": 100, "tokenRatio": 0.1},
  "methodConfig": [{
    "name": [
      {"service": "bank.accounts.v1.AccountService", "method": "GetAccount"},
      {"service": "bank.risk.v1.RiskService", "method": "AssessPayment"}
    ],
    "timeout": "3s",
    "retryPolicy": {
      "maxAttempts": 4, "initialBackoff": "0.05s", "maxBackoff": "0.5s", "backoffMultiplier": 2,
      "retryableStatusCodes": ["UNAVAILABLE"]
    }
  }, {
    "name": [{"service": "bank.ledger.v1.LedgerService", "method": "PostTransfer"}],
    "timeout": "5s",
    "retryPolicy": {
      "maxAttempts": 4, "initialBackoff": "0.05s", "maxBackoff": "0.5s", "backoffMultiplier": 2,
      "retryableStatusCodes": ["UNAVAILABLE"]
    }
  }]
}`

// cashAccount is where the books keep what is in the vault.
const cashAccount = "bank-cash"

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
	return payment.Account{
		CustomerID:   account.GetCustomerId(),
		CurrencyCode: account.GetCurrencyCode(),
		Open:         account.GetStatus() == accountsv1.AccountStatus_ACCOUNT_STATUS_OPEN,
	}, nil
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

// Risk asks the risk service. It is safe for concurrent use.
type Risk struct {
	client riskv1.RiskServiceClient
}

// NewRisk returns Risk over a connection.
func NewRisk(conn grpc.ClientConnInterface) *Risk {
	return &Risk{client: riskv1.NewRiskServiceClient(conn)}
}

// Assess returns risk's verdict; see machine.Risk.
func (r *Risk) Assess(ctx context.Context, p payment.Payment) (payment.Verdict, []payment.Reason, error) {
	response, err := r.client.AssessPayment(ctx, &riskv1.AssessPaymentRequest{
		PaymentId:       p.ID,
		PayerCustomerId: p.PayerCustomerID,
		PayerAccountId:  p.PayerAccountID,
		PayeeAccountId:  p.PayeeAccountID,
		Amount:          money(p.Amount.CurrencyCode, p.Amount.MinorUnits),
	})
	if err != nil {
		return 0, nil, fmt.Errorf("risk: %w", err)
	}
	var reasons []payment.Reason
	for _, reason := range response.GetReasons() {
		reasons = append(reasons, payment.Reason{Code: reason.GetCode(), Message: reason.GetMessage()})
	}
	return verdict(response.GetVerdict()), reasons, nil
}

// verdict returns the zero Verdict, which allows nothing, for what is no verdict, also one of a newer risk service.
func verdict(v riskv1.Verdict) payment.Verdict {
	switch v {
	case riskv1.Verdict_VERDICT_ALLOW:
		return payment.Allow
	case riskv1.Verdict_VERDICT_REFUSE:
		return payment.Refuse
	case riskv1.Verdict_VERDICT_HOLD:
		return payment.Hold
	default:
		return 0
	}
}

// Ledger asks the ledger. It is safe for concurrent use.
type Ledger struct {
	client ledgerv1.LedgerServiceClient
}

// NewLedger returns Ledger over a connection.
func NewLedger(conn grpc.ClientConnInterface) *Ledger {
	return &Ledger{client: ledgerv1.NewLedgerServiceClient(conn)}
}

// Post posts a payment; see machine.Ledger.
func (l *Ledger) Post(ctx context.Context, p payment.Payment) error {
	from := p.PayerAccountID
	if p.Kind == payment.CashDeposit {
		from = cashAccount
	}
	_, err := l.client.PostTransfer(ctx, &ledgerv1.PostTransferRequest{
		// One ID for both: however often a payment is posted, the ledger knows that it is the same one.
		TransferId: p.ID,
		Postings: []*ledgerv1.Posting{
			{AccountId: from, Amount: money(p.Amount.CurrencyCode, -p.Amount.MinorUnits)},
			{AccountId: p.PayeeAccountID, Amount: money(p.Amount.CurrencyCode, p.Amount.MinorUnits)},
		},
		Description: description(p),
	})
	return explainLedger(err)
}

// explainLedger tells the ledger's definite answers, after which nothing was and nothing will be posted, from all others, which leave
// that open. The code FAILED_PRECONDITION alone is not definite: another precondition may have failed.
func explainLedger(err error) error {
	switch s := status.Convert(err); s.Code() {
	case codes.OK:
		return nil
	case codes.InvalidArgument, codes.AlreadyExists:
		return fmt.Errorf("%w: %w", payment.ErrLedgerRejected, err)
	case codes.FailedPrecondition:
		switch reason(s) {
		case payment.CodeInsufficientFunds:
			return payment.ErrInsufficientFunds
		case payment.CodeBalanceOutOfRange:
			return payment.ErrBalanceOutOfRange
		}
	default: // open, as below
	}
	return fmt.Errorf("ledger: %w", err)
}

// reason returns the machine-readable reason of an error, empty when it has none.
func reason(s *status.Status) string {
	for _, detail := range s.Details() {
		if info, ok := detail.(*errdetails.ErrorInfo); ok {
			return info.GetReason()
		}
	}
	return ""
}

// description is what both statements show.
func description(p payment.Payment) string {
	switch {
	case p.Reference != "":
		return p.Reference
	case p.Kind == payment.CashDeposit:
		return "Cash deposit"
	default:
		return "Transfer"
	}
}

func money(currencyCode string, minorUnits int64) *moneyv1.Money {
	return &moneyv1.Money{CurrencyCode: currencyCode, MinorUnits: minorUnits}
}
