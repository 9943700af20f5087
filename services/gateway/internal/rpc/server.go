// Package rpc serves the bank to its customers' phones as bank.mobile.v1.MobileBankService.
//
// It keeps nothing: accounts, payments and the ledger do. What it adds is the customer. Each method first asks who the customer is
// (customerOf) and then, for every account that a request names as the customer's own, whether it is (own).
package rpc

import (
	"log/slog"

	"google.golang.org/grpc"

	accountsv1 "github.com/countersign-mesh/countersign/proto/gen/bank/accounts/v1"
	ledgerv1 "github.com/countersign-mesh/countersign/proto/gen/bank/ledger/v1"
	mobilev1 "github.com/countersign-mesh/countersign/proto/gen/bank/mobile/v1"
	paymentsv1 "github.com/countersign-mesh/countersign/proto/gen/bank/payments/v1"
)

// ServiceConfig is for the connections to accounts, payments and the ledger (https://github.com/grpc/grpc/blob/master/doc/service_config.md).
// Every method is idempotent, so UNAVAILABLE is answered by trying again, within a deadline that no call but a watch lacks.
// CloseAccount asks the ledger twice and CreatePayment takes several steps, so they have longer.
const ServiceConfig = `{
  "loadBalancingConfig": [{"round_robin": {}}],
  "retryThrottling": {"maxTokens": 100, "tokenRatio": 0.1},
  "methodConfig": [{
    "name": [
      {"service": "bank.accounts.v1.AccountService"},
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

// Server implements MobileBankService. It is safe for concurrent use.
type Server struct {
	mobilev1.UnimplementedMobileBankServiceServer
	accounts accountsv1.AccountServiceClient
	payments paymentsv1.PaymentServiceClient
	ledger   ledgerv1.LedgerServiceClient
	log      *slog.Logger
}

// New returns a Server over connections to the three services behind it.
func New(accounts, payments, ledger grpc.ClientConnInterface, log *slog.Logger) *Server {
	return &Server{
		accounts: accountsv1.NewAccountServiceClient(accounts),
		payments: paymentsv1.NewPaymentServiceClient(payments),
		ledger:   ledgerv1.NewLedgerServiceClient(ledger),
		log:      log,
	}
}
