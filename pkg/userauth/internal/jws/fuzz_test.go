package jws_test

import (
	"strings"
	"testing"

	"github.com/countersign-mesh/countersign/pkg/userauth/internal/jws"
)

// Whatever is sent: it does not panic, only what the key has signed is let in, and that in one spelling only.
func FuzzParse(f *testing.F) {
	key := newKey(f)
	signed := map[string]bool{
		forge(f, key, header(f, nil), content):  true,
		forge(f, key, header(f, nil), `[[[[[[`): true, // the content is for others to read
	}
	for token := range signed {
		f.Add(token)
		f.Add(token + ".")
		f.Add(strings.ToUpper(token))
	}
	for _, seed := range []string{
		"", "..", "a.b.c", "e30.e30.AA", "bnVsbA.e30.AA",
		forge(f, key, `{"alg":"ES256","typ":"at+jwt","kid":"k1","kid":"k2"}`, content),
		forge(f, key, header(f, member{"alg": "none"}), content),
	} {
		f.Add(seed)
	}
	f.Fuzz(func(t *testing.T, token string) {
		parsed, err := jws.Parse(token, options())
		if err != nil {
			return
		}
		if _, err := parsed.Verify(public(&key.PublicKey)); err == nil && !signed[token] {
			t.Errorf("let in, and it is not what was signed: %q", token)
		}
	})
}
