package identity_test

import "strings"

// idRefusals are leaves whose one URI is not a SPIFFE ID (ATTACKS 4 and 7).
func idRefusals() []refusal {
	long := strings.Repeat("a.", 128) + "a"
	all := []refusal{
		{
			name: "an ID over 2,048 bytes", attack: 4, rule: "spiffe-id-length", holds: spec("Countersign id-length"),
			chain: leaf(named("spiffe://bank.test/" + strings.Repeat("a", 2048))), ordinary: true,
		},
		{name: "a trust domain over 255 bytes", attack: 4, rule: "spiffe-id-grammar", holds: spec("Countersign id-length"), chain: leaf(named("spiffe://" + long + "/payments"))},
	}
	for _, c := range []struct {
		name, uri, holds string
		ordinary         bool
	}{
		{"another scheme", "https://bank.test/payments", "SPIFFE-ID §2 scheme", false},
		{"an upper-case scheme", "SPIFFE://bank.test/payments", "SPIFFE-ID §2 scheme", true},
		{"no scheme", "//bank.test/payments", "SPIFFE-ID §2 scheme", false},
		{"an empty URI", "", "SPIFFE-ID §2 scheme", false},
		{"one slash", "spiffe:/bank.test/payments", "SPIFFE-ID §2 trust-domain", false},
		{"an opaque URI", "spiffe:bank.test/payments", "SPIFFE-ID §2 trust-domain", false},
		{"a query", "spiffe://bank.test/payments?admin=1", "SPIFFE-ID §2 no-query", false},
		{"an empty query", "spiffe://bank.test/payments?", "SPIFFE-ID §2 no-query", false},
		{"a fragment", "spiffe://bank.test/payments#x", "SPIFFE-ID §2 no-fragment", false},
		{"an empty fragment", "spiffe://bank.test/payments#", "SPIFFE-ID §2 no-fragment", true},

		{"no trust domain", "spiffe:///payments", "SPIFFE-ID §2.1 host-not-empty", false},
		{"a port", "spiffe://bank.test:8443/payments", "SPIFFE-ID §2.1 no-userinfo-no-port", false},
		{"an empty port", "spiffe://bank.test:/payments", "SPIFFE-ID §2.1 no-userinfo-no-port", false},
		{"userinfo", "spiffe://root@bank.test/payments", "SPIFFE-ID §2.1 no-userinfo-no-port", false},
		{"empty userinfo", "spiffe://@bank.test/payments", "SPIFFE-ID §2.1 no-userinfo-no-port", false},
		{"an upper-case trust domain", "spiffe://Bank.test/payments", "SPIFFE-ID §2.1 host-lowercase", false},
		{"a tilde in the trust domain", "spiffe://bank~test/payments", "SPIFFE-ID §2.1 host-characters", false},
		{"an IPv6 address", "spiffe://[::1]/payments", "SPIFFE-ID §2.1 host-characters", false},

		{"percent-encoding", "spiffe://bank.test/%70ayments", "SPIFFE-ID §2.2 path-not-percent-encoded", false},
		{"a percent-encoded slash", "spiffe://bank.test/a%2fpayments", "SPIFFE-ID §2.2 path-not-percent-encoded", false},
		{"an empty segment", "spiffe://bank.test//payments", "SPIFFE-ID §2.2 no-empty-or-relative-segment", false},
		{"a dot segment", "spiffe://bank.test/./payments", "SPIFFE-ID §2.2 no-empty-or-relative-segment", false},
		{"a double dot segment", "spiffe://bank.test/x/../payments", "SPIFFE-ID §2.2 no-empty-or-relative-segment", false},
		{"a trailing slash", "spiffe://bank.test/payments/", "SPIFFE-ID §2.2 no-trailing-slash", false},
		{"a space", "spiffe://bank.test/pay ments", "SPIFFE-ID §2.2 path-characters", false},
		{"a tilde in the path", "spiffe://bank.test/~payments", "SPIFFE-ID §2.2 path-characters", false},
		{"a colon in the path", "spiffe://bank.test/payments:admin", "SPIFFE-ID §2.2 path-characters", false},
	} {
		grammar := refusal{name: c.name, attack: 7, rule: "spiffe-id-grammar", holds: spec(c.holds), chain: leaf(named(c.uri)), ordinary: c.ordinary}
		if c.holds == "SPIFFE-ID §2 scheme" {
			grammar.holds = append(grammar.holds, "X509-SVID §5.2 scheme")
		}
		all = append(all, grammar)
	}
	return all
}

// rawIDRefusals are IDs that crypto/x509 refuses to parse. The verifier does not lean on that (ATTACKS 4 and 7).
func rawIDRefusals() []refusal {
	var all []refusal
	for _, c := range []struct{ name, uri, holds string }{
		{"a percent-encoded trust domain", "spiffe://b%61nk.test/payments", "SPIFFE-ID §2.1 host-not-percent-encoded"},
		{"a percent-encoded letter that is not ASCII", "spiffe://b%C3%A4nk.test/payments", "SPIFFE-ID §2.1 host-not-percent-encoded"},
		{"a trust domain that is not ASCII", "spiffe://bänk.test/payments", "SPIFFE-ID §2.1 host-characters"},
		{"a port that is not a number", "spiffe://bank.test:x/payments", "SPIFFE-ID §2.1 no-userinfo-no-port"},
		{"a path that is not ASCII", "spiffe://bank.test/zählung", "SPIFFE-ID §2.2 path-characters"},
		{"a zero byte", "spiffe://bank.test/payments\x00", "SPIFFE-ID §2.2 path-characters"},
		{"a line feed", "spiffe://bank.test/payments\n", "SPIFFE-ID §2.2 path-characters"},
		{"a percent sign alone", "spiffe://bank.test/payments%", "SPIFFE-ID §2.2 path-not-percent-encoded"},
	} {
		attack := 7
		if c.name == "a port that is not a number" || c.name == "a zero byte" {
			attack = 4
		}
		all = append(all, refusal{name: c.name, attack: attack, rule: "spiffe-id-grammar", holds: spec(c.holds), chain: rewritten(c.uri)})
	}
	return all
}
