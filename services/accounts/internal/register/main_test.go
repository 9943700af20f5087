package register_test

import (
	"context"
	"sync"
	"testing"
	"time"

	"go.uber.org/goleak"

	"github.com/countersign-mesh/countersign/pkg/database/databasetest"
	"github.com/countersign-mesh/countersign/services/accounts/internal/register"
	"github.com/countersign-mesh/countersign/services/accounts/internal/store"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(databasetest.Main{M: m}) }

// books answers each question with the next answer, and the last one again and again. before runs ahead of the n-th answer.
type books struct {
	mu      sync.Mutex
	answers []answer
	asked   int
	before  func(n int)
}

type answer struct {
	empty bool
	err   error
}

func (b *books) Empty(ctx context.Context, _ string) (bool, error) {
	b.mu.Lock()
	b.asked++
	n := b.asked
	a := b.answers[min(n, len(b.answers))-1]
	b.mu.Unlock()
	if b.before != nil {
		b.before(n)
	}
	if err := ctx.Err(); err != nil {
		return false, err
	}
	return a.empty, a.err
}

// alwaysEmpty are books in which every account is empty.
func alwaysEmpty() *books { return &books{answers: []answer{{empty: true}}} }

// clock is a clock that a test moves.
type clock struct {
	mu  sync.Mutex
	now time.Time
}

func newClock() *clock { return &clock{now: time.Date(2026, 3, 1, 12, 0, 0, 0, time.UTC)} }

func (c *clock) Now() time.Time {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.now
}

func (c *clock) Add(d time.Duration) {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.now = c.now.Add(d)
}

func openStore(t *testing.T, dsn string) *store.Store {
	t.Helper()
	s, err := store.Open(t.Context(), dsn)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := s.Close(); err != nil {
			t.Error(err)
		}
	})
	return s
}

// replica is one of several registers on one database.
func replica(t *testing.T, dsn string, b *books, opts ...register.Option) *register.Register {
	t.Helper()
	s := openStore(t, dsn)
	return register.New(s, s, s, b, opts...)
}

// open opens an account.
func open(t *testing.T, r *register.Register) register.Account {
	t.Helper()
	account, err := r.Open(t.Context(), register.Opening{RequestID: "request-1", CustomerID: "alice", CurrencyCode: "EUR"})
	if err != nil {
		t.Fatal(err)
	}
	return account
}

// newRegister returns a register with one account, for tests in which it does not matter where it is kept.
func newRegister(t *testing.T, b *books) (*register.Register, register.Account) {
	t.Helper()
	r := replica(t, databasetest.SQLite(t), b)
	return r, open(t, r)
}

// usable reports whether a register says that an account is usable.
func usable(t *testing.T, r *register.Register, accountID string) bool {
	t.Helper()
	account, err := r.Get(context.WithoutCancel(t.Context()), accountID)
	if err != nil {
		t.Error(err)
	}
	return account.Usable()
}
