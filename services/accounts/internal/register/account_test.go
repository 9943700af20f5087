package register_test

import (
	"encoding/hex"
	"testing"

	"github.com/countersign-mesh/countersign/services/accounts/internal/register"
)

// Digests are stored. Were they computed otherwise, a request that is sent again after an upgrade would be taken for another one.
func TestADigestIsTheSameInEveryVersion(t *testing.T) {
	t.Parallel()
	opening := register.Opening{RequestID: "request-1", CustomerID: "alice", DisplayName: "Rent", CurrencyCode: "EUR"}
	const want = "7c11d84b7813cccf9bd0cae3ba4ce31f0eaa2e8940875c452b99db084afb275a"
	if got := hex.EncodeToString(opening.Digest()); got != want {
		t.Errorf("digest %s, want %s", got, want)
	}
}
