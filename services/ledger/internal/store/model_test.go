package store_test

import (
	"cmp"
	"errors"
	"fmt"
	"slices"
	"sync"
	"testing"

	"pgregory.net/rapid"

	"github.com/countersign-mesh/countersign/pkg/database/databasetest"
	"github.com/countersign-mesh/countersign/services/ledger/internal/ledger"
	"github.com/countersign-mesh/countersign/services/ledger/internal/store"
)

// model is the books as simple as they can be said: the balances are added up anew for each question.
type model struct {
	transfers []ledger.Transfer
	holds     []ledger.Hold
}

func (m *model) minor(account string) (sum int64) {
	for _, t := range m.transfers {
		for _, p := range t.Postings {
			if p.Account == account {
				sum += p.Amount.Minor
			}
		}
	}
	return sum
}

func (m *model) held(account string) (sum int64) {
	for _, h := range m.holds {
		if h.Account == account && h.State == ledger.HoldActive {
			sum += h.Amount.Minor
		}
	}
	return sum
}

func (m *model) hold(id string) *ledger.Hold {
	for i := range m.holds {
		if m.holds[i].ID == id {
			return &m.holds[i]
		}
	}
	return nil
}

func (m *model) post(t ledger.Transfer) error {
	for _, first := range m.transfers {
		if first.ID == t.ID {
			if first.Digest() != t.Digest() {
				return ledger.ErrConflict
			}
			return nil
		}
	}
	from, minor := t.Postings[0].Account, t.Postings[1].Amount.Minor
	available := m.minor(from) - m.held(from)
	if t.HoldID != "" {
		h := m.hold(t.HoldID)
		switch {
		case h == nil:
			return ledger.ErrNoHold
		case h.State == ledger.HoldReleased:
			return ledger.ErrHoldReleased
		case h.State == ledger.HoldCaptured:
			return ledger.ErrHoldCaptured
		case h.Account != from || h.Amount.Minor < minor:
			return ledger.ErrInvalid
		}
		h.State = ledger.HoldCaptured
	} else if available < minor && !ledger.MayOverdraw(from) {
		return ledger.ErrInsufficientFunds
	}
	m.transfers = append(m.transfers, t)
	return nil
}

func (m *model) reserve(h ledger.Hold) error {
	if first := m.hold(h.ID); first != nil {
		if first.Digest() != h.Digest() {
			return ledger.ErrConflict
		}
		return nil
	}
	if m.minor(h.Account)-m.held(h.Account) < h.Amount.Minor {
		return ledger.ErrInsufficientFunds
	}
	h.State = ledger.HoldActive
	m.holds = append(m.holds, h)
	return nil
}

func (m *model) release(id string) error {
	h := m.hold(id)
	switch {
	case h == nil:
		return ledger.ErrNoHold
	case h.State == ledger.HoldCaptured:
		return ledger.ErrHoldCaptured
	}
	h.State = ledger.HoldReleased
	return nil
}

