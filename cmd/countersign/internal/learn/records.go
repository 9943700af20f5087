package learn

import (
	"bufio"
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"iter"
	"time"

	"google.golang.org/protobuf/encoding/protojson"
	"google.golang.org/protobuf/types/known/timestamppb"

	auditv1 "github.com/countersign-mesh/countersign/proto/gen/mesh/audit/v1"
)

const (
	pageSize = 1000
	// maxLine is how long a record may be as JSON. A decision's texts have 8 KiB at most, and JSON makes six bytes of some.
	maxLine = 1 << 20
)

// FromService yields the records of the audit service since a moment, newest first. It reads them page by page.
func FromService(ctx context.Context, client auditv1.AuditServiceClient, since time.Time) iter.Seq2[*auditv1.StoredRecord, error] {
	return func(yield func(*auditv1.StoredRecord, error) bool) {
		filter := &auditv1.DecisionFilter{StartTime: timestamppb.New(since)}
		for token := ""; ; {
			page, err := client.ListDecisions(ctx, &auditv1.ListDecisionsRequest{Filter: filter, PageSize: pageSize, PageToken: token})
			if err != nil {
				yield(nil, err)
				return
			}
			for _, record := range page.GetRecords() {
				if !yield(record, nil) {
					return
				}
			}
			if token = page.GetNextPageToken(); token == "" {
				return
			}
		}
	}
}

// FromLines yields the records in r, each a mesh.audit.v1.StoredRecord as JSON in a line of its own, that are not before a moment. name is where they
// come from, for errors.
func FromLines(name string, r io.Reader, since time.Time) iter.Seq2[*auditv1.StoredRecord, error] {
	return func(yield func(*auditv1.StoredRecord, error) bool) {
		lines := bufio.NewScanner(r)
		lines.Buffer(nil, maxLine)
		n := 0
		for lines.Scan() {
			n++
			if len(bytes.TrimSpace(lines.Bytes())) == 0 {
				continue
			}
			record := new(auditv1.StoredRecord)
			// What a later version of the service has more is no reason to know nothing.
			if err := (protojson.UnmarshalOptions{DiscardUnknown: true}).Unmarshal(lines.Bytes(), record); err != nil {
				yield(nil, fmt.Errorf("%s:%d: no mesh.audit.v1.StoredRecord as JSON, as audit query --json writes it: %w", name, n, err))
				return
			}
			if !before(record, since) && !yield(record, nil) {
				return
			}
		}
		switch err := lines.Err(); {
		case errors.Is(err, bufio.ErrTooLong):
			yield(nil, fmt.Errorf("%s:%d: the line is longer than any record, %d bytes", name, n+1, maxLine))
		case err != nil:
			yield(nil, fmt.Errorf("read %s: %w", name, err))
		}
	}
}

// before reports whether all of what a record is about was before a moment.
func before(record *auditv1.StoredRecord, since time.Time) bool {
	if gap := record.GetGap(); gap != nil {
		return gap.GetEndTime().AsTime().Before(since)
	}
	return record.GetDecision().GetDecideTime().AsTime().Before(since)
}
