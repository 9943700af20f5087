package txntoken_test

import (
	"crypto/x509"
	"errors"
	"strings"
	"testing"
	"time"

	"github.com/go-jose/go-jose/v4"
	"github.com/google/go-cmp/cmp"
	"github.com/google/go-cmp/cmp/cmpopts"
	"google.golang.org/grpc/metadata"

	"github.com/countersign-mesh/countersign/pkg/authz"
	"github.com/countersign-mesh/countersign/pkg/policy"
	"github.com/countersign-mesh/countersign/pkg/userauth/txntoken"
)

func TestWhatIsIssuedIsVerified(t *testing.T) {
	t.Parallel()
	for name, key := range map[string]jose.JSONWebKey{"ES256": newKey(t, "k1"), "EdDSA": newEdKey(t, "k1")} {
		b := newBank(t)
		b.key = key
		b.keys.set(key)
		raw := b.issue(t, transfer())
		for range 2 { // by its signature, and by what is remembered of it
			got, err := b.verifier.Verify(t.Context(), raw)
			if err != nil {
				t.Fatalf("%s: %v", name, err)
			}
			want := transfer()
			want.Issued, want.Expires = begin, begin.Add(lifetime)
			if diff := cmp.Diff(&want, got, cmpopts.IgnoreUnexported(txntoken.Token{}), cmpopts.EquateApproxTime(0)); diff != "" {
				t.Errorf("%s: %s", name, diff)
			}
			if got.Raw() != raw {
				t.Errorf("%s: the token is another one", name)
			}
		}
	}
}

