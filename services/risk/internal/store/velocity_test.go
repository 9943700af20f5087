package store_test

import (
	"context"
	"database/sql"
	"errors"
	"fmt"
	"sync"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"github.com/jackc/pgx/v5/pgconn"

	"github.com/countersign-mesh/countersign/pkg/database"
	"github.com/countersign-mesh/countersign/pkg/database/databasetest"
	"github.com/countersign-mesh/countersign/services/risk/internal/risk"
	"github.com/countersign-mesh/countersign/services/risk/internal/store"
	"github.com/countersign-mesh/countersign/services/risk/internal/store/migrations"
)

func TestVelocitySurvivesARestart(t *testing.T) {
	t.Parallel()
	databasetest.Each(t, func(t *testing.T, dsn string) {
		c := newClock()
		// One process after the other, each with one payment; the fourth is too much.
		for n := range 5 {
			db, err := database.Open(t.Context(), dsn, migrations.FS)
			if err != nil {
				t.Fatal(err)
			}
			want := risk.Allow
			if n >= 3 {
				want = risk.Refuse
			}
			if a := assess(t, store.New(db, store.WithClock(c.Now)), payment(n, 1)); a.Verdict != want {
				t.Errorf("payment %d, after as many restarts: %+v, want verdict %d", n, a, want)
			}
			if err := db.Close(); err != nil {
				t.Fatal(err)
			}
		}
	})
}

// A server that was killed has forgotten nothing that it has answered.
func TestVelocitySurvivesACrashOfTheDatabase(t *testing.T) {
	t.Parallel()
	server := databasetest.StartServer(t)
	dsn, err := server.Create(t.Context(), "risk")
	if err != nil {
		t.Fatal(err)
	}
	c := newClock()
	s := store.New(openAt(t, dsn), store.WithClock(c.Now))
	for n := range 3 {
		assess(t, s, payment(n, 1))
	}
	if err := server.Kill(); err != nil {
		t.Fatal(err)
	}
	// A backend outlives its postmaster by a moment, in which it may still answer. What it answers is not lost either.
	var gone error
	for n := 3; gone == nil && n < 1000; n++ {
		var a risk.Assessment
		if a, gone = s.Assess(t.Context(), rules(), payment(n, 1)); gone == nil && a.Verdict != risk.Refuse || gone != nil && a.Verdict != 0 {
			t.Errorf("without its database: %+v, %v", a, gone)
		}
	}
	if !database.Unavailable(gone) {
		t.Errorf("without its database: %v, want that it is unavailable", gone)
	}
	if err := server.Start(t.Context()); err != nil {
		t.Fatal(err)
	}
	if a := assess(t, s, payment(1000, 1)); a.Verdict != risk.Refuse {
		t.Errorf("after the crash: %+v", a)
	}
}

func TestAPaymentCountsUntilItIsAsOldAsTheWindow(t *testing.T) {
	t.Parallel()
	each(t, func(t *testing.T, m memory) {
		for n := range 3 {
			assess(t, m.Store, payment(n, 1))
		}
		for n, step := range []struct {
			wait time.Duration
			want risk.Verdict
		}{
			{time.Minute - time.Microsecond, risk.Refuse},
			{time.Microsecond, risk.Allow},
		} {
			m.clock.Add(step.wait)
			if a := assess(t, m.Store, payment(10+n, 1)); a.Verdict != step.want {
				t.Errorf("%v later: %+v, want verdict %d", step.wait, a, step.want)
			}
		}
	})
}

// A clock that was set back does not let a payer begin anew: what was paid in what is the future now counts, until the window has gone by
// after it.
func TestAClockThatIsSetBackForgetsNothing(t *testing.T) {
	t.Parallel()
	each(t, func(t *testing.T, m memory) {
		for n := range 3 {
			assess(t, m.Store, payment(n, 1))
		}
		m.clock.Add(-24 * time.Hour)
		if a := assess(t, m.Store, payment(3, 1)); a.Verdict != risk.Refuse {
			t.Errorf("a day before: %+v", a)
		}
		m.clock.Add(24*time.Hour + time.Minute)
		if a := assess(t, m.Store, payment(4, 1)); a.Verdict != risk.Allow {
			t.Errorf("when the window is over by the first clock: %+v", a)
		}
	})
}

// Sums are exact where a float64 is not, and for currencies apart.
func TestSumsAreExact(t *testing.T) {
	t.Parallel()
	each(t, func(t *testing.T, m memory) {
		open := risk.Rules{Version: "v1", Ceilings: map[string]risk.Ceiling{
			"EUR": {HoldAbove: 1 << 62, RefuseAbove: 1 << 62}, "USD": {HoldAbove: 1 << 62, RefuseAbove: 1 << 62},
		}}
		want := int64(0)
		for n := range 9 {
			minor := int64(999_999_999_999_999 - n)
			want += minor
			usd := payment(100+n, 1)
			usd.Currency = "USD"
			for _, p := range []risk.Payment{payment(n, minor), usd} {
				if _, err := m.Assess(t.Context(), open, p); err != nil {
					t.Fatal(err)
				}
			}
		}
		err := database.InTx(t.Context(), m.db, func(tx *sql.Tx) error {
			for _, per := range []risk.Per{risk.PerAccount, risk.PerCustomer} {
				got, err := store.SpentIn(t.Context(), tx, per, payment(99, 1), m.clock.Now().Add(-time.Hour))
				if err != nil {
					return err
				}
				if diff := cmp.Diff(risk.Spent{Payments: 18, Minor: want}, got); diff != "" {
					t.Errorf("spent (-want +got):\n%s", diff)
				}
			}
			return nil
		})
		if err != nil {
			t.Fatal(err)
		}
	})
}

