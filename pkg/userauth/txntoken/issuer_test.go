package txntoken_test

import (
	"errors"
	"strings"
	"testing"
	"time"

	"github.com/go-jose/go-jose/v4"

	"github.com/countersign-mesh/countersign/pkg/userauth/txntoken"
)

// Nothing is issued that is not taken, and nothing that lives for longer than was meant.
func TestTheIssuerSignsNoNonsense(t *testing.T) {
	t.Parallel()
	b := newBank(t)
	for name, test := range map[string]struct {
		change func(token *txntoken.Token)
		want   string
	}{
		"no transaction":  {func(token *txntoken.Token) { token.ID = "" }, "txn"},
		"no customer":     {func(token *txntoken.Token) { token.Subject = "" }, "sub"},
		"no scope":        {func(token *txntoken.Token) { token.Scope = "" }, "scope"},
		"nobody asked":    {func(token *txntoken.Token) { token.Requesters = nil }, "req_wl"},
		"no workload did": {func(token *txntoken.Token) { token.Requesters = []string{"/gateway"} }, "req_wl"},
		"it has ended":    {func(token *txntoken.Token) { token.Expires = begin.Add(-time.Second) }, "lives"},
		"it is too long":  {func(token *txntoken.Token) { token.Context["a"] = strings.Repeat("x", 8192) }, "bytes"},
	} {
		token := transfer()
		test.change(&token)
		if raw, err := b.issuer.Issue(token); err == nil || !strings.Contains(err.Error(), test.want) || raw != "" {
			t.Errorf("%s: %q, %v", name, raw, err)
		}
	}
	for name, issuer := range map[string]*txntoken.Issuer{
		"too long a lifetime": b.issuerOf(issuerName, audience, txntoken.MaxLifetime+time.Second),
		"no lifetime":         b.issuerOf(issuerName, audience, 0),
		"no audience":         b.issuerOf(issuerName, "", lifetime),
	} {
		if _, err := issuer.Issue(transfer()); err == nil {
			t.Errorf("%s: it was issued", name)
		}
	}
}

func TestATokenEndsWithWhatItIsIssuedFor(t *testing.T) {
	t.Parallel()
	b := newBank(t)
	for _, test := range []struct{ until, want time.Duration }{{0, lifetime}, {time.Hour, lifetime}, {time.Minute, time.Minute}} {
		token := transfer()
		if test.until > 0 {
			token.Expires = begin.Add(test.until)
		}
		got, err := b.verifier.Verify(t.Context(), b.issue(t, token))
		if err != nil || got.Expires.Sub(begin) != test.want {
			t.Errorf("until %v: %v, %v", test.until, got, err)
		}
	}
}

func TestWithoutAGoodKeyNothingIsSigned(t *testing.T) {
	t.Parallel()
	errNone := errors.New("there is no key")
	key := newKey(t, "k1")
	for name, test := range map[string]struct {
		key jose.JSONWebKey
		err error
	}{
		"none":            {jose.JSONWebKey{}, errNone},
		"an empty one":    {jose.JSONWebKey{}, nil},
		"a public one":    {key.Public(), nil},
		"a shared one":    {jose.JSONWebKey{Key: []byte(strings.Repeat("x", 32)), KeyID: "k1"}, nil},
		"one unnamed":     {jose.JSONWebKey{Key: key.Key}, nil},
		"one for secrets": {jose.JSONWebKey{Key: key.Key, KeyID: "k1", Use: "enc"}, nil},
	} {
		issuer := txntoken.NewIssuer(func() (jose.JSONWebKey, error) { return test.key, test.err }, "", audience, lifetime)
		if raw, err := issuer.Issue(transfer()); err == nil || raw != "" || test.err != nil && !errors.Is(err, test.err) {
			t.Errorf("%s: %q, %v", name, raw, err)
		}
	}
}
