package store_test

import (
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/countersign-mesh/countersign/pkg/database/databasetest"
	"github.com/countersign-mesh/countersign/services/ledger/internal/ledger"
	"github.com/countersign-mesh/countersign/services/ledger/internal/store"
)

// ATTACKS 63: overdraft and write skew under concurrency.
func TestManyTransfersAtOnceKeepTheBooksInOrder(t *testing.T) {
	t.Parallel()
	databasetest.Each(t, func(t *testing.T, dsn string) {
		const accounts, workers, each, funds = 5, 64, 4, 100
		stores := []*store.Store{openStore(t, dsn), openStore(t, dsn)} // they stand for two processes
		s := stores[0]
		for i := range accounts {
			mustPost(t, s, pay(fmt.Sprintf("deposit-%d", i), cash, account(i), funds))
		}
		var wg sync.WaitGroup
		var posted, refused atomic.Int64
		for w := range workers {
			wg.Go(func() {
				random := rand.New(rand.NewPCG(1, uint64(w)))
				for i := range each {
					from := random.IntN(accounts)
					to := (from + 1 + random.IntN(accounts-1)) % accounts
					_, err := stores[w%2].Post(t.Context(), pay(fmt.Sprintf("payment-%d-%d", w, i), account(from), account(to), 1+random.Int64N(funds)))
					switch {
					case err == nil:
						posted.Add(1)
					case errors.Is(err, ledger.ErrInsufficientFunds):
						refused.Add(1)
					default:
						t.Error(err)
					}
					if got := balance(t, s, account(from)); got < 0 {
						t.Errorf("%s was seen at %d", account(from), got)
					}
				}
			})
		}
		// The books are in order at every moment, not only in the end.
		wg.Go(func() {
			for range 20 {
				if sums, err := s.Check(t.Context()); err != nil || !sums.Balanced() {
					t.Errorf("in between the books were %+v, %v", sums, err)
				}
			}
		})
		wg.Wait()
		if posted.Load() == 0 || refused.Load() == 0 {
			t.Errorf("%d posted and %d refused: the test did not come to both", posted.Load(), refused.Load())
		}
		sums := mustBalance(t, s)
		if want := accounts + posted.Load(); sums.Transfers != want || sums.Entries != 2*want {
			t.Errorf("%d transfers and %d entries, want %d and twice that", sums.Transfers, sums.Entries, want)
		}
		mustHold(t, s, accounts, accounts*funds)
	})
}

// mustHold checks that the customers together have all the cash that came in.
func mustHold(t *testing.T, s *store.Store, accounts int, want int64) {
	t.Helper()
	var total int64
	for i := range accounts {
		total += balance(t, s, account(i))
	}
	if total != want || balance(t, s, cash) != -want {
		t.Errorf("the customers have %d and cash %d, want %d and its opposite", total, balance(t, s, cash), want)
	}
}

// ATTACKS 62: at once from many gives one effect. Two stores stand for two processes over one file.
func TestTheSameTransferFromManyAtOnceHasOneEffect(t *testing.T) {
	t.Parallel()
	databasetest.Each(t, func(t *testing.T, dsn string) {
		stores := []*store.Store{openStore(t, dsn), openStore(t, dsn)}
		mustPost(t, stores[0], pay("deposit-1", cash, account(1), 100))
		times := make([]ledger.Posted, 64)
		var wg sync.WaitGroup
		for i := range times {
			wg.Go(func() {
				var err error
				if times[i], err = stores[i%2].Post(t.Context(), pay("payment-1", account(1), account(2), 100)); err != nil {
					t.Error(err)
				}
			})
		}
		wg.Wait()
		for i, posted := range times {
			if posted != times[0] {
				t.Errorf("call %d answered %v, call 0 %v", i, posted, times[0])
			}
		}
		if got := balance(t, stores[0], account(2)); got != 100 {
			t.Errorf("the payee has %d, want 100", got)
		}
		if sums := mustBalance(t, stores[1]); sums.Transfers != 2 {
			t.Errorf("%d transfers, want 2", sums.Transfers)
		}
	})
}

// ATTACKS 62: of two contents under one ID one is taken, whoever asks and however often.
func TestOneOfTwoContentsAtOnceIsTaken(t *testing.T) {
	t.Parallel()
	databasetest.Each(t, func(t *testing.T, dsn string) {
		s := openStore(t, dsn)
		var taken, conflicts [2]atomic.Int64
		var wg sync.WaitGroup
		for i := range 64 {
			wg.Go(func() {
				_, err := s.Post(t.Context(), pay("deposit-1", cash, account(i%2), 100))
				switch {
				case err == nil:
					taken[i%2].Add(1)
				case errors.Is(err, ledger.ErrConflict):
					conflicts[i%2].Add(1)
				default:
					t.Error(err)
				}
			})
		}
		wg.Wait()
		winner := 0
		if taken[1].Load() > 0 {
			winner = 1
		}
		if taken[winner].Load() != 32 || conflicts[1-winner].Load() != 32 {
			t.Errorf("taken %d and %d, conflicts %d and %d; want 32 of one and 32 of the other",
				taken[0].Load(), taken[1].Load(), conflicts[0].Load(), conflicts[1].Load())
		}
		if a, b := balance(t, s, account(winner)), balance(t, s, account(1-winner)); a != 100 || b != 0 {
			t.Errorf("the winner has %d, the other %d; want 100 and 0", a, b)
		}
		mustBalance(t, s)
	})
}

// A caller that goes away at any moment, also between commit and reply, learns the truth by asking again.
func TestACallThatWasCutShortIsResolvedByARetry(t *testing.T) {
	t.Parallel()
	databasetest.Each(t, func(t *testing.T, dsn string) {
		s := openStore(t, dsn)
		var done, cut int
		for i := range 200 {
			transfer := pay(fmt.Sprintf("deposit-%d", i), cash, account(1), 1)
			ctx, cancel := context.WithCancel(t.Context())
			timer := time.AfterFunc(rand.N(time.Millisecond), cancel)
			first, err := s.Post(ctx, transfer)
			timer.Stop()
			cancel()
			posted := mustPost(t, s, transfer)
			if err != nil {
				cut++
				if !errors.Is(err, context.Canceled) {
					t.Errorf("a call that was cut short = %v, want context.Canceled", err)
				}
			} else {
				done++
				if first != posted {
					t.Errorf("posted at %v, by the retry at %v", first, posted)
				}
			}
		}
		if done == 0 || cut == 0 {
			t.Logf("%d done and %d cut short: this machine did not come to both", done, cut)
		}
		if got := balance(t, s, account(1)); got != 200 {
			t.Errorf("balance = %d, want 200", got)
		}
		mustBalance(t, s)
	})
}