// Whatever is asked of them, the books agree with the model.
func TestTheBooksAgreeWithAModel(t *testing.T) {
	t.Parallel()
	databasetest.Each(t, func(t *testing.T, dsn string) {
		s := openStore(t, dsn)
		run := 0
		rapid.Check(t, func(rt *rapid.T) {
			run++ // each run has accounts and IDs of its own in the same books
			mine := func(label string, names ...string) string {
				return fmt.Sprintf("%s-%d", rapid.SampledFrom(names).Draw(rt, label), run)
			}
			customer := func(label string) string { return mine(label, "acc-a", "acc-b") }
			var m model
			check := func(what string, err, want error) {
				if !errors.Is(err, want) {
					rt.Fatalf("%s = %v, want %v", what, err, want)
				}
			}
			rt.Repeat(map[string]func(*rapid.T){
				"deposit": func(rt *rapid.T) {
					deposit := pay(mine("id", "d", "e"), fmt.Sprintf("bank-cash-%d", run), customer("to"), rapid.Int64Range(1, 9).Draw(rt, "amount"))
					_, err := s.Post(t.Context(), deposit)
					check("deposit", err, m.post(deposit))
				},
				"post": func(rt *rapid.T) {
					transfer := pay(mine("id", "t", "u", "v"), customer("from"), fmt.Sprintf("acc-c-%d", run), rapid.Int64Range(1, 5).Draw(rt, "amount"))
					_, err := s.Post(t.Context(), transfer)
					check("post", err, m.post(transfer))
				},
				"capture": func(rt *rapid.T) {
					transfer := capture(mine("id", "t", "u", "v"), mine("hold", "g", "h", "i"), customer("from"), fmt.Sprintf("acc-c-%d", run), rapid.Int64Range(1, 5).Draw(rt, "amount"))
					_, err := s.Post(t.Context(), transfer)
					check("capture", err, m.post(transfer))
				},
				"reserve": func(rt *rapid.T) {
					h := hold(mine("hold", "g", "h", "i"), customer("account"), rapid.Int64Range(1, 5).Draw(rt, "amount"))
					_, err := s.Reserve(t.Context(), h)
					check("reserve", err, m.reserve(h))
				},
				"release": func(*rapid.T) {
					id := mine("hold", "g", "h", "i")
					_, err := s.Release(t.Context(), id)
					check("release", err, m.release(id))
				},
			})
			m.mustBe(t, rt, s, run)
		})
		mustBalance(t, s)
	})
}

// mustBe compares the books of a run with the model.
func (m *model) mustBe(t *testing.T, rt *rapid.T, s *store.Store, run int) {
	t.Helper()
	for _, name := range []string{"bank-cash", "acc-a", "acc-b", "acc-c"} {
		a := fmt.Sprintf("%s-%d", name, run)
		balances, err := s.Balances(t.Context(), a)
		if err != nil {
			rt.Fatal(err)
		}
		var got ledger.Balance
		if len(balances) > 0 {
			got = balances[0]
		}
		if got.Minor != m.minor(a) || got.Held != m.held(a) {
			rt.Fatalf("%s has %d, of which %d are held; want %d and %d", a, got.Minor, got.Held, m.minor(a), m.held(a))
		}
	}
}

// A batch is as good as its requests one after the other: what many ask at once is what some order of them gives.
func TestRequestsAtOnceAreLikeSomeOrderOfThem(t *testing.T) {
	t.Parallel()
	databasetest.Each(t, func(t *testing.T, dsn string) {
		s := openStore(t, dsn)
		const rounds, callers = 10, 32
		for round := range rounds {
			a, b := account(2*round), account(2*round+1)
			mustPost(t, s, pay(fmt.Sprintf("deposit-%d", round), cash, a, 10))
			var wg sync.WaitGroup
			for i := range callers {
				wg.Go(func() {
					from, to := a, b
					if i%2 == 1 {
						from, to = b, a // that spends what another one of the batch brought
					}
					if _, err := s.Post(t.Context(), pay(fmt.Sprintf("payment-%d-%d", round, i/2*2), from, to, 4)); err != nil &&
						!errors.Is(err, ledger.ErrInsufficientFunds) && !errors.Is(err, ledger.ErrConflict) {
						t.Error(err)
					}
				})
			}
			wg.Wait()
			mustFollow(t, s, a, b)
		}
		mustBalance(t, s)
	})
}

// mustFollow checks that the entries of accounts, in their order, never go below zero and lead to their balances.
func mustFollow(t *testing.T, s *store.Store, accounts ...string) {
	t.Helper()
	for _, a := range accounts {
		entries, _, err := s.Entries(t.Context(), a, 0, 1000)
		if err != nil {
			t.Fatal(err)
		}
		slices.SortFunc(entries, func(a, b ledger.Entry) int { return cmp.Compare(a.Sequence, b.Sequence) })
		var sum int64
		for _, e := range entries {
			if sum += e.Amount.Minor; sum != e.BalanceAfter.Minor || sum < 0 {
				t.Errorf("%s: after entry %d the balance is %d, by the entries %d", a, e.Sequence, e.BalanceAfter.Minor, sum)
			}
		}
		if got := balance(t, s, a); got != sum {
			t.Errorf("%s has %d, by its entries %d", a, got, sum)
		}
	}
}
