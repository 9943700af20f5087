package userauth_test

import (
	"encoding/json"
	"strings"
	"testing"
	"time"

	"github.com/countersign-mesh/countersign/pkg/userauth/userauthtest"
)

// Whatever an issuer signs: it does not panic, and whom it lets in is somebody, has a token that ends soon, and is bound to the certificate.
func FuzzClaims(f *testing.F) {
	w := newWorld(f)
	for _, changes := range []userauthtest.Claims{
		nil, {"aud": []string{audience}}, {"exp": 1e18}, {"iat": -1}, {"sub": ""}, {"cnf": nil}, {"cnf": userauthtest.Claims{"x5t#S256": 1}}, {"scope": " "}, {"nbf": nil},
	} {
		text, err := json.Marshal(w.issuer.Claims(w.phone.Leaf, changes))
		if err != nil {
			f.Fatal(err)
		}
		f.Add(string(text))
	}
	bound := userauthtest.Thumbprint(w.phone.Leaf)
	f.Fuzz(func(t *testing.T, content string) {
		p, err := w.verifier.Verify(t.Context(), w.issuer.SignText(t, content), w.phone.Leaf)
		if err != nil {
			return
		}
		if p.Subject == "" || p.Client == "" || p.TokenID == "" || time.Until(p.Expires) > time.Hour+30*time.Second || p.HasScope("") ||
			strings.Count(content, bound) == 0 {
			t.Errorf("%v is let in by %q", p, content)
		}
	})
}
