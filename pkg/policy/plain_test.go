package policy_test

import (
	"fmt"
	"testing"

	"github.com/spiffe/go-spiffe/v2/spiffeid"

	_ "github.com/countersign-mesh/countersign/proto/gen/bank/ledger/v1" // whose requests the conditions are about
)

// The ordinary decision is one look-up. What else stands about a peer must not be looked past for it.
func TestARuleThatNamesAPeerDoesNotHideTheOthers(t *testing.T) {
	t.Parallel()
	const (
		allow  = `{peer: /team/a}`
		when   = `{peer: /team/a, when: "request.page_size <= 100"}`
		shadow = `{peer: /team/a, shadow: true}`
		all    = `{peer: /team/**}`
	)
	type verdict struct{ allowed, undecided, shadow bool }
	for name, test := range map[string]struct {
		deny, allow, revoked string
		want                 verdict
	}{
		"it is allowed":                            {allow: allow, want: verdict{allowed: true}},
		"it is denied":                             {deny: allow, allow: allow},
		"it is denied alone":                       {deny: allow},
		"all below are denied":                     {deny: all, allow: allow},
		"it is denied and all below are allowed":   {deny: allow, allow: all},
		"it is denied under a condition":           {deny: when, allow: allow, want: verdict{undecided: true}},
		"it is allowed under a condition":          {allow: when, want: verdict{undecided: true}},
		"it is allowed under a condition and none": {allow: when + ", " + allow, want: verdict{allowed: true}},
		"it is allowed, and denied in shadow":      {deny: shadow, allow: allow, want: verdict{allowed: true, shadow: true}},
		"it is allowed in shadow":                  {allow: shadow, want: verdict{shadow: true}},
		"it is allowed, and revoked":               {allow: allow, revoked: "{id: /team/a}"},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			parsed := mustParse(t, fmt.Sprintf(`trust_domain: bank.test
services: {bank.ledger.v1.LedgerService: {methods: {ListEntries: {deny: [%s], allow: [%s]}}}}
revoked: [%s]
`, test.deny, test.allow, test.revoked))
			got := parsed.Decide(callOf("/bank.ledger.v1.LedgerService/ListEntries", spiffeid.RequireFromString("spiffe://bank.test/team/a")))
			if (verdict{got.Allowed, got.Undecided, got.Shadow.Rule != nil}) != test.want || got.Allowed && got.Rule == nil {
				t.Errorf("got %+v, want %+v", got, test.want)
			}
		})
	}
}
