package policy_test

import (
	"strings"
	"testing"

	"github.com/spiffe/go-spiffe/v2/spiffeid"

	"github.com/countersign-mesh/countersign/pkg/policy"
)

var own = spiffeid.RequireTrustDomainFromString("bank.test")

func mustPattern(t testing.TB, text string) policy.Pattern {
	t.Helper()
	pattern, err := policy.ParsePattern(own, text)
	if err != nil {
		t.Fatal(err)
	}
	return pattern
}

// longest is an ID of 2048 bytes, as long as one may be (SPIFFE-ID §2.3).
var longest = "spiffe://bank.test/team/" + strings.Repeat("x", 2048-len("spiffe://bank.test/team/"))

func TestPatternMatches(t *testing.T) {
	t.Parallel()
	for name, test := range map[string]struct {
		pattern, id string
		want        bool
	}{
		"the short form means the ID":                                          {"/payments", "spiffe://bank.test/payments", true},
		"the whole form means the ID":                                          {"spiffe://bank.test/payments", "spiffe://bank.test/payments", true},
		"an ID of two segments means itself":                                   {"/team/payments", "spiffe://bank.test/team/payments", true},
		"the whole form of another domain means its ID":                        {"spiffe://partner.test/reader", "spiffe://partner.test/reader", true},
		"an ID does not mean one below it (ATTACKS 13)":                        {"/payments", "spiffe://bank.test/payments/x", false},
		"an ID does not mean one above it":                                     {"/payments/x", "spiffe://bank.test/payments", false},
		"an ID does not mean a longer name (ATTACKS 13)":                       {"/payments", "spiffe://bank.test/payments-evil", false},
		"an ID does not mean a shorter name":                                   {"/payments", "spiffe://bank.test/payment", false},
		"an ID does not mean its last segment alone":                           {"/team/payments", "spiffe://bank.test/payments", false},
		"an ID does not mean its last segment elsewhere":                       {"/payments", "spiffe://bank.test/evil/payments", false},
		"an ID does not mean the same in upper case":                           {"/payments", "spiffe://bank.test/Payments", false},
		"an ID does not mean its path in a longer domain (ATTACKS 13)":         {"/payments", "spiffe://bank.test.evil/payments", false},
		"an ID does not mean its path in a domain below":                       {"/payments", "spiffe://evil.bank.test/payments", false},
		"an ID does not mean its path in another domain":                       {"/payments", "spiffe://partner.test/payments", false},
		"an ID does not mean the domain as a segment":                          {"/payments", "spiffe://evil/bank.test/payments", false},
		"an ID does not mean its trust domain":                                 {"/payments", "spiffe://bank.test", false},
		"a subtree means what is below it":                                     {"/payments/**", "spiffe://bank.test/payments/x", true},
		"a subtree means what is far below it":                                 {"/payments/**", "spiffe://bank.test/payments/x/y/z", true},
		"a subtree written whole means what is below it":                       {"spiffe://bank.test/payments/**", "spiffe://bank.test/payments/x", true},
		"a subtree of two segments means what is below it":                     {"/team/payments/**", "spiffe://bank.test/team/payments/x", true},
		"a subtree does not mean its root":                                     {"/payments/**", "spiffe://bank.test/payments", false},
		"a subtree does not mean its sibling":                                  {"/payments/**", "spiffe://bank.test/risk", false},
		"a subtree does not mean what is below its sibling":                    {"/payments/**", "spiffe://bank.test/risk/x", false},
		"a subtree ends where its segment ends (ATTACKS 13)":                   {"/payments/**", "spiffe://bank.test/payments-evil/x", false},
		"a subtree ends where its segment ends, with a name that goes on":      {"/payments/**", "spiffe://bank.test/paymentsx", false},
		"a subtree does not mean a shorter name":                               {"/payments/**", "spiffe://bank.test/payment/x", false},
		"a subtree does not mean another domain":                               {"/payments/**", "spiffe://partner.test/payments/x", false},
		"a subtree does not mean the same further down":                        {"/payments/**", "spiffe://bank.test/evil/payments/x", false},
		"the own domain means every workload of it":                            {"/**", "spiffe://bank.test/payments", true},
		"the own domain means what is far down in it":                          {"/**", "spiffe://bank.test/a/b/c", true},
		"the own domain written whole means the same":                          {"spiffe://bank.test/**", "spiffe://bank.test/payments", true},
		"the own domain does not mean another one":                             {"/**", "spiffe://partner.test/payments", false},
		"the own domain does not mean a longer one (ATTACKS 13)":               {"/**", "spiffe://bank.test.evil/payments", false},
		"the own domain does not mean one that goes on with a dash":            {"/**", "spiffe://bank.test-evil/payments", false},
		"the own domain does not mean one below it":                            {"/**", "spiffe://evil.bank.test/payments", false},
		"the own domain does not mean its own ID (ATTACKS 3)":                  {"/**", "spiffe://bank.test", false},
		"another domain means every workload of it":                            {"spiffe://partner.test/**", "spiffe://partner.test/reader", true},
		"another domain does not mean the own one":                             {"spiffe://partner.test/**", "spiffe://bank.test/reader", false},
		"another domain does not mean its own ID":                              {"spiffe://partner.test/**", "spiffe://partner.test", false},
		"a segment that only looks like a domain is a segment":                 {"/bank.test/**", "spiffe://bank.test/bank.test/x", true},
		"an ID of 2048 bytes is meant by its own pattern":                      {longest, longest, true},
		"an ID of 2048 bytes is meant by the subtree that it is in":            {"/team/**", longest, true},
		"an ID of 2048 bytes is meant by its own domain":                       {"/**", longest, true},
		"an ID of 2048 bytes is not meant by one that differs in the last":     {longest[:2047] + "y", longest, false},
		"an ID of 2047 bytes is not meant by one that goes on for another one": {longest, longest[:2047], false},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			if got := mustPattern(t, test.pattern).Matches(spiffeid.RequireFromString(test.id)); got != test.want {
				t.Errorf("Matches(%s) of %s = %v, want %v", test.id, test.pattern, got, test.want)
			}
		})
	}
}

