package authz_test

import (
	"testing"

	"github.com/spiffe/go-spiffe/v2/spiffeid"

	"github.com/countersign-mesh/countersign/pkg/identity"
	"github.com/countersign-mesh/countersign/pkg/policy"
)

const policyText = `trust_domain: bank.test
services:
  bank.ledger.v1.LedgerService:
    methods:
      PostTransfer:
        allow:
          - peer: /payments
            why: moves money
      GetBalance:
        allow:
          - peer: spiffe://bank.test/accounts
          - peer: spiffe://partner.test/reader
      Burn:
        allow: []
`

func mustParse(t testing.TB, text string) *policy.Policy {
	t.Helper()
	parsed, err := policy.Parse("p.yaml", []byte(text))
	if err != nil {
		t.Fatal(err)
	}
	return parsed
}

// callOf is a call of a method by a peer, whose request is not known.
func callOf(method string, peer spiffeid.ID) policy.Call {
	return policy.Call{Method: method, Peer: &identity.Peer{ID: peer}}
}
