package store_test

import (
	"fmt"
	"path/filepath"
	"sync/atomic"
	"testing"

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

// BenchmarkPost is one transfer after the other, each on the disk before the next begins.
func BenchmarkPost(b *testing.B) {
	s := benchBooks(b)
	for i := 0; b.Loop(); i++ {
		if _, err := s.Post(b.Context(), pay(fmt.Sprintf("bench-%d", i), cash, account(i%100), 1)); err != nil {
			b.Fatal(err)
		}
	}
}

// BenchmarkPostWhileReading is what a service sees: callers at once, most of whom read.
func BenchmarkPostWhileReading(b *testing.B) {
	s := benchBooks(b)
	var n atomic.Int64
	b.SetParallelism(16)
	b.RunParallel(func(pb *testing.PB) {
		for pb.Next() {
			i := int(n.Add(1))
			var err error
			if i%4 == 0 {
				_, err = s.Post(b.Context(), pay(fmt.Sprintf("bench-%d", i), cash, account(i%100), 1))
			} else {
				_, err = s.Balances(b.Context(), account(i%100))
			}
			if err != nil {
				b.Error(err)
			}
		}
	})
}
