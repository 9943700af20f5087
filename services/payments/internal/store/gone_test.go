package store_test

import (
	"context"
	"errors"
	"testing"
	"time"

	"github.com/countersign-mesh/countersign/pkg/database/databasetest"
	"github.com/countersign-mesh/countersign/services/payments/internal/payment"
)

// While the server is gone nobody knows what was stored, and says so. When it is back, the same request finds out. ATTACKS 64.
func TestADatabaseThatIsGoneLeavesTheOutcomeUnknown(t *testing.T) {
	t.Parallel()
	server := databasetest.StartServer(t)
	dsn, err := server.Create(t.Context(), "payments")
	if err != nil {
		t.Fatal(err)
	}
	s := openStore(t, dsn)
	p := create(t, s, order("request-1", "acc-a", "acc-b"))
	if err := server.Kill(); err != nil {
		t.Fatal(err)
	}
	for name, call := range map[string]func(ctx context.Context) error{
		"create": func(ctx context.Context) error {
			_, err := s.Create(ctx, made(order("request-2", "acc-a", "acc-b")))
			return err
		},
		"advance": func(ctx context.Context) error {
			_, err := s.Advance(ctx, p, payment.Step{To: payment.Assessed, Time: noon})
			return err
		},
		"review": func(ctx context.Context) error { _, err := decide(ctx, s, p, payment.Approve); return err },
		"get":    func(ctx context.Context) error { _, err := s.Get(ctx, p.ID); return err },
		"by request": func(ctx context.Context) error {
			_, err := s.ByRequest(ctx, p.Order)
			return err
		},
		"changes": func(ctx context.Context) error { _, err := s.Changes(ctx, "acc-a", 0, 1); return err },
	} {
		ctx, cancel := context.WithTimeout(t.Context(), 20*time.Second)
		if err := call(ctx); !errors.Is(err, payment.ErrOutcomeUnknown) {
			t.Errorf("%s: %v, want ErrOutcomeUnknown", name, err)
		}
		cancel()
	}
	if err := server.Start(t.Context()); err != nil {
		t.Fatal(err)
	}
	if again := create(t, s, p.Order); again.ID != p.ID {
		t.Errorf("the same request made %s and %s", p.ID, again.ID)
	}
	if advance(t, s, p, payment.Assessed).State != payment.Assessed {
		t.Error("it does not go on")
	}
}
