// Package trail is the form that an audit trail has in a SQLite database: the table, and how a record stands in it. The audit service
// writes it; whoever verifies a copy of the file reads it without the service.
package trail

import (
	"bytes"
	"database/sql"
	"embed"
	"fmt"
	"io/fs"
	"strings"
	"time"

	"google.golang.org/protobuf/types/known/timestamppb"

	auditv1 "github.com/countersign-mesh/countersign/proto/gen/mesh/audit/v1"
)

//go:embed migrations
var files embed.FS

// Migrations returns the schema, for database.Open.
func Migrations() (fs.FS, error) { return fs.Sub(files, "migrations") }

const (
	columns = firstColumns + ", " + userColumns + ", hash"

	firstColumns = `position, store_time, server_id, run_id, sequence, kind, start_time, end_time, lost_count, decision_id, peer_id, peer_serial,
	method, verdict, rule, reason, policy_version, trace_id, shadow_verdict, shadow_rule`
	// userColumns are not in a file that an older version of the service has left.
	userColumns = "subject, transaction_id"
)

// width is how many columns there are.
const width = 23

const (
	// Insert is the statement that stores a record. Its arguments are what Values returns.
	Insert = "INSERT INTO records (" + columns + ") VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?)"
	// Select is the query, up to its WHERE, whose rows Scan reads.
	Select = "SELECT " + columns + " FROM records"
	// selectOlder is Select for a file without userColumns, whose records are for no user.
	selectOlder = "SELECT " + firstColumns + ", NULL AS subject, NULL AS transaction_id, hash FROM records"
)

// The values of records.kind, and of records.verdict and shadow_verdict.
const (
	kindDecision   = "decision"
	kindGap        = "gap"
	verdictAllowed = "allowed"
	verdictDenied  = "denied"
)

// Values returns a record as it stands in the table: an int64, a string, a []byte or nil for each column. Its times must be of whole
// microseconds, see Time.
func Values(r *auditv1.StoredRecord) []any {
	values := []any{r.GetPosition(), micros(r.GetStoreTime()), r.GetServerId(), r.GetRunId(), r.GetSequence()}
	var hash any
	if len(r.GetHash()) > 0 {
		hash = r.GetHash()
	}
	d := r.GetDecision()
	if d == nil {
		gap := r.GetGap()
		values = append(values, kindGap, micros(gap.GetStartTime()), micros(gap.GetEndTime()), gap.GetLostCount())
		return append(values, nil, nil, nil, nil, nil, nil, nil, nil, nil, nil, nil, nil, nil, hash)
	}
	decided := micros(d.GetDecideTime())
	return append(values, kindDecision, decided, decided, nil, d.GetDecisionId(), d.GetPeerId(), d.GetPeerSerial(), d.GetMethod(),
		verdict(d.GetVerdict()), d.GetRule(), d.GetReason(), d.GetPolicyVersion(), optional(d.GetTraceId()), verdict(d.GetShadowVerdict()),
		optional(d.GetShadowRule()), optional(d.GetSubject()), optional(d.GetTransactionId()), hash)
}

// Scan reads a row of Select. Where something stands in the row that Values would not have put there, fault says in which column: the record
// is what can be read of it.
func Scan(rows *sql.Rows) (r *auditv1.StoredRecord, fault string, err error) {
	var row, into [width]any
	for i := range row {
		into[i] = &row[i]
	}
	if err := rows.Scan(into[:]...); err != nil {
		return nil, "", fmt.Errorf("read record: %w", err)
	}
	r = record(&row)
	for i, want := range Values(r) {
		if !same(row[i], want) {
			names, err := rows.Columns()
			return r, fmt.Sprintf("what its column %s holds no record has", names[i]), err
		}
	}
	return r, "", nil
}

// record is the reverse of Values, for what may have been changed by hand.
func record(row *[width]any) *auditv1.StoredRecord {
	r := &auditv1.StoredRecord{
		Position: integer(row[0]), StoreTime: moment(row[1]), ServerId: text(row[2]), RunId: text(row[3]), Sequence: integer(row[4]),
	}
	r.Hash, _ = row[22].([]byte)
	if row[5] == kindGap {
		r.Event = &auditv1.StoredRecord_Gap{Gap: &auditv1.Gap{
			StartTime: moment(row[6]), EndTime: moment(row[7]), LostCount: integer(row[8]),
		}}
		return r
	}
	r.Event = &auditv1.StoredRecord_Decision{Decision: &auditv1.Decision{
		DecideTime: moment(row[6]), ServerId: r.GetServerId(), DecisionId: text(row[9]), PeerId: text(row[10]), PeerSerial: text(row[11]),
		Method: text(row[12]), Verdict: parseVerdict(row[13]), Rule: text(row[14]), Reason: text(row[15]), PolicyVersion: text(row[16]),
		TraceId: text(row[17]), ShadowVerdict: parseVerdict(row[18]), ShadowRule: text(row[19]),
		Subject: text(row[20]), TransactionId: text(row[21]),
	}}
	return r
}

func same(a, b any) bool {
	x, ok := a.([]byte)
	if !ok {
		return a == b
	}
	y, ok := b.([]byte)
	return ok && bytes.Equal(x, y)
}

func integer(v any) int64 {
	n, _ := v.(int64)
	return n
}

// text makes what is not UTF-8 readable: a message with anything else could not be sent, nor could any that comes with it.
func text(v any) string {
	s, _ := v.(string)
	return strings.ToValidUTF8(s, "\uFFFD")
}

func moment(v any) *timestamppb.Timestamp { return timestamppb.New(time.UnixMicro(integer(v))) }

func micros(t *timestamppb.Timestamp) int64 { return t.AsTime().UnixMicro() }

// Time returns a time as it can be stored, which is to the microsecond.
func Time(t *timestamppb.Timestamp) *timestamppb.Timestamp {
	return timestamppb.New(time.UnixMicro(micros(t)))
}

// optional is nil for the empty text: for what most rows do not have.
func optional(s string) any {
	if s == "" {
		return nil
	}
	return s
}

// verdict returns how the table names a verdict; nil when it is none.
func verdict(v auditv1.Verdict) any {
	switch v {
	case auditv1.Verdict_VERDICT_ALLOWED:
		return verdictAllowed
	case auditv1.Verdict_VERDICT_DENIED:
		return verdictDenied
	default:
		return nil
	}
}

func parseVerdict(v any) auditv1.Verdict {
	switch v {
	case verdictAllowed:
		return auditv1.Verdict_VERDICT_ALLOWED
	case verdictDenied:
		return auditv1.Verdict_VERDICT_DENIED
	default:
		return auditv1.Verdict_VERDICT_UNSPECIFIED
	}
}
