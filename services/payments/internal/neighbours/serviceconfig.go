package neighbours

// ServiceConfig is for the connections to all four (https://github.com/grpc/grpc/blob/master/doc/service_config.md): a deadline for every
// call, and UNAVAILABLE answered by trying again, for each method because trying again is the same as trying once:
//
//   - GetAccount and GetTransactionKeys change nothing.
//   - RenewTransactionToken makes a token that is as good as the one before.
//   - AssessPayment is idempotent by payment_id: the first verdict is given again, and counted once.
//   - PostTransfer and CaptureHold are idempotent by transfer_id, which is the payment's ID: the first posting is told again.
//   - ReserveFunds is idempotent by hold_id, which is the payment's ID: the hold is told as it then is.
//   - ReleaseHold of a released hold changes nothing.
//
// A method that is not named here is called once. UNAVAILABLE with the reason OUTCOME_UNKNOWN is answered in the same way, since asking again
// is how the outcome becomes known. RESOURCE_EXHAUSTED is not: whoever has too much to do is not helped by more; the machine comes back
// later. The ledger's deadline is the longest: giving up on it leaves the outcome open.
const ServiceConfig = `{
  "loadBalancingConfig": [{"round_robin": {}}],
  "retryThrottling": {"maxTokens": 100, "tokenRatio": 0.1},
  "methodConfig": [{
    "name": [
      {"service": "bank.accounts.v1.AccountService", "method": "GetAccount"},
      {"service": "bank.risk.v1.RiskService", "method": "AssessPayment"},
      {"service": "bank.login.v1.KeyService", "method": "GetTransactionKeys"},
      {"service": "bank.login.v1.TransactionTokenService", "method": "RenewTransactionToken"}
    ],
    "timeout": "3s",
    "retryPolicy": {
      "maxAttempts": 4, "initialBackoff": "0.05s", "maxBackoff": "0.5s", "backoffMultiplier": 2,
      "retryableStatusCodes": ["UNAVAILABLE"]
    }
  }, {
    "name": [
      {"service": "bank.ledger.v1.LedgerService", "method": "PostTransfer"},
      {"service": "bank.ledger.v1.LedgerService", "method": "ReserveFunds"},
      {"service": "bank.ledger.v1.LedgerService", "method": "CaptureHold"},
      {"service": "bank.ledger.v1.LedgerService", "method": "ReleaseHold"}
    ],
    "timeout": "5s",
    "retryPolicy": {
      "maxAttempts": 4, "initialBackoff": "0.05s", "maxBackoff": "0.5s", "backoffMultiplier": 2,
      "retryableStatusCodes": ["UNAVAILABLE"]
    }
  }]
}`
