package store_test

import (
	"errors"
	"math"
	"slices"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/countersign-mesh/countersign/pkg/database/databasetest"
	"github.com/countersign-mesh/countersign/services/ledger/internal/ledger"
	"github.com/countersign-mesh/countersign/services/ledger/internal/store"
)

func TestATransferMovesMoney(t *testing.T) {
	t.Parallel()
	databasetest.Each(t, func(t *testing.T, dsn string) {
		now := time.Date(2026, 5, 4, 3, 2, 1, 987654321, time.UTC)
		s := openStore(t, dsn, store.WithClock(func() time.Time { return now }))
		posted := mustPost(t, s, pay("deposit-1", cash, account(1), 500))
		mustPost(t, s, pay("payment-1", account(1), account(2), 200))
		if want := now.Truncate(time.Microsecond); !posted.Time.Equal(want) {
			t.Errorf("posted at %v, want %v", posted, want)
		}
		for account, want := range map[string]int64{cash: -500, account(1): 300, account(2): 200, account(3): 0} {
			if got := balance(t, s, account); got != want {
				t.Errorf("balance of %s = %d, want %d", account, got, want)
			}
		}
		want := ledger.TrialBalance{Sums: []ledger.Money{eur(0)}, Transfers: 2, Entries: 4}
		if diff := cmp.Diff(want, mustBalance(t, s)); diff != "" {
			t.Errorf("trial balance (-want +got):\n%s", diff)
		}
	})
}

func TestBalancesAreByCurrency(t *testing.T) {
	t.Parallel()
	databasetest.Each(t, func(t *testing.T, dsn string) {
		s := openStore(t, dsn)
		mustPost(t, s, ledger.Transfer{ID: "deposit-1", Postings: []ledger.Posting{
			{Account: account(1), Amount: ledger.Money{Currency: "USD", Minor: 7}},
			{Account: cash, Amount: ledger.Money{Currency: "USD", Minor: -7}},
			{Account: account(1), Amount: eur(5)},
			{Account: cash, Amount: eur(-5)},
		}})
		got, err := s.Balances(t.Context(), account(1))
		if err != nil {
			t.Fatal(err)
		}
		if diff := cmp.Diff([]ledger.Balance{{Money: eur(5)}, {Money: ledger.Money{Currency: "USD", Minor: 7}}}, got); diff != "" {
			t.Errorf("balances (-want +got):\n%s", diff)
		}
		// Money in one currency pays nothing in another.
		_, err = s.Post(t.Context(), pay("payment-1", account(1), account(2), 6))
		if !errors.Is(err, ledger.ErrInsufficientFunds) {
			t.Errorf("Post = %v, want ErrInsufficientFunds", err)
		}
	})
}

func TestACustomerCannotOverdraw(t *testing.T) {
	t.Parallel()
	databasetest.Each(t, func(t *testing.T, dsn string) {
		s := openStore(t, dsn)
		mustPost(t, s, pay("deposit-1", cash, account(1), 100))
		_, err := s.Post(t.Context(), pay("payment-1", account(1), account(2), 101))
		var funds *ledger.InsufficientFundsError
		if !errors.As(err, &funds) || !errors.Is(err, ledger.ErrInsufficientFunds) {
			t.Fatalf("Post = %v, want InsufficientFunds", err)
		}
		if diff := cmp.Diff(&ledger.InsufficientFundsError{Account: account(1), Currency: "EUR"}, funds); diff != "" {
			t.Errorf("where (-want +got):\n%s", diff)
		}
		if sums := mustBalance(t, s); sums.Transfers != 1 || sums.Entries != 2 {
			t.Errorf("the refused transfer left something: %+v", sums)
		}
		// The ID was not used up, and the last cent can go.
		mustPost(t, s, pay("payment-1", account(1), account(2), 100))
		if got := balance(t, s, account(1)); got != 0 {
			t.Errorf("balance = %d, want 0", got)
		}
	})
}

func TestATransferIsWhole(t *testing.T) {
	t.Parallel()
	databasetest.Each(t, func(t *testing.T, dsn string) {
		s := openStore(t, dsn)
		mustPost(t, s, pay("deposit-1", cash, account(1), 100))
		// The last posting fails; those before it had been written.
		_, err := s.Post(t.Context(), ledger.Transfer{ID: "split-1", Postings: []ledger.Posting{
			{Account: account(2), Amount: eur(50)}, {Account: account(3), Amount: eur(60)}, {Account: account(1), Amount: eur(-110)},
		}})
		if !errors.Is(err, ledger.ErrInsufficientFunds) {
			t.Fatalf("Post = %v, want ErrInsufficientFunds", err)
		}
		if got := balance(t, s, account(2)) + balance(t, s, account(3)); got != 0 {
			t.Errorf("part of a refused transfer arrived: %d", got)
		}
		mustBalance(t, s)
	})
}

func TestABalanceStaysInRange(t *testing.T) {
	t.Parallel()
	const most = 1_000_000_000_000_000
	for name, wrong := range map[string]ledger.Transfer{
		"a customer's account would go above it":    pay("payment-1", "bank-b", account(1), 1),
		"one of the bank's own would go below it":   pay("payment-1", "bank-a", account(2), 1),
		"one of the bank's own would go above it":   pay("payment-1", "bank-b", "bank-full", 1),
		"an amount alone is more than int64 allows": pay("payment-1", "bank-a", account(2), math.MaxInt64),
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			databasetest.Each(t, func(t *testing.T, dsn string) {
				s := openStore(t, dsn)
				mustPost(t, s, pay("deposit-1", "bank-a", account(1), most)) // just within it
				mustPost(t, s, pay("deposit-2", "bank-c", "bank-full", most))
				if _, err := s.Post(t.Context(), wrong); !errors.Is(err, ledger.ErrBalanceRange) {
					t.Fatalf("Post = %v, want ErrBalanceRange", err)
				}
				for account, want := range map[string]int64{account(1): most, "bank-a": -most, "bank-full": most, "bank-b": 0, account(2): 0} {
					if got := balance(t, s, account); got != want {
						t.Errorf("balance of %s = %d, want %d", account, got, want)
					}
				}
				mustPost(t, s, pay("payment-2", account(1), "bank-a", 1)) // away from the edge
				mustBalance(t, s)
			})
		})
	}
}

