// Package rpc serves the bank to its customers' phones as bank.mobile.v1.MobileBankService.
//
// It keeps nothing: accounts, payments and the ledger do. What it adds is the customer. Each method first asks who the customer is
// (customerOf), then gets a transaction token that says what this customer asks for (acting), and then, for every account that a request names as the customer's
// own, asks whether it is (own). The services behind it believe the token, and ask the same again.
package rpc

import (
	"context"
	"log/slog"

	"google.golang.org/grpc"

	accountsv1 "github.com/countersign-mesh/countersign/proto/gen/bank/accounts/v1"
	ledgerv1 "github.com/countersign-mesh/countersign/proto/gen/bank/ledger/v1"
	mobilev1 "github.com/countersign-mesh/countersign/proto/gen/bank/mobile/v1"
	paymentsv1 "github.com/countersign-mesh/countersign/proto/gen/bank/payments/v1"
)

// ServiceConfig is for the connections to accounts, payments, the ledger and login (https://github.com/grpc/grpc/blob/master/doc/service_config.md).
// Every method is idempotent, so UNAVAILABLE is answered by trying again, within a deadline that no call but a watch lacks.
// CloseAccount asks the ledger twice and CreatePayment takes several steps, so they have longer.
const ServiceConfig = `{
  "loadBalancingConfig": [{"round_robin": {}}],
  "retryThrottling": {"maxTokens": 100, "tokenRatio": 0.1},
  "methodConfig": [{
    "name": [
      {"service": "bank.accounts.v1.AccountService"},
      {"service": "bank.login.v1.TransactionTokenService"},
      {"service": "bank.login.v1.KeyService", "method": "GetEdgeKeys"},
      {"service": "bank.ledger.v1.LedgerService"}
    ],
    "timeout": "4s",
    "retryPolicy": {
      "maxAttempts": 3, "initialBackoff": "0.1s", "maxBackoff": "1s", "backoffMultiplier": 2,
      "retryableStatusCodes": ["UNAVAILABLE"]
    }
  }, {
    "name": [
      {"service": "bank.accounts.v1.AccountService", "method": "CloseAccount"},
      {"service": "bank.payments.v1.PaymentService", "method": "CreatePayment"}
    ],
    "timeout": "12s",
    "retryPolicy": {
      "maxAttempts": 3, "initialBackoff": "0.1s", "maxBackoff": "1s", "backoffMultiplier": 2,
      "retryableStatusCodes": ["UNAVAILABLE"]
    }
  }, {
    "name": [{"service": "bank.payments.v1.PaymentService", "method": "WatchPayments"}],
    "retryPolicy": {
      "maxAttempts": 3, "initialBackoff": "0.1s", "maxBackoff": "1s", "backoffMultiplier": 2,
      "retryableStatusCodes": ["UNAVAILABLE"]
    }
  }]
}`

// Tokens makes calls be made for a customer. A txn.Tokens does.
type Tokens interface {
	// Acting returns a context whose calls are made for the customer of ctx, with the content that they asked for.
	Acting(ctx context.Context, scope string, content map[string]string) (context.Context, error)
}

// Server implements MobileBankService. It is safe for concurrent use.
type Server struct {
	mobilev1.UnimplementedMobileBankServiceServer
	accounts   accountsv1.AccountServiceClient
	payments   paymentsv1.PaymentServiceClient
	ledger     ledgerv1.LedgerServiceClient
	tokens     Tokens
	stepUpFrom int64
	log        *slog.Logger
}

// Behind are connections to the services behind the gateway, which carry the transaction tokens of calls.
type Behind struct{ Accounts, Payments, Ledger grpc.ClientConnInterface }

// New returns a Server over the services behind it. From stepUpFrom minor units on, whatever the currency, a transfer takes a customer who has logged in
// with a one-time code.
func New(behind Behind, tokens Tokens, stepUpFrom int64, log *slog.Logger) *Server {
	return &Server{
		accounts:   accountsv1.NewAccountServiceClient(behind.Accounts),
		payments:   paymentsv1.NewPaymentServiceClient(behind.Payments),
		ledger:     ledgerv1.NewLedgerServiceClient(behind.Ledger),
		tokens:     tokens,
		stepUpFrom: stepUpFrom,
		log:        log,
	}
}