func TestNobodyIsMeantByAnyPattern(t *testing.T) {
	t.Parallel()
	var nobody spiffeid.ID
	for _, pattern := range []policy.Pattern{{}, mustPattern(t, "/payments"), mustPattern(t, "/payments/**"), mustPattern(t, "/**")} {
		if pattern.Matches(nobody) {
			t.Errorf("%q means nobody", pattern)
		}
	}
	// A domain that was never set has no workloads.
	unset, err := policy.ParsePattern(spiffeid.TrustDomain{}, "/**")
	if err != nil {
		t.Fatal(err)
	}
	for _, pattern := range []policy.Pattern{{}, unset} {
		for _, id := range []string{"spiffe://bank.test/payments", "spiffe://bank.test"} {
			if pattern.Matches(spiffeid.RequireFromString(id)) {
				t.Errorf("the pattern %q, which means nobody, means %s", pattern, id)
			}
		}
		if id, one := pattern.ID(); one {
			t.Errorf("the pattern that means nobody means %q", id)
		}
	}
}

func TestParsePatternRefuses(t *testing.T) {
	t.Parallel()
	for name, test := range map[string]struct{ text, want string }{
		"nothing":                                 {"", "no SPIFFE ID: cannot be empty"},
		"a name without a slash":                  {"payments", "no SPIFFE ID: scheme is missing or invalid"},
		"another scheme":                          {"https://bank.test/payments", "no SPIFFE ID: scheme is missing or invalid"},
		"the scheme in upper case (ATTACKS 7)":    {"SPIFFE://bank.test/payments", "no SPIFFE ID: scheme is missing or invalid"},
		"one slash too few":                       {"spiffe:/bank.test/payments", "no SPIFFE ID: scheme is missing or invalid"},
		"no trust domain":                         {"spiffe:///payments", "no SPIFFE ID: trust domain is missing"},
		"a subtree of no trust domain":            {"spiffe:///**", "no SPIFFE ID: trust domain is missing"},
		"a scheme and stars":                      {"spiffe://**", "no SPIFFE ID: scheme is missing or invalid"},
		"a trust domain alone (ATTACKS 3)":        {"spiffe://bank.test", "names a trust domain and no workload; add a path, such as /payments, or /**"},
		"a trust domain with a slash":             {"spiffe://bank.test/", "no SPIFFE ID: path cannot have a trailing slash"},
		"a trust domain in upper case":            {"spiffe://BANK.test/payments", "no SPIFFE ID: trust domain characters"},
		"a port":                                  {"spiffe://bank.test:80/payments", "no SPIFFE ID: trust domain characters"},
		"a user":                                  {"spiffe://me@bank.test/payments", "no SPIFFE ID: trust domain characters"},
		"a query":                                 {"/payments?x", "no SPIFFE ID: path segment characters"},
		"a fragment":                              {"/payments#x", "no SPIFFE ID: path segment characters"},
		"a percent-encoded letter":                {"/pay%6dents", "no SPIFFE ID: path segment characters"},
		"a space":                                 {"/payments ", "no SPIFFE ID: path segment characters"},
		"a letter that only looks like one":       {"/p\u0430yments", "no SPIFFE ID: path segment characters"},
		"an empty segment":                        {"/team//payments", "no SPIFFE ID: path cannot contain empty segments"},
		"a dot segment":                           {"/team/./payments", "no SPIFFE ID: path cannot contain dot segments"},
		"a dot segment that leads out":            {"/team/../payments", "no SPIFFE ID: path cannot contain dot segments"},
		"a trailing slash":                        {"/payments/", "no SPIFFE ID: path cannot have a trailing slash"},
		"a slash alone":                           {"/", "no SPIFFE ID: path cannot have a trailing slash"},
		"one star":                                {"/payments/*", "a star stands at the end alone, as in /payments/**"},
		"three stars":                             {"/payments/***", "a star stands at the end alone"},
		"stars alone":                             {"**", "a star stands at the end alone"},
		"stars without a slash":                   {"/payments**", "a star stands at the end alone"},
		"stars in the middle":                     {"/team/**/payments", "a star stands at the end alone"},
		"a star within a segment":                 {"/pay*", "a star stands at the end alone"},
		"stars twice":                             {"/team/**/**", "a star stands at the end alone"},
		"a star for the trust domain":             {"spiffe://*/payments", "a star stands at the end alone"},
		"a star in a domain above a subtree":      {"spiffe://*.test/**", "a star stands at the end alone"},
		"a subtree of a path with a dot segment":  {"/team/../**", "no SPIFFE ID: path cannot contain dot segments"},
		"a subtree of a path with trailing slash": {"/team//**", "no SPIFFE ID: path cannot have a trailing slash"},
		"a subtree of nothing, written twice":     {"//**", "no SPIFFE ID: path cannot have a trailing slash"},
		"a subtree without a leading slash":       {"payments/**", "no SPIFFE ID: scheme is missing or invalid"},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			got, err := policy.ParsePattern(own, test.text)
			if err == nil {
				t.Fatalf("%q was read as %q", test.text, got)
			}
			if !strings.Contains(err.Error(), test.want) {
				t.Errorf("the error is %q, want %q", err, test.want)
			}
			if got != (policy.Pattern{}) {
				t.Errorf("with the error came %q", got)
			}
		})
	}
}