// ATTACKS 54, 55 and 60, for transaction tokens.
func TestATokenThatIsNotGoodIsRefused(t *testing.T) {
	t.Parallel()
	b := newBank(t, txntoken.WithIssuer(issuerName), txntoken.WithLeeway(time.Hour)) // of which a minute is heeded
	key, other := b.key.Key, newKey(t, "k2")
	public, err := x509.MarshalPKIXPublicKey(b.key.Public().Key)
	if err != nil {
		t.Fatal(err)
	}
	seconds := func(d time.Duration) int64 { return begin.Add(d).Unix() }
	sign := func(header, claims object) string { return forge(t, key, goodHeader(header), goodClaims(claims)) }
	good := sign(nil, nil)
	for name, test := range map[string]struct{ token, want string }{
		"nothing":                      {"", "three parts"},
		"a word":                       {"token", "three parts"},
		"cut off":                      {good[:len(good)-2], ""},
		"something after it":           {good + "AA", ""},
		"another token's claims":       {strings.Split(good, ".")[0] + "." + strings.Split(sign(nil, object{"sub": "mallory"}), ".")[1] + "." + strings.Split(good, ".")[2], "signature"},
		"too long":                     {sign(nil, object{"tctx": object{"a": strings.Repeat("x", 9000)}}), "bytes"},
		"not signed":                   {forge(t, nil, goodHeader(object{"alg": "none"}), goodClaims(nil)), ""},
		"alg none, with a signature":   {sign(object{"alg": "none"}, nil), "alg"},
		"HS256 with the public key":    {forge(t, public, goodHeader(object{"alg": "HS256"}), goodClaims(nil)), "alg"},
		"ES256, signed with HMAC":      {forge(t, public, goodHeader(nil), goodClaims(nil)), ""},
		"ES384":                        {sign(object{"alg": "ES384"}, nil), "alg"},
		"an unknown crit":              {sign(object{"crit": []string{"x"}, "x": 1}, nil), "crit"},
		"a key of its own":             {forge(t, other.Key, goodHeader(object{"jwk": other.Public()}), goodClaims(nil)), "jwk"},
		"a jku":                        {sign(object{"jku": "https://evil.test"}, nil), "jku"},
		"an x5u":                       {sign(object{"x5u": "https://evil.test"}, nil), "x5u"},
		"a JWE":                        {good + ".AA.AA", "three parts"},
		"an access token":              {sign(object{"typ": "at+jwt"}, nil), "typ"},
		"any JWT":                      {sign(object{"typ": "JWT"}, nil), "typ"},
		"no typ":                       {sign(object{"typ": nil}, nil), "typ"},
		"a whole media type":           {sign(object{"typ": "application/txntoken+jwt"}, nil), "typ"},
		"a typ in capitals":            {sign(object{"typ": "TXNTOKEN+JWT"}, nil), "typ"},
		"another key":                  {forge(t, other.Key, goodHeader(nil), goodClaims(nil)), "signature"},
		"a key that nobody knows":      {forge(t, other.Key, goodHeader(object{"kid": "k2"}), goodClaims(nil)), "kid"},
		"no kid":                       {sign(object{"kid": nil}, nil), "kid"},
		"no aud":                       {sign(nil, object{"aud": nil}), "aud"},
		"an empty aud":                 {sign(nil, object{"aud": ""}), "aud"},
		"no aud in a list":             {sign(nil, object{"aud": []string{}}), "aud"},
		"another trust domain":         {sign(nil, object{"aud": "partner.test"}), "aud"},
		"another trust domain too":     {sign(nil, object{"aud": []string{audience, "partner.test"}}), "aud"},
		"an aud that starts alike":     {sign(nil, object{"aud": audience + ".evil"}), "aud"},
		"null for an aud":              {sign(nil, object{"aud": []any{nil}}), ""},
		"no iss":                       {sign(nil, object{"iss": nil}), "iss"},
		"another iss":                  {sign(nil, object{"iss": "https://evil.test"}), "iss"},
		"no exp":                       {sign(nil, object{"exp": nil}), "exp"},
		"an exp that is a text":        {sign(nil, object{"exp": "tomorrow"}), ""},
		"an exp beyond all time":       {sign(nil, object{"exp": int64(1) << 62}), "lives"},
		"no iat":                       {sign(nil, object{"iat": nil}), "iat"},
		"expired":                      {sign(nil, object{"iat": seconds(-5 * time.Minute), "exp": seconds(-time.Minute)}), "expired"},
		"issued ahead":                 {sign(nil, object{"iat": seconds(61 * time.Second), "exp": seconds(2 * time.Minute)}), "not valid yet"},
		"nbf ahead":                    {sign(nil, object{"nbf": seconds(61 * time.Second)}), "not valid yet"},
		"a lifetime over five minutes": {sign(nil, object{"exp": seconds(5*time.Minute + time.Second)}), "lives"},
		"a lifetime of nothing":        {sign(nil, object{"exp": seconds(0)}), "lives"},
		"no txn":                       {sign(nil, object{"txn": nil}), "txn"},
		"a txn with a line break":      {sign(nil, object{"txn": "a\nb"}), "txn"},
		"a txn that is long":           {sign(nil, object{"txn": strings.Repeat("x", 65)}), "txn"},
		"no sub":                       {sign(nil, object{"sub": nil}), "sub"},
		"a sub with a line break":      {sign(nil, object{"sub": "a\nb"}), "sub"},
		"no scope":                     {sign(nil, object{"scope": nil}), "scope"},
		"an odd scope":                 {sign(nil, object{"scope": "a  b"}), "scope"},
		"no req_wl":                    {sign(nil, object{"req_wl": nil}), "req_wl"},
		"a req_wl that is no workload": {sign(nil, object{"req_wl": "gateway"}), "req_wl"},
		"nobody in req_wl":             {sign(nil, object{"req_wl": []string{}}), "req_wl"},
		"many in req_wl":               {sign(nil, object{"req_wl": strings.Split(strings.Repeat("spiffe://bank.test/a ", 5)[:104], " ")}), "req_wl"},
		"a tctx that is a text":        {sign(nil, object{"tctx": "x"}), ""},
		"a tctx with an object":        {sign(nil, object{"tctx": object{"a": object{}}}), ""},
		"a tctx with a number":         {sign(nil, object{"tctx": object{"a": 1}}), ""},
		"a tctx with null":             {sign(nil, object{"tctx": object{"a": []any{nil}[0]}}), "tctx"},
		"an rctx with a number":        {sign(nil, object{"rctx": object{"a": 1}}), ""},
		"a name twice":                 {forgeText(t, key, marshal(t, goodHeader(nil)), strings.Replace(marshal(t, goodClaims(nil)), `{`, `{"sub":"mallory",`, 1)), ""},
		"a name twice in tctx":         {forgeText(t, key, marshal(t, goodHeader(nil)), strings.Replace(marshal(t, goodClaims(nil)), `"tctx":{`, `"tctx":{"payment_id":"pay-2",`, 1)), ""},
		"a name in capitals":           {sign(nil, object{"sub": nil, "SUB": "alice"}), "sub"},
		"an array":                     {forgeText(t, key, marshal(t, goodHeader(nil)), "[]"), ""},
	} {
		got, err := b.verifier.Verify(t.Context(), test.token)
		if err == nil {
			t.Errorf("%s: it says %+v", name, got)
			continue
		}
		if !errors.Is(err, txntoken.ErrInvalid) || !strings.Contains(err.Error(), test.want) {
			t.Errorf("%s: the error is %q, want one with %q", name, err, test.want)
		}
		for part := range strings.SplitSeq(test.token, ".") {
			if len(part) > 20 && strings.Contains(err.Error(), part[:20]) {
				t.Errorf("%s: the token is in the error %q", name, err)
			}
		}
	}
	if _, err := b.verifier.Verify(t.Context(), good); err != nil {
		t.Errorf("the good one: %v", err)
	}
}