// Two replicas, and each payment is asked about at both of them at once.
func TestPaymentsAtOnceDoNotSlipThrough(t *testing.T) {
	t.Parallel()
	each(t, func(t *testing.T, m memory) {
		replicas := []*store.Store{m.Store, m.replica(t)}
		verdicts := make([]risk.Verdict, 64)
		var wg sync.WaitGroup
		for i := range verdicts {
			wg.Go(func() {
				a, err := replicas[i%2].Assess(context.WithoutCancel(t.Context()), rules(), payment(i/2, 1))
				if err != nil {
					t.Error(err)
				}
				verdicts[i] = a.Verdict
			})
		}
		wg.Wait()
		allowed := 0
		for i := 0; i < len(verdicts); i += 2 {
			if verdicts[i] != verdicts[i+1] {
				t.Errorf("payment %d got the verdicts %d and %d", i/2, verdicts[i], verdicts[i+1])
			}
			if verdicts[i] == risk.Allow {
				allowed++
			}
		}
		if allowed != 3 {
			t.Errorf("%d payments were allowed, want 3", allowed)
		}
	})
}

// overlap begins two transactions, assesses a payment in each while neither has ended, and commits both. It returns how many payments were
// allowed and committed.
func overlap(t *testing.T, db *sql.DB, level sql.IsolationLevel, now time.Time) (allowed int, errs []error) {
	t.Helper()
	var txs [2]*sql.Tx
	var verdicts [2]risk.Verdict
	defer func() {
		for _, tx := range txs {
			if tx != nil {
				_ = tx.Rollback()
			}
		}
	}()
	for i := range txs {
		tx, err := db.BeginTx(t.Context(), &sql.TxOptions{Isolation: level})
		if err != nil {
			t.Fatal(err)
		}
		txs[i] = tx
		a, err := store.AssessIn(t.Context(), tx, rules(), payment(10+i, 1), now)
		if err != nil {
			t.Fatal(err)
		}
		verdicts[i] = a.Verdict
	}
	for i, tx := range txs {
		err := tx.Commit()
		errs = append(errs, err)
		if err == nil && verdicts[i] == risk.Allow {
			allowed++
		}
	}
	return allowed, errs
}

// The two payments of overlap do not see each other, and one is all that the limit has left. It takes a serializable transaction to stop them:
// in PostgreSQL's ordinary isolation both go through. The test shows both.
func TestTwoPaymentsThatDoNotSeeEachOtherNeedASerializableTransaction(t *testing.T) {
	t.Parallel()
	for level, want := range map[sql.IsolationLevel]int{sql.LevelReadCommitted: 2, sql.LevelRepeatableRead: 2, sql.LevelSerializable: 1} {
		t.Run(level.String(), func(t *testing.T) {
			t.Parallel()
			c := newClock()
			db := openAt(t, databasetest.Postgres(t))
			s := store.New(db, store.WithClock(c.Now))
			for n := range 2 {
				assess(t, s, payment(n, 1))
			}
			allowed, errs := overlap(t, db, level, c.Now())
			if allowed != want {
				t.Errorf("%d more payments were allowed, want %d (%v)", allowed, want, errs)
			}
			if want == 2 {
				return
			}
			conflict, ok := errors.AsType[*pgconn.PgError](errors.Join(errs...))
			if !ok || conflict.Code != "40001" {
				t.Errorf("%v, want a serialization failure, which InTx answers by running again", errs)
			}
		})
	}
}

// Payers who have nothing to do with each other are all answered, though PostgreSQL sees conflicts between them in a small table, and a payment
// that gets in the way of others is assessed again.
func TestManyPayersAtOnceAreAllAnswered(t *testing.T) {
	t.Parallel()
	each(t, func(t *testing.T, m memory) {
		replicas := []*store.Store{m.Store, m.replica(t)}
		start := time.Now()
		var wg sync.WaitGroup
		for payer := range 16 {
			wg.Go(func() {
				for n := range 10 {
					p := payment(payer*100+n, 1)
					p.Customer, p.Payer = fmt.Sprintf("customer-%d", payer), fmt.Sprintf("acc-%d", payer)
					want := risk.Allow
					if n >= 3 {
						want = risk.Refuse
					}
					a, err := replicas[payer%2].Assess(context.WithoutCancel(t.Context()), rules(), p)
					if err != nil || a.Verdict != want {
						t.Errorf("payment %d of payer %d: %+v, %v; want verdict %d", n, payer, a, err, want)
					}
				}
			})
		}
		wg.Wait()
		t.Logf("160 payments of 16 payers in %v", time.Since(start))
	})
}
