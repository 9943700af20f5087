package password

import (
	"context"
	"errors"
	"strings"
	"testing"
)

const (
	cafe       = "caf\u00e9 on the corner"
	decomposed = "cafe\u0301 on the corner"
)

// The parameters are OWASP's least (Password Storage Cheat Sheet, argon2id) and the salt is RFC 9106 §3.1's 16 bytes.
func TestAHashIsArgon2idOfASaltOfItsOwn(t *testing.T) {
	t.Parallel()
	h := New()
	first, err := h.Hash(t.Context(), cafe)
	if err != nil {
		t.Fatal(err)
	}
	second, err := h.Hash(t.Context(), cafe)
	if err != nil {
		t.Fatal(err)
	}
	const header = "$argon2id$v=19$m=19456,t=2,p=1$"
	if !strings.HasPrefix(first, header) || first == second || strings.Contains(first, "corner") {
		t.Errorf("%s and %s", first, second)
	}
	if salt, sum, err := decode(first); err != nil || len(salt) != 16 || len(sum) != 32 {
		t.Errorf("a salt of %d bytes, a sum of %d, %v", len(salt), len(sum), err)
	}
}

func TestAPasswordMatchesItsOwnHashAlone(t *testing.T) {
	t.Parallel()
	h := New()
	hash, err := h.Hash(t.Context(), cafe)
	if err != nil {
		t.Fatal(err)
	}
	for password, want := range map[string]bool{
		cafe: true, decomposed: true, // RFC 8265 §4.2.2: one password, however Unicode writes it
		"Caf\u00e9 on the corner": false, cafe + " ": false, "": false, "caf\u00e9\x00": false,
	} {
		if got, err := h.Matches(t.Context(), hash, password); err != nil || got != want {
			t.Errorf("%q: %v, %v; want %v", password, got, err, want)
		}
	}
	for name, broken := range map[string]string{
		"another algorithm": strings.Replace(hash, "argon2id", "argon2i", 1),
		"fewer passes":      strings.Replace(hash, "t=2", "t=1", 1),
		"no sum":            hash[:strings.LastIndex(hash, "$")+1],
		"no hash":           "x",
	} {
		if got, err := h.Matches(t.Context(), broken, cafe); got || !errors.Is(err, errForm) {
			t.Errorf("%s: %v, %v", name, got, err)
		}
	}
}

// Whoever asks must not learn from the time it takes whether there is such a customer: a hash is computed for nobody and for a password that nobody can have too.
func TestNobodysPasswordCostsAHashToo(t *testing.T) {
	t.Parallel()
	h := New()
	if _, _, err := decode(h.decoy); err != nil {
		t.Fatalf("the decoy: %v", err)
	}
	hash, err := h.Hash(t.Context(), cafe)
	if err != nil {
		t.Fatal(err)
	}
	for range atOnce { // all who may compute do: whoever computes too has to wait
		h.turns <- struct{}{}
	}
	done, cancel := context.WithCancel(t.Context())
	cancel()
	for name, c := range map[string]struct{ hash, password string }{
		"a customer":                      {hash, cafe},
		"nobody":                          {"", cafe},
		"a password that nobody can have": {hash, "\x00"},
		"nobody, and such a password":     {"", "\x00"},
	} {
		if _, err := h.Matches(done, c.hash, c.password); !errors.Is(err, context.Canceled) {
			t.Errorf("%s: it did not compute: %v", name, err)
		}
	}
	for range atOnce {
		<-h.turns
	}
	for _, password := range []string{cafe, "", "\x00"} {
		if matches, err := h.Matches(t.Context(), "", password); err != nil || matches {
			t.Errorf("nobody has the password %q: %v", password, err)
		}
	}
}
