package faults_test

import (
	"context"
	"database/sql"
	"fmt"
	"os"
	"slices"
	"sync"
	"time"

	"github.com/countersign-mesh/countersign/pkg/database"
	"github.com/countersign-mesh/countersign/services/ledger/internal/ledger"
	"github.com/countersign-mesh/countersign/services/ledger/internal/store"
	"github.com/countersign-mesh/countersign/services/ledger/internal/store/migrations"
)

// The faults that books of these tests can have.
const (
	answersEarly = "a transfer is answered before it is committed"
	losesUpdates = "a balance is read, and written later"
	forgetsIDs   = "the IDs of transfers are forgotten over a crash"
	readsLate    = "a balance is read from a copy"
)

var faults = []string{answersEarly, losesUpdates, forgetsIDs, readsLate}

// faulty returns the books of a process with the fault that its environment names.
func faulty(s *store.Store, dsn string) (books, error) {
	switch fault := os.Getenv(childFault); fault {
	case "":
		return s, nil
	case answersEarly:
		return early{s}, nil
	case losesUpdates:
		db, err := database.Open(context.Background(), dsn, migrations.FS)
		return racy{s, db}, err
	case forgetsIDs:
		return forgetful{s, os.Getenv(childLife)}, nil
	case readsLate:
		return &stale{books: s, seen: make(map[string][]ledger.Balance)}, nil
	default:
		return nil, fmt.Errorf("there is no fault %q", fault)
	}
}

// early answers deposits, which cannot be refused, before they are written.
type early struct{ books }

// tooEarly is how long before. It is longer than it takes to ask for the money from another process; on a machine that writes faster than it
// asks the fault would otherwise be there and not be seen.
const tooEarly = 50 * time.Millisecond

func (e early) Post(ctx context.Context, t ledger.Transfer) (ledger.Posted, error) {
	if t.HoldID != "" || !slices.ContainsFunc(t.Postings, func(p ledger.Posting) bool { return ledger.MayOverdraw(p.Account) && p.Amount.Minor < 0 }) {
		return e.books.Post(ctx, t)
	}
	time.AfterFunc(tooEarly, func() { _, _ = e.books.Post(context.WithoutCancel(ctx), t) })
	return ledger.Posted{Time: time.Now().Truncate(time.Microsecond), Digest: t.Digest()}, nil
}

// racy writes back balances that it has read before.
type racy struct {
	books
	db *sql.DB
}

func (r racy) Post(ctx context.Context, t ledger.Transfer) (ledger.Posted, error) {
	payee := slices.MaxFunc(t.Postings, func(a, b ledger.Posting) int { return int(a.Amount.Minor - b.Amount.Minor) })
	before, err := r.Balances(ctx, payee.Account)
	if err != nil || len(before) == 0 {
		return r.books.Post(ctx, t)
	}
	p, err := r.books.Post(ctx, t)
	if err == nil { // the schema refuses the worst of it
		_, _ = r.db.ExecContext(ctx, "UPDATE balances SET minor_units = $1 WHERE account_id = $2", before[0].Minor+payee.Amount.Minor, payee.Account)
	}
	return p, err
}

// forgetful knows only the IDs of its own life.
type forgetful struct {
	books
	life string
}

func (f forgetful) Post(ctx context.Context, t ledger.Transfer) (ledger.Posted, error) {
	t.ID += "-" + f.life
	return f.books.Post(ctx, t)
}

// stale answers every other reading of an account with the one before.
type stale struct {
	books
	mu   sync.Mutex
	seen map[string][]ledger.Balance
}

func (s *stale) Balances(ctx context.Context, account string) ([]ledger.Balance, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if old, ok := s.seen[account]; ok {
		delete(s.seen, account)
		return old, nil
	}
	now, err := s.books.Balances(ctx, account)
	if err == nil {
		s.seen[account] = now
	}
	return now, err
}
