package store_test

import (
	"testing"
)

// BenchmarkAppend is what it costs to store a batch for good, and with it to be acknowledged.
func BenchmarkAppend(b *testing.B) {
	s, _ := open(b)
	const batch = 256
	sequence := int64(1)
	for b.Loop() {
		if _, err := s.Append(b.Context(), ledger, run1, decisions(sequence, sequence+batch-1)); err != nil {
			b.Fatal(err)
		}
		sequence += batch
	}
	b.ReportMetric(float64(b.Elapsed().Nanoseconds())/float64(sequence-1), "ns/record")
}
