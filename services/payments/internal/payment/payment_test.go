package payment_test

import (
	"encoding/hex"
	"testing"

	"github.com/countersign-mesh/countersign/services/payments/internal/payment"
)

// Digests are stored. Were they computed otherwise, a request that is sent again after an upgrade would be taken for another one.
func TestADigestIsTheSameInEveryVersion(t *testing.T) {
	t.Parallel()
	order := payment.Order{
		Caller: "spiffe://bank.test/gateway", RequestID: "request-1", Kind: payment.Transfer,
		PayerAccountID: "acc-a", PayeeAccountID: "acc-b",
		Amount: payment.Amount{CurrencyCode: "EUR", MinorUnits: 1234}, Reference: "rent",
	}
	const want = "79422419fec2fa3066a789a94ac0ca30f21cfe87830abd9ac8b12deadcecdb81"
	if got := hex.EncodeToString(order.Digest()); got != want {
		t.Errorf("digest %s, want %s", got, want)
	}
}
