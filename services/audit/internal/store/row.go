package store

import (
	"database/sql"
	"errors"
	"fmt"
	"time"

	"google.golang.org/protobuf/types/known/timestamppb"

	auditv1 "github.com/countersign-mesh/countersign/proto/gen/mesh/audit/v1"
)

// The values of records.kind and records.verdict.
const (
	kindDecision   = "decision"
	kindGap        = "gap"
	verdictAllowed = "allowed"
	verdictDenied  = "denied"
)

const insertRow = `INSERT INTO records (store_time, server_id, run_id, sequence, kind, start_time, end_time, lost_count,
	decision_id, peer_id, peer_serial, method, verdict, rule, reason, policy_version, trace_id)
	VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?)`

const selectRow = `SELECT position, store_time, server_id, kind, start_time, end_time, lost_count,
	decision_id, peer_id, peer_serial, method, verdict, rule, reason, policy_version, trace_id FROM records`

// row is a record on its way into the table.
type row struct {
	serverID, runID    string
	sequence           int64
	startTime, endTime int64
	decision           *auditv1.Decision // nil for a gap
	verdict            string
	lost               int64
}

// newRows returns records as rows. They must follow one another without a hole, or what is acknowledged would not be what is
// stored; and their times must be times, which the contract's rules do not see to.
func newRows(serverID, runID string, records []*auditv1.Record) ([]row, error) {
	if len(records) == 0 {
		return nil, fmt.Errorf("%w: there are none", ErrInvalid)
	}
	rows := make([]row, len(records))
	for i, r := range records {
		if want := records[0].GetSequence() + int64(i); r.GetSequence() != want || want < 1 {
			return nil, fmt.Errorf("%w: records[%d] has sequence %d; %d would come next", ErrInvalid, i, r.GetSequence(), want)
		}
		one, err := newRow(r)
		if err != nil {
			return nil, fmt.Errorf("%w: records[%d]: %w", ErrInvalid, i, err)
		}
		one.serverID, one.runID = serverID, runID
		rows[i] = one
	}
	return rows, nil
}

func newRow(r *auditv1.Record) (row, error) {
	one := row{sequence: r.GetSequence(), decision: r.GetDecision()}
	start, end := one.decision.GetDecideTime(), one.decision.GetDecideTime()
	if one.decision == nil {
		gap := r.GetGap()
		start, end, one.lost = gap.GetStartTime(), gap.GetEndTime(), gap.GetLostCount()
		if one.lost < 1 {
			return row{}, fmt.Errorf("a gap of %d decisions is none", one.lost)
		}
	} else if one.verdict = verdictText(one.decision.GetVerdict()); one.verdict == "" {
		return row{}, fmt.Errorf("%v is no verdict", one.decision.GetVerdict())
	}
	if err := errors.Join(start.CheckValid(), end.CheckValid()); err != nil {
		return row{}, fmt.Errorf("time: %w", err)
	}
	one.startTime, one.endTime = start.AsTime().UnixMicro(), end.AsTime().UnixMicro()
	return one, nil
}

// gapBefore returns the gap between the record last and r. When it was is known no better than by r.
func (r row) gapBefore(last int64) row {
	return row{
		serverID: r.serverID, runID: r.runID, sequence: r.sequence - 1,
		startTime: r.startTime, endTime: r.startTime, lost: r.sequence - 1 - last,
	}
}

// values returns the arguments of insertRow.
func (r row) values(storeTime int64) []any {
	common := []any{storeTime, r.serverID, r.runID, r.sequence}
	d := r.decision
	if d == nil {
		return append(common, kindGap, r.startTime, r.endTime, r.lost, nil, nil, nil, nil, nil, nil, nil, nil, nil)
	}
	trace := sql.NullString{String: d.GetTraceId(), Valid: d.GetTraceId() != ""}
	return append(common, kindDecision, r.startTime, r.endTime, nil, d.GetDecisionId(), d.GetPeerId(), d.GetPeerSerial(),
		d.GetMethod(), r.verdict, d.GetRule(), d.GetReason(), d.GetPolicyVersion(), trace)
}

// scan reads a row of selectRow.
func scan(rows *sql.Rows) (*auditv1.StoredRecord, error) {
	var (
		r                                       auditv1.StoredRecord
		kind                                    string
		stored, start, end                      int64
		lost                                    sql.NullInt64
		id, peer, serial, method, verdict, rule sql.NullString
		reason, version, trace                  sql.NullString
	)
	err := rows.Scan(&r.Position, &stored, &r.ServerId, &kind, &start, &end, &lost,
		&id, &peer, &serial, &method, &verdict, &rule, &reason, &version, &trace)
	if err != nil {
		return nil, fmt.Errorf("read record: %w", err)
	}
	r.StoreTime = timestamp(stored)
	if kind == kindGap {
		r.Event = &auditv1.StoredRecord_Gap{Gap: &auditv1.Gap{
			LostCount: lost.Int64, StartTime: timestamp(start), EndTime: timestamp(end),
		}}
		return &r, nil
	}
	d := &auditv1.Decision{
		DecisionId: id.String, DecideTime: timestamp(start), ServerId: r.GetServerId(), PeerId: peer.String,
		PeerSerial: serial.String, Method: method.String, Verdict: auditv1.Verdict_VERDICT_DENIED, Rule: rule.String,
		Reason: reason.String, PolicyVersion: version.String, TraceId: trace.String,
	}
	if verdict.String == verdictAllowed {
		d.Verdict = auditv1.Verdict_VERDICT_ALLOWED
	}
	r.Event = &auditv1.StoredRecord_Decision{Decision: d}
	return &r, nil
}

func timestamp(micros int64) *timestamppb.Timestamp { return timestamppb.New(time.UnixMicro(micros)) }

// verdictText returns how the table names a verdict; empty when it is none.
func verdictText(v auditv1.Verdict) string {
	switch v {
	case auditv1.Verdict_VERDICT_ALLOWED:
		return verdictAllowed
	case auditv1.Verdict_VERDICT_DENIED:
		return verdictDenied
	default:
		return ""
	}
}