func TestAnInvalidTransferIsNotWritten(t *testing.T) {
	t.Parallel()
	databasetest.Each(t, func(t *testing.T, dsn string) {
		s := openStore(t, dsn)
		bad := pay("payment-1", cash, account(1), 5)
		bad.Postings[1].Amount.Minor = 6
		if _, err := s.Post(t.Context(), bad); !errors.Is(err, ledger.ErrInvalid) {
			t.Fatalf("Post = %v, want ErrInvalid", err)
		}
		if sums := mustBalance(t, s); sums.Transfers != 0 {
			t.Errorf("it was written: %+v", sums)
		}
	})
}

// ATTACKS 62: same key and same content gives the same result, other content an error.
func TestPostIsIdempotent(t *testing.T) {
	t.Parallel()
	databasetest.Each(t, func(t *testing.T, dsn string) {
		now := time.Date(2026, 1, 1, 0, 0, 0, 0, time.UTC)
		s := openStore(t, dsn, store.WithClock(func() time.Time { now = now.Add(time.Second); return now }))
		first := mustPost(t, s, pay("deposit-1", cash, account(1), 100))
		if again := mustPost(t, s, pay("deposit-1", cash, account(1), 100)); again != first {
			t.Errorf("a repetition was posted at %v, the first at %v", again, first)
		}
		turned := pay("deposit-1", cash, account(1), 100)
		slices.Reverse(turned.Postings)
		if again := mustPost(t, s, turned); again != first {
			t.Error("the order of the postings made another transfer of it")
		}
		// It stays so when the money has moved on, and in another process.
		mustPost(t, s, pay("payment-1", account(1), account(2), 100))
		mustPost(t, s, pay("payment-1", account(1), account(2), 100))
		restarted := openStore(t, dsn)
		if again := mustPost(t, restarted, pay("deposit-1", cash, account(1), 100)); again != first {
			t.Error("a restart made another transfer of it")
		}
		for name, other := range map[string]ledger.Transfer{
			"amount":      pay("deposit-1", cash, account(1), 101),
			"account":     pay("deposit-1", cash, account(2), 100),
			"description": {ID: "deposit-1", Postings: pay("", cash, account(1), 100).Postings, Description: "other"},
		} {
			if _, err := s.Post(t.Context(), other); !errors.Is(err, ledger.ErrConflict) {
				t.Errorf("another %s: Post = %v, want ErrConflict", name, err)
			}
		}
		if sums := mustBalance(t, s); sums.Transfers != 2 {
			t.Errorf("%d transfers, want 2", sums.Transfers)
		}
	})
}

func TestEntriesComeNewestFirstAndInPages(t *testing.T) {
	t.Parallel()
	databasetest.Each(t, func(t *testing.T, dsn string) {
		s := openStore(t, dsn)
		for i := range 7 {
			mustPost(t, s, pay("deposit-"+string(rune('a'+i)), cash, account(1), int64(i+1)))
			mustPost(t, s, pay("another-"+string(rune('a'+i)), cash, account(2), 1))
		}
		var got []ledger.Entry
		before, sizes := int64(0), []int{}
		for more := true; more; {
			page, next, err := s.Entries(t.Context(), account(1), before, 3)
			if err != nil {
				t.Fatal(err)
			}
			got, sizes, more = append(got, page...), append(sizes, len(page)), next
			before = page[len(page)-1].Sequence
		}
		if diff := cmp.Diff([]int{3, 3, 1}, sizes); diff != "" {
			t.Errorf("page sizes (-want +got):\n%s", diff)
		}
		for i, e := range got {
			minor := int64(7 - i)
			want := ledger.Entry{
				Sequence: e.Sequence, TransferID: "deposit-" + string(rune('a'+6-i)), Account: account(1), Amount: eur(minor),
				BalanceAfter: eur(minor * (minor + 1) / 2), Description: "from bank-cash to " + account(1), PostTime: e.PostTime,
			}
			if diff := cmp.Diff(want, e); diff != "" {
				t.Errorf("entry %d (-want +got):\n%s", i, diff)
			}
			if i > 0 && e.Sequence >= got[i-1].Sequence {
				t.Errorf("entry %d is not older than the one before", i)
			}
		}
	})
}

func TestAPageThatIsJustFullIsTheLast(t *testing.T) {
	t.Parallel()
	databasetest.Each(t, func(t *testing.T, dsn string) {
		s := openStore(t, dsn)
		mustPost(t, s, pay("deposit-1", cash, account(1), 1))
		page, more, err := s.Entries(t.Context(), account(1), 0, 1)
		if err != nil || len(page) != 1 || more {
			t.Errorf("Entries = %d entries, more %v, %v; want 1 and no more", len(page), more, err)
		}
		page, more, err = s.Entries(t.Context(), account(9), 0, 1)
		if err != nil || len(page) != 0 || more {
			t.Errorf("Entries of an account without any = %d entries, more %v, %v", len(page), more, err)
		}
	})
}
