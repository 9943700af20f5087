package learn_test

import (
	"fmt"
	"strings"
	"testing"
	"time"

	"google.golang.org/protobuf/types/known/timestamppb"

	"github.com/countersign-mesh/countersign/cmd/countersign/internal/learn"
	"github.com/countersign-mesh/countersign/pkg/policy"
	ledgerv1 "github.com/countersign-mesh/countersign/proto/gen/bank/ledger/v1"
	auditv1 "github.com/countersign-mesh/countersign/proto/gen/mesh/audit/v1"
)

const text = `trust_domain: bank.test
services:
  bank.ledger.v1.LedgerService:
    served_by: [/ledger]
    methods:
      PostTransfer:
        allow:
          - {peer: /payments, why: moves money}
          - {peer: /canary/**, when: request.transfer_id != '', why: "a canary: careful"}
          - {peer: /trial, shadow: true}
        deny:
          - {peer: /canary/blue, when: request.transfer_id == 'x'}
          - {peer: /risk/**, why: never}
      GetBalance:
        allow: [{peer: /accounts}, {peer: /**}]
      ListEntries:
        allow:
          - peer: spiffe://partner.test/**
      CheckTrialBalance: {}
revoked:
  - {id: /mallory, why: "was broken into: twice"}
  - serial: "4F:02"
  - authority: "9c01"
`

const (
	post    = ledgerv1.LedgerService_PostTransfer_FullMethodName
	balance = ledgerv1.LedgerService_GetBalance_FullMethodName
	entries = ledgerv1.LedgerService_ListEntries_FullMethodName
	ledger  = "spiffe://bank.test/ledger"
)

// noon is when everything happens.
var noon = time.Date(2026, 3, 1, 12, 0, 0, 0, time.UTC)

func parse(t *testing.T, text string) *policy.Policy {
	t.Helper()
	p, err := policy.Parse("p.yaml", []byte(text))
	if err != nil {
		t.Fatal(err)
	}
	return p
}

// mesh makes records by a policy.
type mesh struct {
	*policy.Policy
	*learn.Learner
	version string
}

func newMesh(t *testing.T, text string) *mesh {
	t.Helper()
	p := parse(t, text)
	return &mesh{Policy: p, Learner: learn.New(p), version: p.Version()}
}

// line returns the place of the line that a text stands in.
func (m *mesh) line(t *testing.T, part string) string {
	t.Helper()
	before, _, ok := strings.Cut(string(m.Source().Main()), part)
	if !ok {
		t.Fatalf("there is no %q", part)
	}
	return fmt.Sprintf("p.yaml:%d", strings.Count(before, "\n")+1)
}

// seen adds decisions of a peer's calls, newest first; with a rule that let them in, or a reason to deny them.
func (m *mesh) seen(n int, peer, method, rule, reason string, change ...func(*auditv1.Decision)) {
	for i := n - 1; i >= 0; i-- {
		d := &auditv1.Decision{
			DecideTime: timestamppb.New(noon.Add(time.Duration(i) * time.Minute)), PeerId: peer, Method: method,
			Verdict: auditv1.Verdict_VERDICT_ALLOWED, Rule: rule, Reason: reason, PolicyVersion: m.version,
		}
		if strings.HasPrefix(peer, "/") {
			d.PeerId = "spiffe://bank.test" + peer
		}
		if reason != "" {
			d.Verdict = auditv1.Verdict_VERDICT_DENIED
		}
		for _, change := range change {
			change(d)
		}
		m.Add(&auditv1.StoredRecord{ServerId: ledger, Event: &auditv1.StoredRecord_Decision{Decision: d}})
	}
}

// section returns the rows of a section of the report, each as one text.
func (m *mesh) section(t *testing.T, title string) []string {
	t.Helper()
	for _, s := range m.Report(time.Time{}) {
		if !strings.HasPrefix(s.Title, title) {
			continue
		}
		var rows []string
		for _, row := range s.Rows {
			rows = append(rows, strings.Join(row, " | "))
		}
		return rows
	}
	t.Fatalf("there is no section %q", title)
	return nil
}
