package main

import (
	"github.com/cedar-policy/cedar-go"

	"github.com/countersign-mesh/countersign/pkg/identity"
	"github.com/countersign-mesh/countersign/pkg/policy"
	ledgerv1 "github.com/countersign-mesh/countersign/proto/gen/bank/ledger/v1"
)

// Conditions are checked against the request message of the method that they are for, so it is one that there is.
const (
	conditionalService = "bank.ledger.v1.LedgerService"
	conditionalMethod  = "ListEntries"
)

// The condition, as each library writes it, and what is in a request that it holds for.
const (
	countersignWhen = "request.page_size <= 100"
	cedarWhen       = " when { context.page_size <= 100 }"
	pageSize        = 50
)

// countersignConditional is pkg/policy with a condition in CEL at each rule. It reads the request message itself.
func countersignConditional(size int32) engine {
	return engine{name: ours, load: func(grants []grant) (decider, error) {
		p, err := policy.Parse("bench.yaml", []byte(policyText(grants, countersignWhen)))
		if err != nil {
			return nil, err
		}
		return func(q question) decision {
			call := policy.Call{Method: q.method, Peer: &identity.Peer{ID: q.peer}, Request: &ledgerv1.ListEntriesRequest{PageSize: size}}
			return func() (bool, error) { return p.Decide(call).Allowed, nil }
		}, nil
	}}
}

// cedarConditional is cedar-go with a condition at each rule, over a context that somebody has made of the request before.
func cedarConditional(size int64) engine {
	return cedarRules("cedar-go", cedarWhen, cedar.NewRecord(cedar.RecordMap{"page_size": cedar.Long(size)}))
}
