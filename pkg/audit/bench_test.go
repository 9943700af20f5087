package audit

import (
	"testing"
	"time"
)

// BenchmarkNewID is what each call pays for the name of its decision.
func BenchmarkNewID(b *testing.B) {
	for b.Loop() {
		_ = NewID()
	}
}

// BenchmarkRecord is what each call pays for its record, while a service takes them.
func BenchmarkRecord(b *testing.B) {
	q := NewQueue(nil)
	d := Decision{ID: NewID(), Time: time.Now(), Method: "/bank.ledger.v1.LedgerService/PostTransfer", Allowed: true}
	drain := drainer(q)
	b.ReportAllocs()
	for b.Loop() {
		q.Record(d)
		drain()
	}
}

// BenchmarkRecordParallel is the same from all cores at once.
func BenchmarkRecordParallel(b *testing.B) {
	q := NewQueue(nil)
	d := Decision{ID: NewID(), Time: time.Now(), Method: "/bank.ledger.v1.LedgerService/PostTransfer", Allowed: true}
	b.ReportAllocs()
	b.RunParallel(func(pb *testing.PB) {
		for drain := drainer(q); pb.Next(); drain() {
			q.Record(d)
		}
	})
}

// BenchmarkRecordFull is the same when there is no room.
func BenchmarkRecordFull(b *testing.B) {
	q := NewQueue(nil)
	d := Decision{ID: NewID(), Time: time.Now(), Method: "/bank.ledger.v1.LedgerService/PostTransfer", Allowed: true}
	for range defaultCapacity {
		q.Record(d)
	}
	b.ReportAllocs()
	for b.Loop() {
		q.Record(d)
	}
}

// drainer returns what stores records at once, every so often.
func drainer(q *Queue) func() {
	calls := 0
	return func() {
		if calls++; calls%1000 == 0 {
			q.mu.Lock()
			q.sent, q.acked = q.last, q.last
			q.mu.Unlock()
		}
	}
}
