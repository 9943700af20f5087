package faults_test

import (
	"context"
	"fmt"
	"math/rand/v2"
	"os"
	"path/filepath"
	"strings"
	"sync/atomic"
	"testing"

	"github.com/countersign-mesh/countersign/pkg/database/databasetest"
	"github.com/countersign-mesh/countersign/services/ledger/internal/store"
)

// openStore opens the books in this process, until the test ends.
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

// openFunc says how a store is called.
type openFunc func(t *testing.T, s *store.Store) caller

// eachWay runs a test with books that are called by the service, and with books that are called over the network.
func eachWay(t *testing.T, f func(t *testing.T, open openFunc)) {
	t.Helper()
	t.Run("in the process", func(t *testing.T) {
		t.Parallel()
		f(t, func(_ *testing.T, s *store.Store) caller { return direct(s) })
	})
	t.Run("over gRPC", func(t *testing.T) {
		t.Parallel()
		f(t, served)
	})
}

// ATTACKS 64: database gone in the middle of a transfer.
func TestTransfersSurviveAServerThatGoes(t *testing.T) {
	t.Parallel()
	eachWay(t, func(t *testing.T, open openFunc) {
		s := databasetest.StartServer(t)
		dsn, err := s.Create(t.Context(), "books")
		if err != nil {
			t.Fatal(err)
		}
		stop := false
		mustSurvive(t, open(t, openStore(t, dsn)), outage{
			times: scaled(3, 20),
			strike: func() error {
				if stop = !stop; stop {
					return s.Stop()
				}
				return s.Kill()
			},
			mend: func() error { return startPatiently(t.Context(), s) },
		})
	})
}

// ATTACKS 64: the connection is cut between the commit and its answer, or before the commit arrives. Nobody here can know which: both are
// unknown, and known on retry.
func TestACommitWithoutAnAnswerIsUnknownUntilItIsSentAgain(t *testing.T) {
	t.Parallel()
	for name, when := range map[string]cut{"before the server has it": before, "after the server has done it": after} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			eachWay(t, func(t *testing.T, open openFunc) {
				dsn := databasetest.Postgres(t)
				var armed atomic.Bool
				p := newProxy(t, dsn, func(text string) (string, cut) {
					if strings.EqualFold(text, "commit") && armed.CompareAndSwap(true, false) {
						return text, when
					}
					return text, never
				})
				call := open(t, openStore(t, p))
				for n := range 5 {
					if err := cutOnce(t.Context(), call, openStore(t, dsn), &armed, when, n); err != nil {
						t.Fatal(err)
					}
				}
				mustBeInOrder(t, call)
			})
		})
	}
}

// cutOnce posts a transfer whose commit meets with the cut. other are the same books, past the proxy.
func cutOnce(ctx context.Context, call caller, other *store.Store, armed *atomic.Bool, when cut, n int) error {
	p := payer{group: 1, to: 1}
	armed.Store(true)
	a, err := call(ctx, p.transfer(n+1))
	if err != nil {
		return err
	}
	if a.Code != unknown {
		return fmt.Errorf("a commit without an answer was answered %v: %s", a.Code, a.Text)
	}
	wanted := int64(n)
	if when == after {
		wanted++
	}
	if b := apply(ctx, other, op{Kind: balance, Group: 1, Whose: 1}); b.Balance != wanted {
		return fmt.Errorf("the books have %d after the cut, want %d", b.Balance, wanted)
	}
	a, err = insist(ctx, func(ctx context.Context) (answer, error) { return call(ctx, p.transfer(n+1)) })
	if err != nil {
		return err
	}
	if a.Code != done {
		return fmt.Errorf("sent again it was answered %v: %s", a.Code, a.Text)
	}
	if b := apply(ctx, other, op{Kind: balance, Group: 1, Whose: 1}); b.Balance != int64(n+1) {
		return fmt.Errorf("sent again it had %d effects", b.Balance-int64(n))
	}
	return nil
}

// ATTACKS 64: the network between the books and their database cuts commits at random.
func TestTransfersSurviveANetworkThatCutsCommits(t *testing.T) {
	t.Parallel()
	var cutting atomic.Bool
	dsn := newProxy(t, databasetest.Postgres(t), func(text string) (string, cut) {
		if cutting.Load() && strings.EqualFold(text, "commit") {
			return text, cut(rand.IntN(3))
		}
		return text, never
	})
	_, unknowns := mustSurvive(t, direct(openStore(t, dsn)), outage{
		times:  scaled(3, 20),
		strike: func() error { cutting.Store(true); return nil },
		mend:   func() error { cutting.Store(false); return nil },
	})
	if unknowns == 0 {
		t.Error("no commit was cut")
	}
}

// ATTACKS 64: writes fail half-way, with an error that is not that of a full disk.
func TestTransfersSurviveWritesThatFail(t *testing.T) {
	t.Parallel()
	path := filepath.Join(t.TempDir(), "ledger.db")
	p := newProcess(t, "sqlite:"+path, "")
	limitTo := func(bytes int64) error {
		_, err := p.once(t.Context(), op{Kind: limit, Minor: bytes})
		return err
	}
	mustSurvive(t, p.once, outage{
		times: scaled(5, 50),
		strike: func() error {
			log, err := os.Stat(path + "-wal")
			if err != nil {
				return err
			}
			return limitTo(log.Size() + rand.Int64N(8<<10)) // in the middle of a page, too
		},
		mend: func() error { return limitTo(0) },
	})
}
