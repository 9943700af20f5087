package store_test

import (
	"context"
	"errors"
	"fmt"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/countersign-mesh/countersign/pkg/database/databasetest"
	"github.com/countersign-mesh/countersign/services/ledger/internal/ledger"
	"github.com/countersign-mesh/countersign/services/ledger/internal/store"
)

// hold is a hold of EUR.
func hold(id, account string, minor int64) ledger.Hold {
	return ledger.Hold{ID: id, Account: account, Amount: eur(minor)}
}

// capture is a transfer of EUR out of a hold.
func capture(id, holdID, from, to string, minor int64) ledger.Transfer {
	t := pay(id, from, to, minor)
	t.HoldID = holdID
	return t
}

func mustReserve(t *testing.T, s *store.Store, h ledger.Hold) ledger.Hold {
	t.Helper()
	made, err := s.Reserve(t.Context(), h)
	if err != nil {
		t.Fatal(err)
	}
	return made
}

// held returns how much of an account's EUR is held.
func held(t *testing.T, s *store.Store, account string) int64 {
	t.Helper()
	balances, err := s.Balances(context.WithoutCancel(t.Context()), account)
	if err != nil {
		t.Fatal(err)
	}
	for _, b := range balances {
		if b.Currency == "EUR" {
			return b.Held
		}
	}
	return 0
}

// action does something in the n-th case: each has accounts and IDs of its own in the same books, since a database a case would take long.
type action func(ctx context.Context, s *store.Store, n int) error

// mine returns the case's own account; 0 is the bank's cash.
func mine(n, a int) string {
	if a == 0 {
		return cash
	}
	return account(10*n + a)
}

func reserving(id string, a int, minor int64) action {
	return func(ctx context.Context, s *store.Store, n int) error {
		_, err := s.Reserve(ctx, hold(fmt.Sprintf("%s-%d", id, n), mine(n, a), minor))
		return err
	}
}

// posting is a transfer, out of a hold if one is named.
func posting(id, holdID string, from, to int, minor int64) action {
	return func(ctx context.Context, s *store.Store, n int) error {
		t := pay(fmt.Sprintf("%s-%d", id, n), mine(n, from), mine(n, to), minor)
		if holdID != "" {
			t.HoldID = fmt.Sprintf("%s-%d", holdID, n)
		}
		_, err := s.Post(ctx, t)
		return err
	}
}

func releasing(id string) action {
	return func(ctx context.Context, s *store.Store, n int) error {
		_, err := s.Release(ctx, fmt.Sprintf("%s-%d", id, n))
		return err
	}
}

