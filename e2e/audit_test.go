package e2e

import (
	"crypto/sha256"
	"encoding/hex"
	"fmt"
	"os"
	"testing"
	"time"

	"github.com/countersign-mesh/countersign/e2e/internal/bank"
	ledgerv1 "github.com/countersign-mesh/countersign/proto/gen/bank/ledger/v1"
	auditv1 "github.com/countersign-mesh/countersign/proto/gen/mesh/audit/v1"
)

// testAudit finds a denial, and a call that was let in, in the audit service, with all that was promised about them.
func testAudit(t *testing.T, mesh *bank.Mesh) {
	policy, err := os.ReadFile(mesh.Policy())
	if err != nil {
		t.Fatal(err)
	}
	sum := sha256.Sum256(policy)
	operator := mesh.Identity(t, "operator")
	stranger := mesh.Identity(t, "stranger")
	request := &ledgerv1.CheckTrialBalanceRequest{}
	_, err = ledgerv1.NewLedgerServiceClient(mesh.Dial(t, stranger, "ledger")).CheckTrialBalance(t.Context(), request)
	id, wrong := bank.DecisionID(err)
	if wrong != "" {
		t.Fatal(wrong)
	}
	if _, err := ledgerv1.NewLedgerServiceClient(mesh.Dial(t, operator, "ledger")).CheckTrialBalance(t.Context(), request); err != nil {
		t.Fatal(err)
	}
	for _, test := range []struct {
		name   string
		filter *auditv1.DecisionFilter
		peer   *bank.Identity
		denied bool
	}{
		{"denied", &auditv1.DecisionFilter{DecisionId: id}, stranger, true},
		{"let in", &auditv1.DecisionFilter{
			PeerId: operator.ID(),
			Method: "/bank.ledger.v1.LedgerService/CheckTrialBalance", Verdict: auditv1.Verdict_VERDICT_ALLOWED,
		}, operator, false},
	} {
		got := findDecision(t, mesh, operator, test.peer, test.filter)
		if got.GetServerId() != "spiffe://bank.test/ledger" || got.GetPeerId() != test.peer.ID() ||
			got.GetPeerSerial() != test.peer.Serial() || got.GetMethod() != "/bank.ledger.v1.LedgerService/CheckTrialBalance" ||
			got.GetPolicyVersion() != hex.EncodeToString(sum[:8]) || time.Since(got.GetDecideTime().AsTime()).Abs() > time.Minute {
			t.Errorf("%s: the decision is wrong somewhere: %v", test.name, got)
		}
		if denied := got.GetVerdict() == auditv1.Verdict_VERDICT_DENIED; denied != test.denied || denied != (got.GetReason() != "") {
			t.Errorf("%s: want denied %t with a reason if so: %v", test.name, test.denied, got)
		}
		if !test.denied && got.GetRule() == "" {
			t.Errorf("%s: no rule: %v", test.name, got)
		}
	}
}

// findDecision waits for a decision about a peer that a filter finds.
func findDecision(t *testing.T, mesh *bank.Mesh, operator, peer *bank.Identity, filter *auditv1.DecisionFilter) *auditv1.Decision {
	t.Helper()
	client := auditv1.NewAuditServiceClient(mesh.Dial(t, operator, "audit"))
	var found *auditv1.Decision
	bank.Eventually(t, 10*time.Second, func() string {
		response, err := client.ListDecisions(t.Context(), &auditv1.ListDecisionsRequest{Filter: filter})
		if err != nil {
			return err.Error()
		}
		for _, record := range response.GetRecords() {
			if found = record.GetDecision(); found.GetPeerSerial() == peer.Serial() {
				return ""
			}
		}
		return fmt.Sprintf("the audit service has no such decision of the peer with serial %s among %v", peer.Serial(), response.GetRecords())
	})
	return found
}
