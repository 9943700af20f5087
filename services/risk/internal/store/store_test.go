package store_test

import (
	"database/sql"
	"errors"
	"fmt"
	"strings"
	"sync"
	"testing"
	"testing/fstest"
	"time"

	"github.com/google/go-cmp/cmp"
	"go.uber.org/goleak"

	"github.com/countersign-mesh/countersign/pkg/database"
	"github.com/countersign-mesh/countersign/pkg/database/databasetest"
	"github.com/countersign-mesh/countersign/services/risk/internal/risk"
	"github.com/countersign-mesh/countersign/services/risk/internal/store"
	"github.com/countersign-mesh/countersign/services/risk/internal/store/migrations"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(databasetest.Main{M: m}) }

// clock is a clock that stands still until a test moves it.
type clock struct {
	mu  sync.Mutex
	now time.Time
}

func (c *clock) Now() time.Time {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.now
}

// Add moves the clock, backwards too.
func (c *clock) Add(d time.Duration) {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.now = c.now.Add(d)
}

func newClock() *clock { return &clock{now: time.Date(2026, 5, 4, 3, 2, 1, 0, time.UTC)} }

func openAt(t *testing.T, dsn string) *sql.DB {
	t.Helper()
	db, err := database.Open(t.Context(), dsn, migrations.FS)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := db.Close(); err != nil {
			t.Error(err)
		}
	})
	return db
}

// memory is an empty one and the clock that it goes by.
type memory struct {
	*store.Store

	db    *sql.DB
	clock *clock
	dsn   string
}

// each runs f over an empty memory in each kind of database.
func each(t *testing.T, f func(t *testing.T, m memory)) {
	t.Helper()
	databasetest.Each(t, func(t *testing.T, dsn string) {
		db, c := openAt(t, dsn), newClock()
		f(t, memory{store.New(db, store.WithClock(c.Now)), db, c, dsn})
	})
}

// replica is another process on the same database, with the same clock.
func (m memory) replica(t *testing.T) *store.Store {
	t.Helper()
	return store.New(openAt(t, m.dsn), store.WithClock(m.clock.Now))
}

// rules with a limit of each kind.
func rules() risk.Rules {
	return risk.Rules{
		Version:  "v1",
		Ceilings: map[string]risk.Ceiling{"EUR": {HoldAbove: 500, RefuseAbove: 1000}, "USD": {HoldAbove: 500, RefuseAbove: 1000}},
		Limits: []risk.Limit{
			{Per: risk.PerAccount, Window: time.Minute, MaxPayments: 3, Verdict: risk.Refuse},
			{Per: risk.PerCustomer, Window: time.Hour, MaxAmount: map[string]int64{"EUR": 1000}, Verdict: risk.Hold},
		},
	}
}

// payment is the n-th payment of alice, from her first account.
func payment(n int, minor int64) risk.Payment {
	return risk.Payment{ID: fmt.Sprintf("pay-%d", n), Customer: "alice", Payer: "acc-a1", Payee: "acc-b", Currency: "EUR", Minor: minor}
}

func assess(t *testing.T, s *store.Store, p risk.Payment) risk.Assessment {
	t.Helper()
	a, err := s.Assess(t.Context(), rules(), p)
	if err != nil {
		t.Fatal(err)
	}
	return a
}

func codes(a risk.Assessment) (codes []risk.Code) {
	for _, r := range a.Reasons {
		codes = append(codes, r.Code)
	}
	return codes
}

func TestVelocityCountsWithinItsWindow(t *testing.T) {
	t.Parallel()
	each(t, func(t *testing.T, m memory) {
		for i := range 3 {
			if a := assess(t, m.Store, payment(i, 1)); a.Verdict != risk.Allow {
				t.Fatalf("payment %d: %+v", i, a)
			}
			m.clock.Add(10 * time.Second)
		}
		a := assess(t, m.Store, payment(3, 1))
		if diff := cmp.Diff([]risk.Code{risk.VelocityCount}, codes(a)); a.Verdict != risk.Refuse || diff != "" {
			t.Errorf("the fourth within a minute: %+v", a)
		}
		m.clock.Add(29 * time.Second) // 59 s after the first
		if a := assess(t, m.Store, payment(4, 1)); a.Verdict != risk.Refuse {
			t.Errorf("a second before the first leaves the window: %+v", a)
		}
		m.clock.Add(time.Second)
		if a := assess(t, m.Store, payment(5, 1)); a.Verdict != risk.Allow {
			t.Errorf("when the first has left the window: %+v; those that were refused count", a)
		}
	})
}

