package chain_test

import (
	"fmt"

	"github.com/countersign-mesh/countersign/pkg/audit/chain"
	auditv1 "github.com/countersign-mesh/countersign/proto/gen/mesh/audit/v1"
)

// A trail is read from its first record to its last. Whoever kept a head of it says so.
func ExampleVerifier() {
	trail := make([]*auditv1.StoredRecord, 3)
	var head chain.Head
	for i := range trail {
		trail[i] = &auditv1.StoredRecord{
			Position: int64(i) + 1, ServerId: "spiffe://bank.test/ledger", RunId: "a", Sequence: int64(i) + 1,
			Event: &auditv1.StoredRecord_Decision{Decision: &auditv1.Decision{DecisionId: fmt.Sprint("d", i+1), Verdict: auditv1.Verdict_VERDICT_DENIED}},
		}
		hash := chain.Next(head.Hash, trail[i])
		trail[i].Hash, head = hash[:], chain.Head{Position: trail[i].GetPosition(), Hash: hash}
	}
	trail[1].GetDecision().Verdict = auditv1.Verdict_VERDICT_ALLOWED // somebody was here

	verifier := chain.NewVerifier(head)
	for _, r := range trail {
		verifier.Add(r)
	}
	for _, finding := range verifier.Report().Findings {
		fmt.Println(finding.Kind, finding.Position)
	}
	// Output:
	// changed 2
}