func TestPatternIsWrittenWholeAndShort(t *testing.T) {
	t.Parallel()
	for name, test := range map[string]struct{ text, whole, short, one string }{
		"an ID of the own domain":       {"/payments", "spiffe://bank.test/payments", "/payments", "spiffe://bank.test/payments"},
		"an ID that is written whole":   {"spiffe://bank.test/payments", "spiffe://bank.test/payments", "/payments", "spiffe://bank.test/payments"},
		"an ID of another domain":       {"spiffe://partner.test/x", "spiffe://partner.test/x", "spiffe://partner.test/x", "spiffe://partner.test/x"},
		"an ID of a domain that begins": {"spiffe://bank.test.evil/x", "spiffe://bank.test.evil/x", "spiffe://bank.test.evil/x", "spiffe://bank.test.evil/x"},
		"a subtree of the own domain":   {"/payments/**", "spiffe://bank.test/payments/**", "/payments/**", ""},
		"the own domain":                {"/**", "spiffe://bank.test/**", "/**", ""},
		"another domain":                {"spiffe://partner.test/**", "spiffe://partner.test/**", "spiffe://partner.test/**", ""},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			pattern := mustPattern(t, test.text)
			if got := pattern.String(); got != test.whole {
				t.Errorf("String = %q, want %q", got, test.whole)
			}
			if got := pattern.Short(own); got != test.short {
				t.Errorf("Short = %q, want %q", got, test.short)
			}
			id, one := pattern.ID()
			if one != (test.one != "") || one && id.String() != test.one {
				t.Errorf("ID = %q, %v, want %q", id, one, test.one)
			}
			domain, _, _ := strings.Cut(strings.TrimPrefix(test.whole, "spiffe://"), "/")
			if got := pattern.TrustDomain().Name(); got != domain {
				t.Errorf("TrustDomain = %q, want %q", got, domain)
			}
			if again := mustPattern(t, pattern.String()); again != pattern {
				t.Errorf("what String writes is read as %q", again)
			}
			if again := mustPattern(t, pattern.Short(own)); again != pattern {
				t.Errorf("what Short writes is read as %q", again)
			}
		})
	}
}

