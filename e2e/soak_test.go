package e2e

import (
	"context"
	"errors"
	"os"
	"testing"
	"time"

	"github.com/countersign-mesh/countersign/e2e/internal/bank"
	mobilev1 "github.com/countersign-mesh/countersign/proto/gen/bank/mobile/v1"
)

// soak is how long a test that gains by going on longer goes on: short, or what COUNTERSIGN_SOAK says, as `make soak` sets it.
func soak(t *testing.T, short time.Duration) time.Duration {
	t.Helper()
	long := os.Getenv("COUNTERSIGN_SOAK")
	if long == "" {
		return short
	}
	d, err := time.ParseDuration(long)
	if err != nil || d < short {
		t.Fatalf("COUNTERSIGN_SOAK=%s: want a duration of %v or more, such as 10m", long, short)
	}
	return d
}

// rounds is how often a test that repeats itself does so: short times, and more often where there is a soak.
func rounds(short, long int) int {
	if os.Getenv("COUNTERSIGN_SOAK") != "" {
		return long
	}
	return short
}

// untiring lets an account pay as often as it likes: a test's customers pay all day long, a cent at a time.
func untiring(t *testing.T, home *bank.Home) {
	t.Helper()
	home.Edit(t, home.RiskRules(), bank.Replace(t, "max_payments: 600\n", "max_payments: 1000000000\n"))
}

// payFrom returns how customers, each under their own name and with their own phone, pay a cent. A payment that is not done at once is a failure.
func payFrom(customers ...*customer) func(context.Context, string, int) error {
	byName := make(map[string]*customer)
	for _, c := range customers {
		byName[c.name] = c
	}
	return func(ctx context.Context, name string, n int) error {
		c := byName[name]
		response, err := c.phone.Bank().Transfer(ctx, c.nth(n))
		if err != nil {
			return err
		}
		if got := response.GetTransfer().GetStatus(); got != mobilev1.TransferStatus_TRANSFER_STATUS_DONE {
			return errors.New(got.String())
		}
		c.paid.Add(1)
		return nil
	}
}

// customerNames returns the names of customers.
func customerNames(customers []*customer) []string {
	return names(customers, func(c *customer) string { return c.name })
}
