package audit

import (
	"encoding/hex"
	"strings"
	"unicode"
	"unicode/utf8"

	"google.golang.org/protobuf/types/known/timestamppb"

	auditv1 "github.com/countersign-mesh/countersign/proto/gen/mesh/audit/v1"
)

// The longest texts that mesh.audit.v1.Decision takes.
const (
	maxText    = 1024
	maxPeerID  = 2048
	maxSerial  = 64
	maxVersion = 64
	// A transaction token has no longer ones, see package txntoken.
	maxSubject     = 256
	maxTransaction = 64
)

// record returns the message for the entry with the given sequence.
func (e *entry) record(sequence int64) *auditv1.Record {
	if e.gap != nil {
		return &auditv1.Record{Sequence: sequence, Event: &auditv1.Record_Gap{Gap: &auditv1.Gap{
			LostCount: e.gap.count,
			StartTime: timestamppb.New(e.gap.start),
			EndTime:   timestamppb.New(e.gap.end),
		}}}
	}
	return &auditv1.Record{Sequence: sequence, Event: &auditv1.Record_Decision{Decision: e.decision.message()}}
}

// message returns the decision as the audit service takes it. Server_id stays empty: the service takes it from the SVID.
func (d *Decision) message() *auditv1.Decision {
	m := &auditv1.Decision{
		DecisionId:    d.ID.String(),
		DecideTime:    timestamppb.New(d.Time),
		PeerId:        clip(d.PeerID, maxPeerID),
		PeerSerial:    clip(d.PeerSerial, maxSerial),
		Method:        clip(d.Method, maxText),
		Verdict:       auditv1.Verdict_VERDICT_DENIED,
		Rule:          clip(d.Rule, maxText),
		Reason:        clip(d.Reason, maxText),
		PolicyVersion: clip(d.PolicyVersion, maxVersion),
		Subject:       clip(plain(d.Subject), maxSubject),
		TransactionId: clip(plain(d.TransactionID), maxTransaction),
	}
	if d.Allowed {
		m.Verdict = auditv1.Verdict_VERDICT_ALLOWED
	}
	if d.ShadowRule != "" {
		m.ShadowRule, m.ShadowVerdict = clip(d.ShadowRule, maxText), auditv1.Verdict_VERDICT_DENIED
		if d.ShadowAllowed {
			m.ShadowVerdict = auditv1.Verdict_VERDICT_ALLOWED
		}
	}
	if d.TraceID != [16]byte{} {
		m.TraceId = hex.EncodeToString(d.TraceID[:])
	}
	return m
}

// plain replaces what steers a terminal or ends a line of a log. A transaction token says nothing of the kind, but who verifies users' tokens is for the program to choose,
// and the contract takes none of it.
func plain(s string) string {
	return strings.Map(func(c rune) rune {
		if unicode.IsControl(c) {
			return unicode.ReplacementChar
		}
		return c
	}, s)
}

// clip makes text that came from outside fit into a field: a caller that names a method of ten thousand bytes, or one that is not
// UTF-8, must not get the whole batch refused and its own denial with it.
func clip(s string, limit int) string {
	if !utf8.ValidString(s) {
		s = strings.ToValidUTF8(s, "\uFFFD")
	}
	if len(s) <= limit {
		return s
	}
	for limit > 0 && !utf8.RuneStart(s[limit]) {
		limit--
	}
	return s[:limit]
}
