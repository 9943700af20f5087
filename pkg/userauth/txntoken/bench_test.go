package txntoken_test

import (
	"testing"

	"google.golang.org/grpc/metadata"
)

// BenchmarkUser is what a rule with a user costs beside the decision: the token in the metadata of a call, known and new.
func BenchmarkUser(b *testing.B) {
	bank := newBank(b)
	b.Run("known", func(b *testing.B) {
		ctx := metadata.NewIncomingContext(b.Context(), metadata.Pairs("txn-token", bank.issue(b, transfer())))
		b.ReportAllocs()
		for b.Loop() {
			if _, _, err := bank.verifier.User(ctx); err != nil {
				b.Fatal(err)
			}
		}
	})
	b.Run("new", func(b *testing.B) {
		b.ReportAllocs()
		for b.Loop() {
			b.StopTimer()
			ctx := metadata.NewIncomingContext(b.Context(), metadata.Pairs("txn-token", bank.issue(b, transfer())))
			b.StartTimer()
			if _, _, err := bank.verifier.User(ctx); err != nil {
				b.Fatal(err)
			}
		}
	})
}