// Each case begins with an account that has 100, of which hold h has 60, and does one thing after what happened before.
func TestTheLifeOfAHold(t *testing.T) {
	t.Parallel()
	var (
		again     = reserving("h", 1, 60)
		captured  = posting("payment", "h", 1, 2, 60)
		released  = releasing("h")
		spendRest = posting("other", "", 1, 2, 40)
	)
	const active, isCaptured, isReleased = ledger.HoldActive, ledger.HoldCaptured, ledger.HoldReleased
	tests := []struct {
		name        string
		before      action
		do          action
		want        error
		minor, held int64 // of the account afterwards
		state       ledger.HoldState
	}{
		{"the same again", nil, again, nil, 100, 60, active},
		{"another amount", nil, reserving("h", 1, 61), ledger.ErrConflict, 100, 60, active},
		{"another account", nil, reserving("h", 2, 60), ledger.ErrConflict, 100, 60, active},
		{"a second one of the rest", nil, reserving("h2", 1, 40), nil, 100, 100, active},
		{"a second one of more", nil, reserving("h2", 1, 41), ledger.ErrInsufficientFunds, 100, 60, active},
		{"to spend the rest", nil, spendRest, nil, 60, 60, active},
		{"to spend held money", nil, posting("other", "", 1, 2, 41), ledger.ErrInsufficientFunds, 100, 60, active},
		{"to capture it", nil, captured, nil, 40, 0, isCaptured},
		{"to capture it when the rest is spent", spendRest, captured, nil, 0, 0, isCaptured},
		{"to capture a part", nil, posting("payment", "h", 1, 2, 50), nil, 50, 0, isCaptured},
		{"to capture more", nil, posting("payment", "h", 1, 2, 61), ledger.ErrInvalid, 100, 60, active},
		{"to capture it for another account", nil, posting("payment", "h", 0, 2, 60), ledger.ErrInvalid, 100, 60, active},
		{"to capture another one", nil, posting("payment", "x", 1, 2, 60), ledger.ErrNoHold, 100, 60, active},
		{"to capture it again", captured, captured, nil, 40, 0, isCaptured},
		{"to capture it by another transfer", captured, posting("other", "h", 1, 2, 1), ledger.ErrHoldCaptured, 40, 0, isCaptured},
		{"its transfer without it", captured, posting("payment", "", 1, 2, 60), ledger.ErrConflict, 40, 0, isCaptured},
		{"to release it", nil, released, nil, 100, 0, isReleased},
		{"to release it again", released, released, nil, 100, 0, isReleased},
		{"to release another one", nil, releasing("x"), ledger.ErrNoHold, 100, 60, active},
		{"to release a captured one", captured, released, ledger.ErrHoldCaptured, 40, 0, isCaptured},
		{"to capture a released one", released, captured, ledger.ErrHoldReleased, 100, 0, isReleased},
		{"to make a released one again", released, again, nil, 100, 0, isReleased},
		{"to make a captured one again", captured, again, nil, 40, 0, isCaptured},
	}
	databasetest.Each(t, func(t *testing.T, dsn string) {
		s := openStore(t, dsn)
		for i, tt := range tests {
			t.Run(tt.name, func(t *testing.T) {
				n := i + 1
				for _, do := range []action{posting("deposit", "", 0, 1, 100), again, tt.before} {
					if do == nil {
						continue
					}
					if err := do(t.Context(), s, n); err != nil {
						t.Fatal(err)
					}
				}
				if err := tt.do(t.Context(), s, n); !errors.Is(err, tt.want) {
					t.Errorf("it answers %v, want %v", err, tt.want)
				}
				if minor, held := balance(t, s, mine(n, 1)), held(t, s, mine(n, 1)); minor != tt.minor || held != tt.held {
					t.Errorf("the account has %d, of which %d are held; want %d and %d", minor, held, tt.minor, tt.held)
				}
				if h := mustReserve(t, s, hold(fmt.Sprintf("h-%d", n), mine(n, 1), 60)); h.State != tt.state {
					t.Errorf("the hold is %v, want %v", h.State, tt.state)
				}
			})
		}
		mustBalance(t, s)
	})
}

func TestHoldsAreListedOldestFirstAndInPages(t *testing.T) {
	t.Parallel()
	databasetest.Each(t, func(t *testing.T, dsn string) {
		at := time.Date(2026, 1, 1, 0, 0, 0, 0, time.UTC)
		s := openStore(t, dsn, store.WithClock(func() time.Time { return at }))
		mustPost(t, s, pay("deposit-1", cash, account(1), 100))
		mustPost(t, s, pay("deposit-2", cash, account(2), 100))
		for i := range 7 {
			mustReserve(t, s, hold(fmt.Sprintf("h-%d", 9-i), account(1), int64(i+1)))
			mustReserve(t, s, hold(fmt.Sprintf("other-%d", i), account(2), 1))
		}
		for _, id := range []string{"h-8", "h-5"} {
			if _, err := s.Release(t.Context(), id); err != nil {
				t.Fatal(err)
			}
		}
		var got []ledger.Hold
		for after, page := int64(0), 0; page == 0 || after != 0; page++ {
			holds, next, err := s.Holds(t.Context(), account(1), after, 2)
			if err != nil {
				t.Fatal(err)
			}
			got, after = append(got, holds...), next
		}
		var want []ledger.Hold
		for _, i := range []int{0, 2, 3, 5, 6} {
			h := hold(fmt.Sprintf("h-%d", 9-i), account(1), int64(i+1))
			h.State, h.CreateTime = ledger.HoldActive, at
			want = append(want, h)
		}
		if diff := cmp.Diff(want, got); diff != "" {
			t.Errorf("holds (-want +got):\n%s", diff)
		}
		if holds, next, err := s.Holds(t.Context(), account(3), 0, 1); err != nil || len(holds) != 0 || next != 0 {
			t.Errorf("Holds of an account without any = %v, %d, %v", holds, next, err)
		}
	})
}