func TestPatternCovers(t *testing.T) {
	t.Parallel()
	for name, test := range map[string]struct {
		pattern, other string
		want           bool
	}{
		"an ID covers itself":                              {"/payments", "/payments", true},
		"an ID covers itself, written whole":               {"/payments", "spiffe://bank.test/payments", true},
		"an ID does not cover another":                     {"/payments", "/risk", false},
		"an ID does not cover its path in another domain":  {"/payments", "spiffe://partner.test/payments", false},
		"an ID does not cover what is below it":            {"/payments", "/payments/x", false},
		"an ID does not cover the subtree below it":        {"/payments", "/payments/**", false},
		"a subtree covers itself":                          {"/payments/**", "/payments/**", true},
		"a subtree covers an ID in it":                     {"/payments/**", "/payments/x", true},
		"a subtree covers a subtree in it":                 {"/payments/**", "/payments/x/**", true},
		"a subtree does not cover its root":                {"/payments/**", "/payments", false},
		"a subtree does not cover the one above it":        {"/payments/x/**", "/payments/**", false},
		"a subtree does not cover its sibling":             {"/payments/**", "/risk/**", false},
		"a subtree does not cover one that starts alike":   {"/payments/**", "/payments-evil/**", false},
		"the own domain covers an ID":                      {"/**", "/payments", true},
		"the own domain covers a subtree":                  {"/**", "/payments/**", true},
		"the own domain covers itself":                     {"/**", "spiffe://bank.test/**", true},
		"the own domain does not cover another domain":     {"/**", "spiffe://partner.test/**", false},
		"the own domain does not cover one that is longer": {"/**", "spiffe://bank.test.evil/x", false},
		"a subtree does not cover its domain":              {"/payments/**", "/**", false},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			if got := mustPattern(t, test.pattern).Covers(mustPattern(t, test.other)); got != test.want {
				t.Errorf("%s covers %s: %v, want %v", test.pattern, test.other, got, test.want)
			}
		})
	}
}
