package store_test

import (
	"fmt"
	"path/filepath"
	"sync"
	"sync/atomic"
	"testing"
	"testing/fstest"

	"github.com/countersign-mesh/countersign/pkg/database"
	"github.com/countersign-mesh/countersign/services/ledger/internal/ledger"
	"github.com/countersign-mesh/countersign/services/ledger/internal/store"
)

func benchBooks(b *testing.B) *store.Store {
	b.Helper()
	s, err := store.Open(b.Context(), "sqlite:"+filepath.Join(b.TempDir(), "ledger.db"))
	if err != nil {
		b.Fatal(err)
	}
	b.Cleanup(func() {
		if err := s.Close(); err != nil {
			b.Error(err)
		}
	})
	return s
}

// BenchmarkCommit is what the disk and the database give: one row after the other, each on the disk before the next begins.
func BenchmarkCommit(b *testing.B) {
	db, err := database.Open(b.Context(), "sqlite:"+filepath.Join(b.TempDir(), "rows.db"), fstest.MapFS{
		"sqlite/00001_rows.sql": {Data: []byte("-- +goose Up\nCREATE TABLE rows (id INTEGER PRIMARY KEY, text TEXT NOT NULL) STRICT;")},
	})
	if err != nil {
		b.Fatal(err)
	}
	defer func() { _ = db.Close() }()
	insert, err := db.PrepareContext(b.Context(), "INSERT INTO rows (text) VALUES ($1)")
	if err != nil {
		b.Fatal(err)
	}
	defer func() { _ = insert.Close() }()
	for b.Loop() {
		if _, err := insert.ExecContext(b.Context(), "a row like a line of a statement"); err != nil {
			b.Fatal(err)
		}
	}
	perSecond(b)
}

// BenchmarkPost is one transfer after the other for one caller, and for many at once.
func BenchmarkPost(b *testing.B) {
	for _, callers := range []int{1, 16, 128} {
		b.Run(fmt.Sprintf("callers=%d", callers), func(b *testing.B) {
			s := benchBooks(b)
			atOnce(b, callers, func(i int) error {
				_, err := s.Post(b.Context(), pay(fmt.Sprintf("bench-%d", i), cash, account(i%1000), 1))
				return err
			})
		})
	}
}

// BenchmarkPayment is what a payment asks of the books: money is set aside, and then captured.
func BenchmarkPayment(b *testing.B) {
	s := benchBooks(b)
	const accounts = 1000
	for i := range accounts {
		if _, err := s.Post(b.Context(), pay(fmt.Sprintf("deposit-%d", i), cash, account(i), 1_000_000_000)); err != nil {
			b.Fatal(err)
		}
	}
	b.ResetTimer()
	atOnce(b, 128, func(i int) error {
		hold := ledger.Hold{ID: fmt.Sprintf("hold-%d", i), Account: account(i % accounts), Amount: eur(1)}
		if _, err := s.Reserve(b.Context(), hold); err != nil {
			return err
		}
		capture := pay(fmt.Sprintf("bench-%d", i), hold.Account, account((i+1)%accounts), 1)
		capture.HoldID = hold.ID
		_, err := s.Post(b.Context(), capture)
		return err
	})
}

// atOnce calls f with every number up to b.N from so many goroutines.
func atOnce(b *testing.B, callers int, f func(i int) error) {
	b.Helper()
	var next atomic.Int64
	var wg sync.WaitGroup
	for range callers {
		wg.Go(func() {
			for i := int(next.Add(1)); i <= b.N; i = int(next.Add(1)) {
				if err := f(i); err != nil {
					b.Error(err)
					return
				}
			}
		})
	}
	wg.Wait()
	perSecond(b)
}

func perSecond(b *testing.B) {
	b.Helper()
	b.ReportMetric(float64(b.N)/b.Elapsed().Seconds(), "/s")
}

// BenchmarkPostWhileReading is what a service sees: callers at once, most of whom read.
func BenchmarkPostWhileReading(b *testing.B) {
	s := benchBooks(b)
	atOnce(b, 32, func(i int) (err error) {
		if i%4 == 0 {
			_, err = s.Post(b.Context(), pay(fmt.Sprintf("bench-%d", i), cash, account(i%100), 1))
		} else {
			_, err = s.Balances(b.Context(), account(i%100))
		}
		return err
	})
}