func TestAHoldTellsWhatBecameOfIt(t *testing.T) {
	t.Parallel()
	databasetest.Each(t, func(t *testing.T, dsn string) {
		var seconds atomic.Int64
		start := time.Date(2026, 1, 1, 0, 0, 0, 0, time.UTC)
		s := openStore(t, dsn, store.WithClock(func() time.Time { return start.Add(time.Duration(seconds.Load()) * time.Second) }))
		mustPost(t, s, pay("deposit-1", cash, account(1), 100))
		want := hold("h-1", account(1), 60)
		want.State, want.CreateTime = ledger.HoldActive, start
		if diff := cmp.Diff(want, mustReserve(t, s, hold("h-1", account(1), 60))); diff != "" {
			t.Errorf("a new hold (-want +got):\n%s", diff)
		}
		seconds.Add(1)
		mustPost(t, s, capture("payment-1", "h-1", account(1), account(2), 60))
		seconds.Add(1)
		want.State, want.TransferID, want.EndTime = ledger.HoldCaptured, "payment-1", start.Add(time.Second)
		if diff := cmp.Diff(want, mustReserve(t, s, hold("h-1", account(1), 60))); diff != "" {
			t.Errorf("a captured hold (-want +got):\n%s", diff)
		}
	})
}

// ATTACKS 62 and 63: holds, captures and releases of the same money at once, by two processes.
func TestHeldMoneyIsSpentOnce(t *testing.T) {
	t.Parallel()
	databasetest.Each(t, func(t *testing.T, dsn string) {
		stores := []*store.Store{openStore(t, dsn), openStore(t, dsn)}
		const rounds, callers = 8, 12
		for round := range rounds {
			from, to := account(2*round), account(2*round+1)
			mustPost(t, stores[0], pay(fmt.Sprintf("deposit-%d", round), cash, from, 100))
			id := fmt.Sprintf("h-%d", round)
			mustReserve(t, stores[0], hold(id, from, 100))
			var captured, released atomic.Int64
			var wg sync.WaitGroup
			for i := range callers {
				wg.Go(func() {
					s := stores[i%2]
					var err error
					if i%3 == 0 {
						if _, err = s.Release(t.Context(), id); err == nil {
							released.Add(1)
						}
					} else if _, err = s.Post(t.Context(), capture(fmt.Sprintf("payment-%d-%d", round, i), id, from, to, 100)); err == nil {
						captured.Add(1)
					}
					if err != nil && !errors.Is(err, ledger.ErrHoldCaptured) && !errors.Is(err, ledger.ErrHoldReleased) {
						t.Error(err)
					}
				})
			}
			wg.Wait()
			if captured.Load() > 1 || (captured.Load() == 1) == (released.Load() > 0) {
				t.Errorf("captured by %d and released by %d", captured.Load(), released.Load())
			}
			if got := balance(t, stores[1], to); got != 100*captured.Load() {
				t.Errorf("%d captures brought %d", captured.Load(), got)
			}
			if got := held(t, stores[1], from); got != 0 {
				t.Errorf("%d is held still", got)
			}
		}
		mustBalance(t, stores[0])
	})
}
