package store

import (
	"context"
	"fmt"
	"strings"

	"google.golang.org/protobuf/proto"

	"github.com/countersign-mesh/countersign/pkg/audit/trail"
	auditv1 "github.com/countersign-mesh/countersign/proto/gen/mesh/audit/v1"
)

// maxPageBytes bounds the page of a query whatever its records hold, well below the 4 MiB that a gRPC client takes by default:
// callers choose the names of the methods that they are denied, and must not be able to make the trail unreadable.
const maxPageBytes = 1 << 20

// Newest returns the records below the position before that match filter, newest first, limit at most, and whether there are
// more.
func (s *Store) Newest(ctx context.Context, filter *auditv1.DecisionFilter, before int64, limit int) ([]*auditv1.StoredRecord, bool, error) {
	w := newWhere(filter)
	w.add("position < ?", before)
	return s.page(ctx, w, "DESC", limit)
}

// After returns the records above the position after that match filter, oldest first, limit at most, and whether there are
// more.
func (s *Store) After(ctx context.Context, filter *auditv1.DecisionFilter, after int64, limit int) ([]*auditv1.StoredRecord, bool, error) {
	w := newWhere(filter)
	w.add("position > ?", after)
	return s.page(ctx, w, "ASC", limit)
}

func (s *Store) page(ctx context.Context, w *where, order string, limit int) (page []*auditv1.StoredRecord, more bool, err error) {
	query := trail.Select + w.text() + " ORDER BY position " + order + " LIMIT ?" //nolint:gosec // G202: constants all; what comes from a caller is in args
	rows, err := s.db.QueryContext(ctx, query, append(w.args, limit+1)...)
	if err != nil {
		return nil, false, fmt.Errorf("query records: %w", err)
	}
	defer func() { _ = rows.Close() }() // rows.Err says what there is to say
	size := 0
	for rows.Next() {
		r, fault, err := trail.Scan(rows)
		if err != nil {
			return nil, false, err
		}
		if fault != "" {
			// What stands in a message cannot show what else stands in the row. Without its hash nobody takes it for what was stored.
			r.Hash = nil
		}
		size += proto.Size(r)
		if len(page) == limit || len(page) > 0 && size > maxPageBytes {
			return page, true, nil
		}
		page = append(page, r)
	}
	if err := rows.Err(); err != nil {
		return nil, false, fmt.Errorf("query records: %w", err)
	}
	return page, false, nil
}

// where is the condition of a query.
type where struct {
	conditions []string
	args       []any
}

func (w *where) add(condition string, args ...any) {
	w.conditions = append(w.conditions, condition)
	w.args = append(w.args, args...)
}

func (w *where) text() string { return " WHERE " + strings.Join(w.conditions, " AND ") }

// newWhere returns the condition for what filter chooses. A gap has no columns of a decision, so that it never equals one.
func newWhere(f *auditv1.DecisionFilter) *where {
	w := &where{}
	for _, equal := range []struct{ condition, value string }{
		{"decision_id = ?", f.GetDecisionId()},
		{"peer_id = ?", f.GetPeerId()},
		{"server_id = ?", f.GetServerId()},
		{"method = ?", f.GetMethod()},
		{"trace_id = ?", f.GetTraceId()},
		{"subject = ?", f.GetSubject()},
		{"transaction_id = ?", f.GetTransactionId()},
	} {
		if equal.value != "" {
			w.add(equal.condition, equal.value)
		}
	}
	switch f.GetVerdict() {
	case auditv1.Verdict_VERDICT_ALLOWED:
		w.add("verdict = 'allowed'")
	case auditv1.Verdict_VERDICT_DENIED:
		w.add("verdict = 'denied'") // not an argument, for SQLite to see that the index of denials fits
	case auditv1.Verdict_VERDICT_UNSPECIFIED:
	}
	switch f.GetShadowVerdict() {
	case auditv1.Verdict_VERDICT_ALLOWED:
		w.add("shadow_verdict = 'allowed'")
	case auditv1.Verdict_VERDICT_DENIED:
		w.add("shadow_verdict = 'denied'")
	case auditv1.Verdict_VERDICT_UNSPECIFIED:
	}
	if f.GetStartTime() != nil {
		w.add("end_time >= ?", f.GetStartTime().AsTime().UnixMicro())
	}
	if f.GetEndTime() != nil {
		w.add("start_time < ?", f.GetEndTime().AsTime().UnixMicro())
	}
	return w
}