func TestATokenMayBeWrittenInOtherWays(t *testing.T) {
	t.Parallel()
	for name, token := range map[string]struct{ header, claims object }{
		"an audience in a list":   {nil, object{"aud": []string{audience}}},
		"asked for once more":     {nil, object{"req_wl": []string{"spiffe://bank.test/gateway", "spiffe://bank.test/payments"}}},
		"no context":              {nil, object{"tctx": nil}},
		"several scopes":          {nil, object{"scope": "accounts.read transfer"}},
		"other claims":            {nil, object{"jti": "x", "x": object{"y": 1}}},
		"no issuer":               {nil, object{"iss": nil}},
		"issued a second ahead":   {nil, object{"iat": begin.Add(time.Second).Unix()}},
		"expired a second before": {nil, object{"iat": begin.Add(-time.Minute).Unix(), "exp": begin.Add(-time.Second).Unix()}},
	} {
		b := newBank(t)
		if _, err := b.verifier.Verify(t.Context(), forge(t, b.key.Key, goodHeader(token.header), goodClaims(token.claims))); err != nil {
			t.Errorf("%s: %v", name, err)
		}
	}
}

// What is remembered of a token is not believed for longer than the token.
func TestATokenThatIsKnownEndsAllTheSame(t *testing.T) {
	t.Parallel()
	for name, test := range map[string]struct {
		meanwhile func(b *bank)
		want      error
	}{
		"nothing":               {func(b *bank) { b.clock.advance(lifetime + 4*time.Second) }, nil},
		"it has expired":        {func(b *bank) { b.clock.advance(lifetime + 5*time.Second) }, txntoken.ErrInvalid},
		"its key is withdrawn":  {func(b *bank) { b.keys.remove("k1") }, txntoken.ErrInvalid},
		"its key is another":    {func(b *bank) { b.keys.set(newKey(t, "k1")) }, txntoken.ErrInvalid},
		"the keys are not had":  {func(b *bank) { b.keys.setAway(true) }, authz.ErrUnavailable},
		"the clock is set back": {func(b *bank) { b.clock.advance(-time.Minute) }, txntoken.ErrInvalid},
	} {
		b := newBank(t)
		raw := b.issue(t, transfer())
		if _, err := b.verifier.Verify(t.Context(), raw); err != nil {
			t.Fatal(err)
		}
		test.meanwhile(b)
		for range 2 {
			if _, err := b.verifier.Verify(t.Context(), raw); !errors.Is(err, test.want) {
				t.Errorf("%s: the error is %v, want %v", name, err, test.want)
			}
		}
	}
}

func TestKeysThatCannotBeHadAreNotTheTokensFault(t *testing.T) {
	t.Parallel()
	b := newBank(t)
	b.keys.setAway(true)
	_, err := b.verifier.Verify(t.Context(), b.issue(t, transfer()))
	if !errors.Is(err, authz.ErrUnavailable) || !errors.Is(err, errAway) || errors.Is(err, txntoken.ErrInvalid) {
		t.Errorf("the error is %v", err)
	}
}

func TestTheUserOfACall(t *testing.T) {
	t.Parallel()
	b := newBank(t)
	raw, another := b.issue(t, transfer()), b.issue(t, txntoken.Token{ID: "txn-2", Subject: "bob", Scope: "accounts.read", Requesters: transfer().Requesters})
	for name, test := range map[string]struct {
		sent metadata.MD
		want error
	}{
		"one token":             {metadata.Pairs("txn-token", raw), nil},
		"none":                  {metadata.MD{}, policy.ErrNoUser},
		"two":                   {metadata.Pairs("txn-token", raw, "txn-token", another), txntoken.ErrInvalid},
		"the same twice":        {metadata.Pairs("txn-token", raw, "txn-token", raw), txntoken.ErrInvalid},
		"two in one value":      {metadata.Pairs("txn-token", raw+","+raw), txntoken.ErrInvalid},
		"an empty one":          {metadata.Pairs("txn-token", ""), txntoken.ErrInvalid},
		"as an access token is": {metadata.Pairs("authorization", "Bearer "+raw), policy.ErrNoUser},
		"with its kind":         {metadata.Pairs("txn-token", "Bearer "+raw), txntoken.ErrInvalid},
	} {
		ctx, user, err := b.verifier.User(metadata.NewIncomingContext(t.Context(), test.sent))
		if !errors.Is(err, test.want) {
			t.Errorf("%s: the error is %v, want %v", name, err, test.want)
		}
		token, ok := txntoken.FromContext(ctx)
		if ok != (test.want == nil) || (user != nil) != ok {
			t.Errorf("%s: the token is %v and the user %v", name, token, user)
		}
		if test.want != nil {
			continue
		}
		want := &policy.User{
			Subject: "alice", Scope: "transfer", Transaction: "txn-1", Requesters: transfer().Requesters,
			Context: transfer().Context, Expires: begin.Add(lifetime),
		}
		if diff := cmp.Diff(want, user, cmpopts.EquateApproxTime(0)); diff != "" || token.Raw() != raw {
			t.Errorf("%s: %s", name, diff)
		}
		token.Context["amount"] = "1" // a handler must not, and if it does the policy is not told so
		if user.Context["amount"] != "1000" {
			t.Error("the policy sees what a handler makes of the token")
		}
	}
	if _, _, err := b.verifier.User(t.Context()); !errors.Is(err, policy.ErrNoUser) {
		t.Errorf("a call without metadata: %v", err)
	}
}
