package payment

// The codes of the reasons that payments gives itself. Those of a verdict are risk's.
const (
	CodeRiskUnavailable   = "RISK_UNAVAILABLE"
	CodeInsufficientFunds = "INSUFFICIENT_FUNDS"
	CodeBalanceOutOfRange = "BALANCE_OUT_OF_RANGE"
	CodeLedgerRejected    = "LEDGER_REJECTED"
	CodeAccountFrozen     = "ACCOUNT_FROZEN"
	CodeAccountClosed     = "ACCOUNT_CLOSED"
	CodeReviewRefused     = "REVIEW_REFUSED"
)

// Reason says why a payment was refused, is to be, or is in review.
type Reason struct {
	// Code is stable and for programs.
	Code string `json:"code"`
	// Message is for people, the customer among them.
	Message string `json:"message"`
}

// Because returns the one reason with a code of payments' own.
func Because(code string) []Reason {
	return []Reason{{Code: code, Message: explanation(code)}}
}

func explanation(code string) string {
	switch code {
	case CodeRiskUnavailable:
		return "the payment waits to be assessed"
	case CodeInsufficientFunds:
		return "there is not enough money in the account"
	case CodeBalanceOutOfRange:
		return "a balance would become larger than the bank can keep"
	case CodeLedgerRejected:
		return "the bank has to look at this payment"
	case CodeAccountFrozen:
		return "an account was frozen on the way"
	case CodeAccountClosed:
		return "an account was closed on the way"
	case CodeReviewRefused:
		return "the bank has looked at this payment and refuses it"
	default:
		return ""
	}
}
