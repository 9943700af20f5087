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

// decide decides on a payment as it was seen.
func decide(ctx context.Context, s *store.Store, seen payment.Payment, decision payment.Decision) (payment.Payment, error) {
	return s.Review(ctx, seen.ID, payment.Review{Version: seen.Version, Decision: decision, By: "spiffe://bank.test/operator", Time: noon})
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
			got, err := decide(t.Context(), s, p, test.decision)
			if err != nil || got.State != test.want || got.Version != p.Version+1 || !cmp.Equal(test.reasons, got.Reasons) {
				t.Errorf("%s: %s, version %d, %v (%v); want %s", name, got.State, got.Version, got.Reasons, err, test.want)
			}
			again, err := decide(t.Context(), s, p, test.decision)
			if diff := cmp.Diff(got, again); diff != "" || err != nil {
				t.Errorf("%s: the same decision again: %v; -want +got:\n%s", name, err, diff)
			}
			if _, err := decide(t.Context(), s, p, 3-test.decision); !errors.Is(err, payment.ErrNotInReview) {
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
			if _, err := decide(t.Context(), s, p, payment.Approve); !errors.Is(err, payment.ErrNotInReview) {
				t.Errorf("%s: %v, want ErrNotInReview", state, err)
			}
		}
		if _, err := decide(t.Context(), s, payment.Payment{ID: "pay-none", Version: 1}, payment.Approve); !errors.Is(err, payment.ErrNotFound) {
			t.Errorf("no payment: %v, want ErrNotFound", err)
		}
	})
}

// A payment that comes back into review is decided on anew, whatever was decided the first time. A decision is on what its person has seen:
// one that comes late, or once more, decides on nothing else.
func TestASecondReviewDecidesAnew(t *testing.T) {
	t.Parallel()
	each(t, func(t *testing.T, s *store.Store) {
		first := bring(t, s, create(t, s, order("request-1", "acc-a", "acc-b")), payment.InReview)
		approved, err := decide(t.Context(), s, first, payment.Approve)
		if err != nil {
			t.Fatal(err)
		}
		second := advance(t, s, approved, payment.InReview, payment.Because(payment.CodeLedgerRejected)...)
		again, err := decide(t.Context(), s, first, payment.Approve)
		if diff := cmp.Diff(second, again); err != nil || diff != "" {
			t.Errorf("the first decision again: %v; -in review +answered:\n%s", err, diff)
		}
		for name, seen := range map[string]payment.Payment{"the first": first, "none that was in review": approved} {
			if _, err := decide(t.Context(), s, seen, payment.Reject); !errors.Is(err, payment.ErrNotInReview) {
				t.Errorf("the other decision on %s: %v, want ErrNotInReview", name, err)
			}
		}
		refused, err := decide(t.Context(), s, second, payment.Reject)
		if err != nil || refused.State != payment.Releasing { // the ledger may have set money aside
			t.Errorf("%s (%v), want releasing", refused.State, err)
		}
		for name, seen := range map[string]payment.Payment{"the first": first, "the second": second} {
			want := map[payment.Decision]bool{payment.Approve: seen.Version == first.Version, payment.Reject: seen.Version == second.Version}
			for decision, taken := range want {
				got, err := decide(t.Context(), s, seen, decision)
				if taken && (err != nil || got.State != payment.Releasing) || !taken && !errors.Is(err, payment.ErrNotInReview) {
					t.Errorf("in the end, %s on %s: %s (%v)", decision, name, got.State, err)
				}
			}
		}
	})
}

// Risk has said what it thinks since a person has looked.
func TestAReviewOfWhatHasChangedIsNone(t *testing.T) {
	t.Parallel()
	each(t, func(t *testing.T, s *store.Store) {
		seen := advance(t, s, create(t, s, order("request-1", "acc-a", "acc-b")), payment.InReview, payment.Because(payment.CodeRiskUnavailable)...)
		want := advance(t, s, seen, payment.InReview, payment.Reason{Code: "AMOUNT_CEILING"})
		if _, err := decide(t.Context(), s, seen, payment.Approve); !errors.Is(err, payment.ErrNotInReview) {
			t.Errorf("%v, want ErrNotInReview", err)
		}
		got, err := s.Get(t.Context(), seen.ID)
		if diff := cmp.Diff(want, got); err != nil || diff != "" {
			t.Errorf("%v; -want +got:\n%s", err, diff)
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
			group.Go(func() { _, errs[0] = decide(context.Background(), s, p, payment.Approve) })
			group.Go(func() { _, errs[1] = decide(context.Background(), s, p, payment.Reject) })
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