func TestVelocitySumsWhatMayMove(t *testing.T) {
	t.Parallel()
	each(t, func(t *testing.T, m memory) {
		other := func(n int, minor int64, change func(*risk.Payment)) risk.Payment {
			p := payment(n, minor)
			change(&p)
			return p
		}
		steps := []struct {
			name    string
			payment risk.Payment
			want    risk.Verdict
		}{
			{"one that is refused counts for nothing", payment(1, 1001), risk.Refuse},
			{"one in another currency", other(2, 400, func(p *risk.Payment) { p.Currency = "USD" }), risk.Allow},
			{"one of another customer", other(3, 400, func(p *risk.Payment) { p.Customer, p.Payer = "bob", "acc-b1" }), risk.Allow},
			{"one that is held counts", payment(4, 600), risk.Hold},
			{"one up to the limit, from another account", other(5, 400, func(p *risk.Payment) { p.Payer = "acc-a2" }), risk.Allow},
			{"one cent more, from a third account", other(6, 1, func(p *risk.Payment) { p.Payer = "acc-a3" }), risk.Hold},
			{"a cent of the other customer", other(7, 1, func(p *risk.Payment) { p.Customer, p.Payer = "bob", "acc-b1" }), risk.Allow},
		}
		for _, step := range steps {
			if a := assess(t, m.Store, step.payment); a.Verdict != step.want {
				t.Errorf("%s: %+v, want verdict %d", step.name, a, step.want)
			}
		}
		m.clock.Add(time.Hour)
		if a := assess(t, m.Store, payment(8, 500)); a.Verdict != risk.Allow {
			t.Errorf("an hour later: %+v", a)
		}
	})
}

func TestAPaymentIsAssessedOnce(t *testing.T) {
	t.Parallel()
	each(t, func(t *testing.T, m memory) {
		held := assess(t, m.Store, payment(1, 600))
		refused := assess(t, m.Store, payment(2, 1001))
		for range 5 {
			if diff := cmp.Diff(held, assess(t, m.Store, payment(1, 600))); diff != "" {
				t.Fatalf("a repetition (-first +again):\n%s", diff)
			}
		}
		// Neither other rules nor time change a verdict.
		m.clock.Add(24 * time.Hour)
		again, err := m.Assess(t.Context(), risk.Rules{Version: "v2", Ceilings: map[string]risk.Ceiling{"EUR": {HoldAbove: 9999, RefuseAbove: 9999}}}, payment(2, 1001))
		if err != nil {
			t.Fatal(err)
		}
		if diff := cmp.Diff(refused, again); diff != "" {
			t.Errorf("under other rules (-first +again):\n%s", diff)
		}
		var n int
		if err := m.db.QueryRowContext(t.Context(), "SELECT count(*) FROM assessments").Scan(&n); err != nil || n != 2 {
			t.Errorf("%d assessments, %v; want 2", n, err)
		}
	})
}

// A verdict on a small payment must not be had for a large one.
func TestAVerdictIsOnOnePaymentOnly(t *testing.T) {
	t.Parallel()
	each(t, func(t *testing.T, m memory) {
		assess(t, m.Store, payment(1, 1))
		for name, change := range map[string]func(*risk.Payment){
			"amount":   func(p *risk.Payment) { p.Minor = 2 },
			"currency": func(p *risk.Payment) { p.Currency = "USD" },
			"customer": func(p *risk.Payment) { p.Customer = "bob" },
			"payer":    func(p *risk.Payment) { p.Payer = "acc-x" },
			"payee":    func(p *risk.Payment) { p.Payee = "acc-x" },
		} {
			p := payment(1, 1)
			change(&p)
			if a, err := m.Assess(t.Context(), rules(), p); !errors.Is(err, risk.ErrConflict) || a.Verdict != 0 {
				t.Errorf("another %s under the same ID: %+v, %v; want ErrConflict", name, a, err)
			}
		}
	})
}

