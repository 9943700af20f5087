package store_test

import (
	"fmt"
	"slices"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/countersign-mesh/countersign/services/payments/internal/payment"
	"github.com/countersign-mesh/countersign/services/payments/internal/store"
)

func TestUnfinishedFindsExactlyThoseUnderWay(t *testing.T) {
	t.Parallel()
	each(t, func(t *testing.T, s *store.Store) {
		var want []string
		for state := payment.Created; state <= payment.Releasing; state++ {
			p := bring(t, s, create(t, s, order("request-"+state.String(), "acc-a", "acc-b")), state)
			if state != payment.Posted && state != payment.Refused && state != payment.InReview {
				want = append(want, p.ID)
			}
		}
		away := advance(t, s, create(t, s, order("request-away", "acc-a", "acc-b")), payment.InReview, payment.Because(payment.CodeRiskUnavailable)...)
		want = append(want, away.ID)
		var got []string
		for after := int64(0); ; {
			ids, last, err := s.Unfinished(t.Context(), after, 1)
			if err != nil {
				t.Fatal(err)
			}
			if len(ids) == 0 {
				break
			}
			got, after = append(got, ids...), last
		}
		if diff := cmp.Diff(want, got); diff != "" {
			t.Errorf("-want +got:\n%s", diff)
		}
	})
}

func TestARefusalForWantOfMoneyIsLookedAtOnceMoreWhenNoRequestIsUnderWay(t *testing.T) {
	t.Parallel()
	each(t, func(t *testing.T, s *store.Store) {
		p := bring(t, s, create(t, s, order("request-1", "acc-a", "acc-b")), payment.Assessed)
		p = advance(t, s, p, payment.Refused)
		bring(t, s, create(t, s, order("request-2", "acc-a", "acc-b")), payment.Refused) // by risk: nothing was set aside
		due := func(at time.Time) []string {
			return lateHolds(t, s, at, 10)
		}
		if got := due(p.UpdateTime.Add(5*time.Minute - time.Microsecond)); len(got) != 0 {
			t.Errorf("%v is due while a request may be under way", got)
		}
		if diff := cmp.Diff([]string{p.ID}, due(p.UpdateTime.Add(5*time.Minute))); diff != "" {
			t.Errorf("-want +got:\n%s", diff)
		}
		if err := s.Released(t.Context(), p.ID); err != nil {
			t.Fatal(err)
		}
		if got := due(p.UpdateTime.Add(time.Hour)); len(got) != 0 {
			t.Errorf("%v is due after it was released", got)
		}
	})
}

// Pages go on where the last one ended, also among payments that come due at the same moment.
func TestLateHoldsComeInPagesEachOnceTheOldestFirst(t *testing.T) {
	t.Parallel()
	each(t, func(t *testing.T, s *store.Store) {
		var want []string
		for n := range 3 {
			var sameTime []string
			for m := range 3 {
				id := create(t, s, order(fmt.Sprintf("request-%d-%d", n, m), "acc-a", "acc-b")).ID
				if err := s.HoldCame(t.Context(), id, noon.Add(time.Duration(n)*time.Second)); err != nil {
					t.Fatal(err)
				}
				sameTime = append(sameTime, id)
			}
			slices.Sort(sameTime)
			want = append(want, sameTime...)
		}
		if err := s.HoldCame(t.Context(), want[8], noon); err != nil { // it is known when
			t.Fatal(err)
		}
		for _, size := range []int{1, 2, 3, 9, 10} {
			if diff := cmp.Diff(want, lateHolds(t, s, noon.Add(2*time.Second), size)); diff != "" {
				t.Errorf("pages of %d: -want +got:\n%s", size, diff)
			}
		}
		if diff := cmp.Diff(want[:6], lateHolds(t, s, noon.Add(time.Second), 4)); diff != "" {
			t.Errorf("a second before: -want +got:\n%s", diff)
		}
	})
}

// lateHolds returns what is due, read in pages.
func lateHolds(t *testing.T, s *store.Store, at time.Time, size int) (ids []string) {
	t.Helper()
	for after := (payment.LateHold{}); ; {
		page, err := s.LateHolds(t.Context(), at, after, size)
		if err != nil {
			t.Fatal(err)
		}
		for _, late := range page {
			ids = append(ids, late.PaymentID)
			after = late
		}
		if len(page) < size {
			return ids
		}
	}
}

func TestChangesAreEveryStateOfEachPaymentForBothSides(t *testing.T) {
	t.Parallel()
	each(t, func(t *testing.T, s *store.Store) {
		p := bring(t, s, create(t, s, order("request-1", "acc-a", "acc-b")), payment.Assessed)
		q := create(t, s, order("request-2", "acc-b", "acc-c"))
		advance(t, s, p, payment.Refused, payment.Reason{Code: "INSUFFICIENT_FUNDS"})
		latest := map[string]int64{}
		for account, want := range map[string][]string{
			"acc-a": {p.ID + " created 0", p.ID + " assessed 0", p.ID + " refused 1"},
			"acc-b": {p.ID + " created 0", p.ID + " assessed 0", q.ID + " created 0", p.ID + " refused 1"},
			"acc-c": {q.ID + " created 0"},
			"acc-d": nil,
		} {
			var got []string
			for after := int64(0); ; {
				changes, err := s.Changes(t.Context(), account, after, 2)
				if err != nil {
					t.Fatal(err)
				}
				for _, c := range changes {
					if c.Sequence != after+1 {
						t.Errorf("%s: sequence %d after %d", account, c.Sequence, after)
					}
					after = c.Sequence
					latest[account] = after
					got = append(got, fmt.Sprintf("%s %s %d", c.Payment.ID, c.Payment.State, len(c.Payment.Reasons)))
				}
				if len(changes) < 2 {
					break
				}
			}
			if diff := cmp.Diff(want, got); diff != "" {
				t.Errorf("%s: -want +got:\n%s", account, diff)
			}
		}
		accounts := []string{"acc-a", "acc-b", "acc-c", "acc-d"}
		for n := range 1000 { // more than one query takes
			accounts = append(accounts, fmt.Sprintf("acc-%d", n))
		}
		got, err := s.Latest(t.Context(), accounts)
		if err != nil {
			t.Fatal(err)
		}
		if diff := cmp.Diff(latest, got); diff != "" {
			t.Errorf("latest: -want +got:\n%s", diff)
		}
	})
}
