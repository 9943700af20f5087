package policy_test

import (
	"fmt"

	"github.com/spiffe/go-spiffe/v2/spiffeid"

	"github.com/countersign-mesh/countersign/pkg/identity"
	"github.com/countersign-mesh/countersign/pkg/policy"
	ledgerv1 "github.com/countersign-mesh/countersign/proto/gen/bank/ledger/v1"
)

const exampleText = `trust_domain: bank.test
services:
  bank.ledger.v1.LedgerService:
    served_by: [/ledger]
    methods:
      GetBalance:
        allow:
          - peer: /branches/**
            when: request.account_id.startsWith("bank-")
            why: branches see the bank's own accounts
          - peer: /gateway
            why: shows customers their own balances
        deny:
          - peer: /branches/closed/**
`

func peer(id string) *identity.Peer { return &identity.Peer{ID: spiffeid.RequireFromString(id)} }

// A decision is about a caller, a method and, where a rule asks for it, the request.
func ExamplePolicy_Decide() {
	bank, err := policy.Parse("bank.yaml", []byte(exampleText))
	if err != nil {
		fmt.Println(err)
		return
	}
	for _, caller := range []string{"spiffe://bank.test/gateway", "spiffe://bank.test/branches/rome", "spiffe://bank.test/branches/closed/oslo"} {
		verdict := bank.Decide(policy.Call{
			Method:  ledgerv1.LedgerService_GetBalance_FullMethodName,
			Peer:    peer(caller),
			Request: &ledgerv1.GetBalanceRequest{AccountId: "bank-cash"},
		})
		fmt.Println(caller, verdict.Allowed, verdict.Rule.Place())
	}
	customer := bank.Decide(policy.Call{
		Method:  ledgerv1.LedgerService_GetBalance_FullMethodName,
		Peer:    peer("spiffe://bank.test/branches/rome"),
		Request: &ledgerv1.GetBalanceRequest{AccountId: "acc-abcdefghijklmnopqrstuvwxyz"},
	})
	fmt.Println(customer.Reason)
	// Output:
	// spiffe://bank.test/gateway true bank.yaml:11
	// spiffe://bank.test/branches/rome true bank.yaml:8
	// spiffe://bank.test/branches/closed/oslo false bank.yaml:14
	// bank.yaml:8: allowed for /branches/** when request.account_id.startsWith("bank-"), which this call is not
}

// What is wrong with a policy is said all at once, with line and column. Conditions are checked against the contract.
func ExampleParse() {
	_, err := policy.Parse("bank.yaml", []byte(`trust_domain: bank.test
services:
  bank.ledger.v1.LedgerService:
    methods:
      GetBalance:
        allow:
          - {peer: /gateway, when: request.acount_id == "bank-cash"}
          - {peer: /branches/*}
`))
	fmt.Println(err)
	// Output:
	// bank.yaml:7:43: when: undefined field 'acount_id'
	// bank.yaml:8:14: peer "/branches/*": a star stands at the end alone, as in /payments/**
}

// The same file says whom a client may dial.
func ExamplePolicy_Dials() {
	bank, err := policy.Parse("bank.yaml", []byte(exampleText))
	if err != nil {
		fmt.Println(err)
		return
	}
	ledger := spiffeid.RequireFromString("spiffe://bank.test/ledger")
	fmt.Println(bank.Dials(spiffeid.RequireFromString("spiffe://bank.test/gateway"), ledger))
	fmt.Println(bank.Dials(spiffeid.RequireFromString("spiffe://bank.test/risk"), ledger))
	// Output:
	// <nil>
	// bank.yaml: no rule lets /risk call anything of what /ledger serves, such as bank.ledger.v1.LedgerService
}

// A pattern ends on the boundary of a segment.
func ExampleParsePattern() {
	payments, err := policy.ParsePattern(spiffeid.RequireTrustDomainFromString("bank.test"), "/payments/**")
	if err != nil {
		fmt.Println(err)
		return
	}
	for _, id := range []string{"spiffe://bank.test/payments/a", "spiffe://bank.test/payments", "spiffe://bank.test/payments-evil/a", "spiffe://evil.test/payments/a"} {
		fmt.Println(id, payments.Matches(spiffeid.RequireFromString(id)))
	}
	// Output:
	// spiffe://bank.test/payments/a true
	// spiffe://bank.test/payments false
	// spiffe://bank.test/payments-evil/a false
	// spiffe://evil.test/payments/a false
}
