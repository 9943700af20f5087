package store_test

import (
	"database/sql"
	"errors"
	"fmt"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"go.uber.org/goleak"

	"github.com/countersign-mesh/countersign/pkg/database"
	"github.com/countersign-mesh/countersign/services/risk/internal/risk"
	"github.com/countersign-mesh/countersign/services/risk/internal/store"
	"github.com/countersign-mesh/countersign/services/risk/internal/store/migrations"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

// clock is a clock that stands still until a test moves it. It is not for concurrent use while it is moved.
type clock struct{ now time.Time }

func (c *clock) Now() time.Time { return c.now }

func newClock() *clock { return &clock{now: time.Date(2026, 5, 4, 3, 2, 1, 0, time.UTC)} }

func openAt(t *testing.T, path string) *sql.DB {
	t.Helper()
	db, err := database.Open(t.Context(), "sqlite:"+path, migrations.FS)
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

func memory(t *testing.T, c *clock) (*store.Store, *sql.DB) {
	t.Helper()
	db := openAt(t, filepath.Join(t.TempDir(), "risk.db"))
	return store.New(db, store.WithClock(c.Now)), db
}

// rules with a limit of each kind.
func rules() risk.Rules {
	return risk.Rules{
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
	c := newClock()
	s, _ := memory(t, c)
	for i := range 3 {
		if a := assess(t, s, payment(i, 1)); a.Verdict != risk.Allow {
			t.Fatalf("payment %d: %+v", i, a)
		}
		c.now = c.now.Add(10 * time.Second)
	}
	a := assess(t, s, payment(3, 1))
	if diff := cmp.Diff([]risk.Code{risk.VelocityCount}, codes(a)); a.Verdict != risk.Refuse || diff != "" {
		t.Errorf("the fourth within a minute: %+v", a)
	}
	c.now = c.now.Add(29 * time.Second) // 59 s after the first
	if a := assess(t, s, payment(4, 1)); a.Verdict != risk.Refuse {
		t.Errorf("a second before the first leaves the window: %+v", a)
	}
	c.now = c.now.Add(time.Second)
	if a := assess(t, s, payment(5, 1)); a.Verdict != risk.Allow {
		t.Errorf("when the first has left the window: %+v; those that were refused count", a)
	}
}

func TestVelocitySumsWhatMayMove(t *testing.T) {
	t.Parallel()
	c := newClock()
	s, _ := memory(t, c)
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
		if a := assess(t, s, step.payment); a.Verdict != step.want {
			t.Errorf("%s: %+v, want verdict %d", step.name, a, step.want)
		}
	}
	c.now = c.now.Add(time.Hour)
	if a := assess(t, s, payment(8, 500)); a.Verdict != risk.Allow {
		t.Errorf("an hour later: %+v", a)
	}
}

func TestVelocitySurvivesARestart(t *testing.T) {
	t.Parallel()
	c := newClock()
	path := filepath.Join(t.TempDir(), "risk.db")
	s := store.New(openAt(t, path), store.WithClock(c.Now))
	for i := range 3 {
		assess(t, s, payment(i, 1))
	}
	restarted := store.New(openAt(t, path), store.WithClock(c.Now))
	if a := assess(t, restarted, payment(3, 1)); a.Verdict != risk.Refuse {
		t.Errorf("after a restart: %+v; the payments before it are forgotten", a)
	}
}

func TestAPaymentIsAssessedOnce(t *testing.T) {
	t.Parallel()
	c := newClock()
	s, db := memory(t, c)
	held := assess(t, s, payment(1, 600))
	refused := assess(t, s, payment(2, 1001))
	for range 5 {
		if diff := cmp.Diff(held, assess(t, s, payment(1, 600))); diff != "" {
			t.Fatalf("a repetition (-first +again):\n%s", diff)
		}
	}
	// Neither other rules nor time change a verdict.
	c.now = c.now.Add(24 * time.Hour)
	again, err := s.Assess(t.Context(), risk.Rules{Ceilings: map[string]risk.Ceiling{"EUR": {HoldAbove: 9999, RefuseAbove: 9999}}}, payment(2, 1001))
	if err != nil {
		t.Fatal(err)
	}
	if diff := cmp.Diff(refused, again); diff != "" {
		t.Errorf("under other rules (-first +again):\n%s", diff)
	}
	var n int
	if err := db.QueryRowContext(t.Context(), "SELECT count(*) FROM assessments").Scan(&n); err != nil || n != 2 {
		t.Errorf("%d assessments, %v; want 2", n, err)
	}
}

// A verdict on a small payment must not be had for a large one.
func TestAVerdictIsOnOnePaymentOnly(t *testing.T) {
	t.Parallel()
	s, _ := memory(t, newClock())
	assess(t, s, payment(1, 1))
	for name, change := range map[string]func(*risk.Payment){
		"amount":   func(p *risk.Payment) { p.Minor = 2 },
		"currency": func(p *risk.Payment) { p.Currency = "USD" },
		"customer": func(p *risk.Payment) { p.Customer = "bob" },
		"payer":    func(p *risk.Payment) { p.Payer = "acc-x" },
		"payee":    func(p *risk.Payment) { p.Payee = "acc-x" },
	} {
		p := payment(1, 1)
		change(&p)
		if a, err := s.Assess(t.Context(), rules(), p); !errors.Is(err, risk.ErrConflict) || a.Verdict != 0 {
			t.Errorf("another %s under the same ID: %+v, %v; want ErrConflict", name, a, err)
		}
	}
}

func TestPaymentsAtOnceDoNotSlipThrough(t *testing.T) {
	t.Parallel()
	c := newClock()
	s, _ := memory(t, c)
	verdicts := make([]risk.Verdict, 64)
	var wg sync.WaitGroup
	for i := range verdicts {
		wg.Go(func() {
			a, err := s.Assess(t.Context(), rules(), payment(i/2, 1)) // each payment is asked about twice
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
}

func TestSumsOfHeldPaymentsBeyondAllBounds(t *testing.T) {
	t.Parallel()
	s, db := memory(t, newClock())
	_, err := db.ExecContext(t.Context(), `
		WITH RECURSIVE n(i) AS (SELECT 1 UNION ALL SELECT i + 1 FROM n WHERE i < 3)
		INSERT INTO assessments SELECT 'old-' || i, 'alice', 'acc-a2', 'acc-b', 'EUR', 9223372036854775807, 'hold', ? FROM n`, newClock().now.UnixMicro())
	if err != nil {
		t.Fatal(err)
	}
	if a := assess(t, s, payment(1, 1)); a.Verdict != risk.Hold {
		t.Errorf("Assess = %+v, want it held", a)
	}
}

func TestAVerdictThatIsNoneIsAnError(t *testing.T) {
	t.Parallel()
	s, db := memory(t, newClock())
	assess(t, s, payment(1, 1))
	if _, err := db.ExecContext(t.Context(), "PRAGMA ignore_check_constraints = ON; UPDATE assessments SET verdict = 'maybe'"); err != nil {
		t.Fatal(err)
	}
	if a, err := s.Assess(t.Context(), rules(), payment(1, 1)); err == nil || !strings.Contains(err.Error(), `"maybe"`) {
		t.Errorf("Assess = %+v, %v; want an error", a, err)
	}
}
