package headers_test

import (
	"testing"

	"github.com/spiffe/go-spiffe/v2/spiffeid"

	"github.com/countersign-mesh/countersign/cmd/countersign/internal/headers"
	"github.com/countersign-mesh/countersign/pkg/policy"
	ledgerv1 "github.com/countersign-mesh/countersign/proto/gen/bank/ledger/v1"
)

const text = `trust_domain: bank.test
services:
  bank.ledger.v1.LedgerService:
    methods:
      PostTransfer:
        allow:
          - peer: /plain
          - {peer: /asked, when: "request.transfer_id != ''"}
          - {peer: /named, when: "peer.path == '/named'"}
          - {peer: /other, when: "peer.path == '/named'"}
  a.v1.Unknown:
    methods:
      Get:
        allow:
          - peer: /plain
          - {peer: /asked, when: request.x > 1}
          - peer: /limited
          - {peer: /closed, when: request.x > 1}
          - {peer: /revoked, when: request.x > 1}
        deny:
          - {peer: /limited, when: request.x > 9}
          - {peer: /refused, when: request.x > 9}
          - peer: /closed
revoked: [{id: /revoked}]
`

func TestDecideOfACallWhoseRequestIsNotKnown(t *testing.T) {
	t.Parallel()
	p, err := policy.Parse("p.yaml", []byte(text))
	if err != nil {
		t.Fatal(err)
	}
	const unknown = "/a.v1.Unknown/Get"
	for name, test := range map[string]struct {
		method, peer     string
		allowed, depends bool
	}{
		"a rule without a condition":              {ledgerv1.LedgerService_PostTransfer_FullMethodName, "/plain", true, false},
		"a condition over the request":            {ledgerv1.LedgerService_PostTransfer_FullMethodName, "/asked", false, true},
		"a condition over the peer that holds":    {ledgerv1.LedgerService_PostTransfer_FullMethodName, "/named", true, false},
		"a condition over the peer that does not": {ledgerv1.LedgerService_PostTransfer_FullMethodName, "/other", false, false},
		"no rule": {ledgerv1.LedgerService_PostTransfer_FullMethodName, "/nobody", false, false},
		"unknown messages, a rule without a condition":    {unknown, "/plain", true, false},
		"unknown messages, a condition that allows":       {unknown, "/asked", false, true},
		"unknown messages, a condition that denies":       {unknown, "/limited", false, true},
		"unknown messages, no rule that allows":           {unknown, "/refused", false, false},
		"unknown messages, a rule that denies everything": {unknown, "/closed", false, false},
		"unknown messages, no rule":                       {unknown, "/nobody", false, false},
		"unknown messages, revoked":                       {unknown, "/revoked", false, false},
		"an unknown method":                               {"/a.v1.Unknown/Put", "/plain", false, false},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			got := headers.Decide(p, test.method, spiffeid.RequireFromString("spiffe://bank.test"+test.peer), "")
			if got.Allowed != test.allowed || got.Undecided != test.depends {
				t.Errorf("allowed %t, depends %t; want %t, %t: %s", got.Allowed, got.Undecided, test.allowed, test.depends, got.Reason)
			}
		})
	}
}
