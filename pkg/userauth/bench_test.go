package userauth_test

import (
	"context"
	"testing"

	"github.com/countersign-mesh/countersign/pkg/userauth"
	"github.com/countersign-mesh/countersign/pkg/userauth/jwks"
	"github.com/countersign-mesh/countersign/pkg/userauth/userauthtest"
)

// BenchmarkVerify is the cost of the token of a call: of one that is known by now, and of one that is new.
func BenchmarkVerify(b *testing.B) {
	w := newWorld(b)
	keys := jwks.New(func(context.Context) ([]byte, error) { return w.issuer.JWKS(b), nil })
	v := userauth.NewVerifier(keys, issuer, audience, userauth.WithRevocations(w.revoked))
	verify := func(b *testing.B, token string) {
		if _, err := v.Verify(b.Context(), token, w.phone.Leaf); err != nil {
			b.Fatal(err)
		}
	}
	known := w.token(nil)
	verify(b, known)
	b.Run("known", func(b *testing.B) {
		b.ReportAllocs()
		for b.Loop() {
			verify(b, known)
		}
	})
	b.Run("known, 2 at once", func(b *testing.B) {
		b.RunParallel(func(pb *testing.PB) {
			for pb.Next() {
				verify(b, known)
			}
		})
	})
	fresh := make([]string, 5000) // more than are remembered
	for i := range fresh {
		fresh[i] = w.token(userauthtest.Claims{"exp": from(3000e9)})
	}
	b.Run("new", func(b *testing.B) {
		b.ReportAllocs()
		for i := 0; b.Loop(); i++ {
			verify(b, fresh[i%len(fresh)])
		}
	})
}