func TestSumsOfHeldPaymentsBeyondAllBounds(t *testing.T) {
	t.Parallel()
	each(t, func(t *testing.T, m memory) {
		_, err := m.db.ExecContext(t.Context(), `
			WITH RECURSIVE n(i) AS (SELECT 1 UNION ALL SELECT i + 1 FROM n WHERE i < 3)
			INSERT INTO assessments
				(payment_id, payer_customer_id, payer_account_id, payee_account_id, currency_code, minor_units, verdict, assess_time, rules_version)
			SELECT 'old-' || i, 'alice', 'acc-a2', 'acc-b', 'EUR', 9223372036854775807, 'hold', $1, 'v1' FROM n`, m.clock.Now().UnixMicro())
		if err != nil {
			t.Fatal(err)
		}
		if a := assess(t, m.Store, payment(1, 1)); a.Verdict != risk.Hold {
			t.Errorf("Assess = %+v, want it held", a)
		}
	})
}

func TestAVerdictThatIsNoneIsAnError(t *testing.T) {
	t.Parallel()
	db := openAt(t, databasetest.SQLite(t))
	s := store.New(db)
	assess(t, s, payment(1, 1))
	if _, err := db.ExecContext(t.Context(), "PRAGMA ignore_check_constraints = ON; UPDATE assessments SET verdict = 'maybe'"); err != nil {
		t.Fatal(err)
	}
	if a, err := s.Assess(t.Context(), rules(), payment(1, 1)); err == nil || !strings.Contains(err.Error(), `"maybe"`) {
		t.Errorf("Assess = %+v, %v; want an error", a, err)
	}
}

func TestADatabaseFromBeforeIsCarriedOver(t *testing.T) {
	t.Parallel()
	dsn, c := databasetest.SQLite(t), newClock()
	first, err := migrations.FS.ReadFile("sqlite/00001_assessments.sql")
	if err != nil {
		t.Fatal(err)
	}
	old, err := database.Open(t.Context(), dsn, fstest.MapFS{"sqlite/00001_assessments.sql": {Data: first}})
	if err != nil {
		t.Fatal(err)
	}
	for _, statement := range []string{
		`INSERT INTO assessments VALUES ('pay-1', 'alice', 'acc-a1', 'acc-b', 'EUR', 600, 'hold', $1)`,
		`INSERT INTO assessments SELECT 'pay-2', payer_customer_id, payer_account_id, payee_account_id, currency_code, 1, 'allow', assess_time FROM assessments WHERE $1 > 0`,
		`INSERT INTO reasons SELECT 'pay-1', 1, 'AMOUNT_CEILING', 'as it was' WHERE $1 > 0`,
	} {
		if _, err := old.ExecContext(t.Context(), statement, c.Now().UnixMicro()); err != nil {
			t.Fatal(err)
		}
	}
	if err := old.Close(); err != nil {
		t.Fatal(err)
	}
	s := store.New(openAt(t, dsn), store.WithClock(c.Now))
	want := risk.Assessment{Verdict: risk.Hold, Reasons: []risk.Reason{{Code: risk.AmountCeiling, Message: "as it was"}}}
	if diff := cmp.Diff(want, assess(t, s, payment(1, 600))); diff != "" {
		t.Errorf("the verdict from before: -want +got:\n%s", diff)
	}
	// They count: a third one is let through, and a fourth is too many.
	if a := assess(t, s, payment(3, 1)); a.Verdict != risk.Allow || a.Version != "v1" {
		t.Errorf("the third within a minute: %+v", a)
	}
	if a := assess(t, s, payment(4, 1)); a.Verdict != risk.Refuse {
		t.Errorf("the fourth within a minute: %+v", a)
	}
}
