package audit

import (
	"strings"
	"testing"
	"time"
	"unicode"
	"unicode/utf8"

	"buf.build/go/protovalidate"
	"github.com/google/go-cmp/cmp"
	"google.golang.org/protobuf/testing/protocmp"
	"google.golang.org/protobuf/types/known/timestamppb"

	auditv1 "github.com/countersign-mesh/countersign/proto/gen/mesh/audit/v1"
)

func TestADecisionBecomesAMessage(t *testing.T) {
	t.Parallel()
	at := time.Date(2026, 11, 5, 9, 30, 0, 123456789, time.UTC)
	e := entry{decision: Decision{
		ID:            ID{0xab, 15: 0x01},
		Time:          at,
		PeerID:        "spiffe://bank.test/risk",
		PeerSerial:    "1f",
		Method:        "/bank.ledger.v1.LedgerService/PostTransfer",
		Rule:          "bank.yaml:101",
		Reason:        "no rule names this peer",
		PolicyVersion: "0123456789abcdef",
		TraceID:       [16]byte{0x4b, 15: 0x36},
		ShadowRule:    "bank.yaml:104",
		ShadowAllowed: true,
		Subject:       "alice",
		TransactionID: "txn-1",
	}}
	want := &auditv1.Record{Sequence: 7, Event: &auditv1.Record_Decision{Decision: &auditv1.Decision{
		DecisionId:    "ab000000000000000000000000000001",
		DecideTime:    timestamppb.New(at),
		PeerId:        "spiffe://bank.test/risk",
		PeerSerial:    "1f",
		Method:        "/bank.ledger.v1.LedgerService/PostTransfer",
		Verdict:       auditv1.Verdict_VERDICT_DENIED,
		Rule:          "bank.yaml:101",
		Reason:        "no rule names this peer",
		PolicyVersion: "0123456789abcdef",
		TraceId:       "4b000000000000000000000000000036",
		ShadowVerdict: auditv1.Verdict_VERDICT_ALLOWED,
		ShadowRule:    "bank.yaml:104",
		Subject:       "alice",
		TransactionId: "txn-1",
	}}}
	if diff := cmp.Diff(want, e.record(7), protocmp.Transform()); diff != "" {
		t.Errorf("message differs (-want +got):\n%s", diff)
	}
}

func TestVerdictsBecomeMessages(t *testing.T) {
	t.Parallel()
	const none, allowed, denied = auditv1.Verdict_VERDICT_UNSPECIFIED, auditv1.Verdict_VERDICT_ALLOWED, auditv1.Verdict_VERDICT_DENIED
	for name, test := range map[string]struct {
		decision        Decision
		verdict, shadow auditv1.Verdict
	}{
		"allowed":                       {Decision{Allowed: true}, allowed, none},
		"denied":                        {Decision{}, denied, none},
		"allowed, and denied in shadow": {Decision{Allowed: true, ShadowRule: "bank.yaml:104"}, allowed, denied},
		"denied, and allowed in shadow": {Decision{ShadowRule: "bank.yaml:104", ShadowAllowed: true}, denied, allowed},
		"a shadow verdict that no rule stands for": {Decision{ShadowAllowed: true}, denied, none},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			m := test.decision.message()
			if m.GetVerdict() != test.verdict || m.GetShadowVerdict() != test.shadow || m.GetShadowRule() != test.decision.ShadowRule {
				t.Errorf("message %v, want %v, and %v in shadow by %q", m, test.verdict, test.shadow, test.decision.ShadowRule)
			}
		})
	}
}

// A caller must not be able to hide its own denial behind a method that the contract has no room for.
func TestWhateverACallerSendsTheMessageIsValid(t *testing.T) {
	t.Parallel()
	for name, text := range map[string]string{
		"nothing":              "",
		"too long":             strings.Repeat("x", 5000),
		"too long in runes":    strings.Repeat("ü", 5000),
		"not UTF-8":            "/a\xff\xfe/b",
		"long and not UTF-8":   strings.Repeat("\xff.", 5000),
		"cut in mid character": strings.Repeat("x", 1023) + "€",
		"steers a terminal":    "alice\x1b[2J\r\n2026 call allowed\x7f\u009b2J",
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			q := NewQueue(nil)
			q.Record(Decision{Time: time.Now(), PeerID: text, Method: text, Rule: text, Reason: text, PolicyVersion: text, ShadowRule: text, Subject: text, TransactionID: text})
			r := q.slot(1).record(1)
			if err := protovalidate.Validate(r); err != nil {
				t.Error(err)
			}
			if !utf8.ValidString(r.GetDecision().GetMethod()) {
				t.Errorf("method %q is not UTF-8", r.GetDecision().GetMethod())
			}
			if d := r.GetDecision(); strings.ContainsFunc(d.GetSubject()+d.GetTransactionId(), unicode.IsControl) {
				t.Errorf("%q in %q steers what it is printed on", d.GetSubject(), d.GetTransactionId())
			}
		})
	}
}

// What a transaction token may say goes through whole.
func TestTheLongestUserOfATokenIsNotCut(t *testing.T) {
	t.Parallel()
	d := Decision{Subject: strings.Repeat("ü", maxSubject/2), TransactionID: strings.Repeat("x", maxTransaction)}
	if m := d.message(); m.GetSubject() != d.Subject || m.GetTransactionId() != d.TransactionID {
		t.Errorf("subject %q, transaction %q", m.GetSubject(), m.GetTransactionId())
	}
}
