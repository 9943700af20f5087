package store

import (
	"errors"
	"fmt"

	"github.com/countersign-mesh/countersign/pkg/audit/trail"
	auditv1 "github.com/countersign-mesh/countersign/proto/gen/mesh/audit/v1"
)

// newRecords returns records as they are stored, but for their place. They must follow one another without a hole, or what is acknowledged
// would not be what is stored; and their times must be times, which the contract's rules do not see to.
func newRecords(serverID, runID string, records []*auditv1.Record) ([]*auditv1.StoredRecord, error) {
	if len(records) == 0 {
		return nil, fmt.Errorf("%w: there are none", ErrInvalid)
	}
	fresh := make([]*auditv1.StoredRecord, len(records))
	for i, r := range records {
		if want := records[0].GetSequence() + int64(i); r.GetSequence() != want || want < 1 {
			return nil, fmt.Errorf("%w: records[%d] has sequence %d; %d would come next", ErrInvalid, i, r.GetSequence(), want)
		}
		one := &auditv1.StoredRecord{ServerId: serverID, RunId: runID, Sequence: r.GetSequence()}
		if err := setEvent(one, r); err != nil {
			return nil, fmt.Errorf("%w: records[%d]: %w", ErrInvalid, i, err)
		}
		fresh[i] = one
	}
	return fresh, nil
}

// setEvent takes the event over from r, which stays as it is.
func setEvent(one *auditv1.StoredRecord, r *auditv1.Record) error {
	d := r.GetDecision()
	if d == nil {
		gap := r.GetGap()
		if gap.GetLostCount() < 1 {
			return fmt.Errorf("a gap of %d decisions is none", gap.GetLostCount())
		}
		if err := errors.Join(gap.GetStartTime().CheckValid(), gap.GetEndTime().CheckValid()); err != nil {
			return fmt.Errorf("time: %w", err)
		}
		one.Event = &auditv1.StoredRecord_Gap{Gap: &auditv1.Gap{
			LostCount: gap.GetLostCount(), StartTime: trail.Time(gap.GetStartTime()), EndTime: trail.Time(gap.GetEndTime()),
		}}
		return nil
	}
	if v := d.GetVerdict(); v != auditv1.Verdict_VERDICT_ALLOWED && v != auditv1.Verdict_VERDICT_DENIED {
		return fmt.Errorf("%v is no verdict", v)
	}
	if err := d.GetDecideTime().CheckValid(); err != nil {
		return fmt.Errorf("time: %w", err)
	}
	one.Event = &auditv1.StoredRecord_Decision{Decision: &auditv1.Decision{
		DecisionId: d.GetDecisionId(), DecideTime: trail.Time(d.GetDecideTime()), ServerId: one.GetServerId(), PeerId: d.GetPeerId(),
		PeerSerial: d.GetPeerSerial(), Method: d.GetMethod(), Verdict: d.GetVerdict(), Rule: d.GetRule(), Reason: d.GetReason(),
		PolicyVersion: d.GetPolicyVersion(), TraceId: d.GetTraceId(), ShadowVerdict: d.GetShadowVerdict(), ShadowRule: d.GetShadowRule(),
		Subject: d.GetSubject(), TransactionId: d.GetTransactionId(),
	}}
	return nil
}

// gapBefore returns the gap between the record last of a run and r. When it was is known no better than by r.
func gapBefore(r *auditv1.StoredRecord, last int64) *auditv1.StoredRecord {
	at := r.GetDecision().GetDecideTime()
	if gap := r.GetGap(); gap != nil {
		at = gap.GetStartTime()
	}
	sequence := r.GetSequence() - 1
	return &auditv1.StoredRecord{
		ServerId: r.GetServerId(), RunId: r.GetRunId(), Sequence: sequence,
		Event: &auditv1.StoredRecord_Gap{Gap: &auditv1.Gap{LostCount: sequence - last, StartTime: at, EndTime: at}},
	}
}
