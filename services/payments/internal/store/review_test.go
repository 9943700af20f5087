package store_test

import (
	"context"
	"errors"
	"sync"
	"testing"

	"github.com/google/go-cmp/cmp"

	"github.com/countersign-mesh/countersign/services/payments/internal/payment"
	"github.com/countersign-mesh/countersign/services/payments/internal/store"
)

func decide(ctx context.Context, s *store.Store, id string, decision payment.Decision) (payment.Payment, error) {
	return s.Review(ctx, id, payment.Review{Decision: decision, By: "spiffe://bank.test/operator", Time: noon})
}

func TestReview(t *testing.T) {
	t.Parallel()
	each(t, func(t *testing.T, s *store.Store) {
		for name, test := range map[string]struct {
			hold     bool
			decision payment.Decision
			want     payment.State
			reasons  []payment.Reason
		}{
			"approved":                       {false, payment.Approve, payment.Assessed, nil},
			"approved, with money set aside": {true, payment.Approve, payment.Assessed, nil},
			"refused":                        {false, payment.Reject, payment.Refused, payment.Because(payment.CodeReviewRefused)},
			"refused, with money that may be set aside": {true, payment.Reject, payment.Releasing, payment.Because(payment.CodeReviewRefused)},
		} {
			p := create(t, s, order("request, "+name, "acc-a", "acc-b"))
			if test.hold {
				p = bring(t, s, p, payment.Held)
			}
			p = advance(t, s, p, payment.InReview, payment.Reason{Code: "A"})
			got, err := decide(t.Context(), s, p.ID, test.decision)
			if err != nil || got.State != test.want || got.Version != p.Version+1 || !cmp.Equal(test.reasons, got.Reasons) {
				t.Errorf("%s: %s, version %d, %v (%v); want %s", name, got.State, got.Version, got.Reasons, err, test.want)
			}
			again, err := decide(t.Context(), s, p.ID, test.decision)
			if diff := cmp.Diff(got, again); diff != "" || err != nil {
				t.Errorf("%s: the same decision again: %v; -want +got:\n%s", name, err, diff)
			}
			if _, err := decide(t.Context(), s, p.ID, 3-test.decision); !errors.Is(err, payment.ErrNotInReview) {
				t.Errorf("%s: then the other decision: %v, want ErrNotInReview", name, err)
			}
		}
	})
}

func TestWhatIsNotInReviewIsNotDecidedOn(t *testing.T) {
	t.Parallel()
	each(t, func(t *testing.T, s *store.Store) {
		for state := payment.Created; state <= payment.Releasing; state++ {
			if state == payment.InReview {
				continue
			}
			p := bring(t, s, create(t, s, order("request-"+state.String(), "acc-a", "acc-b")), state)
			if _, err := decide(t.Context(), s, p.ID, payment.Approve); !errors.Is(err, payment.ErrNotInReview) {
				t.Errorf("%s: %v, want ErrNotInReview", state, err)
			}
		}
		if _, err := decide(t.Context(), s, "pay-none", payment.Approve); !errors.Is(err, payment.ErrNotFound) {
			t.Errorf("no payment: %v, want ErrNotFound", err)
		}
	})
}

// A payment that comes back into review is decided on anew, whatever was decided the first time.
func TestASecondReviewDecidesAnew(t *testing.T) {
	t.Parallel()
	each(t, func(t *testing.T, s *store.Store) {
		p := bring(t, s, create(t, s, order("request-1", "acc-a", "acc-b")), payment.InReview)
		p, err := decide(t.Context(), s, p.ID, payment.Approve)
		if err != nil {
			t.Fatal(err)
		}
		advance(t, s, p, payment.InReview, payment.Because(payment.CodeLedgerRejected)...)
		if p, err = decide(t.Context(), s, p.ID, payment.Reject); err != nil || p.State != payment.Refused {
			t.Errorf("%s (%v), want refused", p.State, err)
		}
		if _, err := decide(t.Context(), s, p.ID, payment.Approve); !errors.Is(err, payment.ErrNotInReview) {
			t.Errorf("the first decision again: %v, want ErrNotInReview", err)
		}
	})
}

// Two persons, and a verdict of risk, at the same moment: one of them decides.
func TestOfManyDecisionsAtOnceOneIsTaken(t *testing.T) {
	t.Parallel()
	each(t, func(t *testing.T, s *store.Store) {
		for n := range 10 {
			p := create(t, s, order("request-"+string(rune('a'+n)), "acc-a", "acc-b"))
			p = advance(t, s, p, payment.InReview, payment.Because(payment.CodeRiskUnavailable)...)
			var group sync.WaitGroup
			errs := make([]error, 2)
			group.Go(func() { _, errs[0] = decide(context.Background(), s, p.ID, payment.Approve) })
			group.Go(func() { _, errs[1] = decide(context.Background(), s, p.ID, payment.Reject) })
			group.Go(func() {
				if _, err := s.Advance(context.Background(), p, payment.Step{To: payment.Refused, Time: noon}); err != nil {
					t.Error(err)
				}
			})
			group.Wait()
			taken := 0
			for _, err := range errs {
				if err == nil {
					taken++
				} else if !errors.Is(err, payment.ErrNotInReview) {
					t.Error(err)
				}
			}
			changes, err := s.Changes(t.Context(), "acc-a", 0, 1000)
			if err != nil {
				t.Fatal(err)
			}
			if len(changes) != 3*(n+1) || taken > 1 {
				t.Errorf("%d changes after %d payments, want 3 for each; %d decisions taken", len(changes), n+1, taken)
			}
		}
	})
}
