package pagetoken_test

import (
	"encoding/base64"
	"errors"
	"math"
	"strings"
	"testing"

	"github.com/countersign-mesh/countersign/pkg/pagetoken"
)

const scope = "bank.ledger.v1.LedgerService/ListEntries:acc-one"

func TestDecodeReturnsWhatEncodeTook(t *testing.T) {
	t.Parallel()
	for _, position := range []int64{0, 1, -1, 41, math.MaxInt64, math.MinInt64} {
		token := pagetoken.Encode(scope, position)
		got, err := pagetoken.Decode(scope, token)
		if err != nil || got != position {
			t.Errorf("Decode(Encode(%d)) = %d, %v", position, got, err)
		}
	}
}

func TestTheEmptyTokenIsTheFirstPage(t *testing.T) {
	t.Parallel()
	if got, err := pagetoken.Decode(scope, ""); err != nil || got != 0 {
		t.Errorf("Decode of an empty token = %d, %v; want 0", got, err)
	}
}

func TestDecodeRefuses(t *testing.T) {
	t.Parallel()
	good := pagetoken.Encode(scope, 41)
	changed := func(i int) string {
		raw, err := base64.RawURLEncoding.DecodeString(good)
		if err != nil {
			t.Fatal(err)
		}
		raw[i] ^= 1
		return base64.RawURLEncoding.EncodeToString(raw)
	}
	tests := map[string]string{
		"a token of another account":       pagetoken.Encode(strings.Replace(scope, "one", "two", 1), 41),
		"a token of another method":        pagetoken.Encode(strings.Replace(scope, "ListEntries", "ListPayments", 1), 41),
		"a token of no scope":              pagetoken.Encode("", 41),
		"a changed position":               changed(7),
		"a changed checksum":               changed(15),
		"a token that was cut short":       good[:len(good)-1],
		"a token with more behind it":      good + "AAAA",
		"a bare number":                    "41",
		"a token with a line break in it":  good[:4] + "\n" + good[4:],
		"a token with padding":             good + "==",
		"a token with its unused bits set": good[:len(good)-1] + string(good[len(good)-1]+1),
		"no base64 at all":                 "!!!",
	}
	for name, token := range tests {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			if got, err := pagetoken.Decode(scope, token); !errors.Is(err, pagetoken.ErrInvalid) {
				t.Errorf("Decode(%q) = %d, %v; want ErrInvalid", token, got, err)
			}
		})
	}
}

// FuzzDecode holds that a token which is taken is the very one that Encode makes, and that it is taken for one scope only.
func FuzzDecode(f *testing.F) {
	f.Add(scope, pagetoken.Encode(scope, 7))
	f.Add("", pagetoken.Encode("", math.MinInt64))
	f.Add(scope, "")
	f.Add(scope, "AAAA")
	good := pagetoken.Encode(scope, 41)
	f.Add("", good)                                                     // another list's
	f.Add(scope, good[:4]+"\n"+good[4:])                                // what base64 leaves out
	f.Add(scope, good+"==")                                             // padding
	f.Add(scope, good[:len(good)-1]+string(good[len(good)-1]+1))        // unused bits
	f.Add(scope, strings.Repeat("\n", 22))                              // the right length, and nothing in it
	f.Add(scope, strings.NewReplacer("-", "+", "_", "/").Replace(good)) // the other alphabet
	f.Fuzz(func(t *testing.T, scope, token string) {
		position, err := pagetoken.Decode(scope, token)
		if err != nil {
			if !errors.Is(err, pagetoken.ErrInvalid) || position != 0 {
				t.Fatalf("Decode = %d, %v; want 0 and ErrInvalid", position, err)
			}
			return
		}
		if token != "" && pagetoken.Encode(scope, position) != token {
			t.Fatalf("Decode took %q for %d, which Encode writes %q", token, position, pagetoken.Encode(scope, position))
		}
		if _, err := pagetoken.Decode(scope+"x", token); token != "" && err == nil {
			t.Fatalf("Decode took %q for another scope", token)
		}
	})
}

// FuzzEncode holds that every position of every scope comes back, that its token has the one length and the letters that a URL takes, and that no
// other position has it.
func FuzzEncode(f *testing.F) {
	f.Add(scope, int64(7))
	f.Add("", int64(math.MinInt64))
	f.Add("a\x00b", int64(math.MaxInt64))
	f.Fuzz(func(t *testing.T, scope string, position int64) {
		token := pagetoken.Encode(scope, position)
		if got, err := pagetoken.Decode(scope, token); err != nil || got != position {
			t.Fatalf("Decode(Encode(%d)) = %d, %v", position, got, err)
		}
		if len(token) != 22 || strings.Trim(token, "ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789-_") != "" {
			t.Fatalf("Encode(%d) = %q", position, token)
		}
		if pagetoken.Encode(scope, position+1) == token {
			t.Fatalf("%d and the next position have the one token %q", position, token)
		}
	})
}
