package rpc_test

import (
	"context"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"strings"
	"testing"
	"time"

	"google.golang.org/genproto/googleapis/rpc/errdetails"
	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"

	"github.com/countersign-mesh/countersign/pkg/audit"
	auditv1 "github.com/countersign-mesh/countersign/proto/gen/mesh/audit/v1"
)

func TestAServiceCannotWriteInAnothersName(t *testing.T) {
	t.Parallel()
	f := start(t)
	f.mustRecord(t, "/risk", decision(1, func(d *auditv1.Decision) { d.ServerId = "spiffe://bank.test/ledger" }))
	if got := f.list(t, &auditv1.DecisionFilter{ServerId: "spiffe://bank.test/ledger"}); len(got) != 0 {
		t.Errorf("risk wrote in the name of ledger: %v", got)
	}
	got := f.list(t, &auditv1.DecisionFilter{ServerId: "spiffe://bank.test/risk"})
	if len(got) != 1 || got[0].GetDecision().GetServerId() != "spiffe://bank.test/risk" {
		t.Errorf("stored %v, want the one record in the name of risk", got)
	}
}

// The same run and sequence from another server is another record: nobody can occupy a place in another's run.
func TestAServiceCannotTakeAnothersPlace(t *testing.T) {
	t.Parallel()
	f := start(t)
	f.mustRecord(t, "/risk", decision(1))
	f.mustRecord(t, "/ledger", decision(1))
	for _, server := range []string{"spiffe://bank.test/risk", "spiffe://bank.test/ledger"} {
		if got := f.list(t, &auditv1.DecisionFilter{ServerId: server}); len(got) != 1 {
			t.Errorf("%d records of %s, want one", len(got), server)
		}
	}
}

func TestBadRecordsAreRefusedAndNothingOfThemStored(t *testing.T) {
	t.Parallel()
	f := start(t)
	for name, test := range map[string]struct {
		records []*auditv1.Record
		want    string
	}{
		"a decision ID that is none": {[]*auditv1.Record{decision(1), decision(2, func(d *auditv1.Decision) { d.DecisionId = "ABC" })}, "decision_id"},
		"no time":                    {[]*auditv1.Record{decision(1), decision(2, func(d *auditv1.Decision) { d.DecideTime = nil })}, "decide_time"},
		"no verdict":                 {[]*auditv1.Record{decision(1), decision(2, func(d *auditv1.Decision) { d.Verdict = 0 })}, "verdict"},
		"a method without end": {[]*auditv1.Record{decision(1, func(d *auditv1.Decision) {
			d.Method = strings.Repeat("m", 1025)
		})}, "method"},
		"a subject that steers a terminal": {[]*auditv1.Record{decision(1, func(d *auditv1.Decision) { d.Subject = "alice\x1b[2J" })}, "subject"},
		"a subject of two lines":           {[]*auditv1.Record{decision(1, func(d *auditv1.Decision) { d.Subject = "alice\nbob" })}, "subject"},
		"a subject without end":            {[]*auditv1.Record{decision(1, func(d *auditv1.Decision) { d.Subject = strings.Repeat("a", 257) })}, "subject"},
		"a transaction of two lines":       {[]*auditv1.Record{decision(1, func(d *auditv1.Decision) { d.TransactionId = "a\u0085b" })}, "transaction_id"},
		"a transaction without end":        {[]*auditv1.Record{decision(1, func(d *auditv1.Decision) { d.TransactionId = strings.Repeat("a", 65) })}, "transaction_id"},
		"neither decision nor gap":         {[]*auditv1.Record{decision(1), {Sequence: 2}}, "event"},
		"no records":                       {nil, "records"},
		"a hole":                           {[]*auditv1.Record{decision(1), decision(3)}, "records[1] has sequence 3; 2 would come next"},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			_, err := f.record(t, "/ledger", test.records...)
			if status.Code(err) != codes.InvalidArgument || !strings.Contains(err.Error(), test.want) {
				t.Errorf("error %v, want INVALID_ARGUMENT that names %q", err, test.want)
			}
		})
	}
	t.Cleanup(func() {
		for _, r := range all(t, f) {
			if r.GetServerId() == "spiffe://bank.test/ledger" {
				t.Errorf("stored %v", r)
			}
		}
	})
}

// all reads the store itself.
func all(t *testing.T, f *fixture) []*auditv1.StoredRecord {
	t.Helper()
	var records []*auditv1.StoredRecord
	for after, more := int64(0), true; more; {
		var page []*auditv1.StoredRecord
		var err error
		if page, more, err = f.store.After(context.Background(), nil, after, 1000); err != nil {
			t.Fatal(err)
		}
		records = append(records, page...)
		if len(page) > 0 {
			after = page[len(page)-1].GetPosition()
		}
	}
	return records
}

// ATTACKS 65: every denial is recorded once, under the ID that the caller was told.
func TestEveryDenialIsRecordedOnce(t *testing.T) {
	t.Parallel()
	f := start(t)
	const each = 20
	told := make(map[string]string) // peer by decision ID
	for _, peer := range []string{"/ledger", "/risk", "/mobile", "/stranger"} {
		client := f.as(t, peer)
		for range each {
			_, err := client.ListDecisions(t.Context(), &auditv1.ListDecisionsRequest{})
			told[deniedID(t, err)] = "spiffe://bank.test" + peer
			watch, err := client.WatchDecisions(t.Context(), &auditv1.WatchDecisionsRequest{})
			if err == nil {
				_, err = watch.Recv()
			}
			told[deniedID(t, err)] = "spiffe://bank.test" + peer
		}
	}
	filter := &auditv1.DecisionFilter{Verdict: auditv1.Verdict_VERDICT_DENIED}
	eventually(t, "all denials are recorded", func() bool { return len(f.list(t, filter)) >= len(told) })
	for _, r := range f.list(t, filter) {
		d := r.GetDecision()
		if peer := told[d.GetDecisionId()]; peer != d.GetPeerId() || d.GetReason() == "" || d.GetPeerSerial() == "" ||
			d.GetPolicyVersion() == "" || r.GetServerId() != "spiffe://bank.test/audit" {
			t.Errorf("record %v, want a denial by audit of %q", r, peer)
		}
		delete(told, d.GetDecisionId())
	}
	if len(told) != 0 || len(f.list(t, filter)) != 4*2*each {
		t.Errorf("%d denials recorded of %d; %d are missing", len(f.list(t, filter)), 4*2*each, len(told))
	}
}

// deniedID returns the decision ID that the caller of a denied call is told.
func deniedID(t *testing.T, err error) string {
	t.Helper()
	if status.Code(err) != codes.PermissionDenied {
		t.Fatalf("error %v, want PERMISSION_DENIED", err)
	}
	for _, detail := range status.Convert(err).Details() {
		if info, ok := detail.(*errdetails.ErrorInfo); ok {
			return info.GetMetadata()["decision_id"]
		}
	}
	t.Fatalf("error %v without a decision ID", err)
	return ""
}

func TestWhoMayRecord(t *testing.T) {
	t.Parallel()
	f := start(t)
	for path, want := range map[string]codes.Code{
		"/gateway": codes.OK, "/accounts": codes.OK, "/payments": codes.OK, "/ledger": codes.OK, "/risk": codes.OK,
		"/operator": codes.PermissionDenied, "/mobile": codes.PermissionDenied, "/stranger": codes.PermissionDenied,
	} {
		if _, err := f.record(t, path, decision(1)); status.Code(err) != want {
			t.Errorf("%s records: %v, want %v", path, err, want)
		}
	}
}

// A stream of thousands of records is one decision of the audit service; recording does not feed on itself.
func TestRecordingDoesNotFeedOnItself(t *testing.T) {
	t.Parallel()
	f := start(t)
	stream, err := f.as(t, "/ledger").RecordDecisions(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	for i := range int64(50) {
		if err := stream.Send(&auditv1.RecordDecisionsRequest{RunId: run1, Records: decisions(i*20+1, i*20+20)}); err != nil {
			t.Fatal(err)
		}
		if _, err := stream.Recv(); err != nil {
			t.Fatal(err)
		}
	}
	if err := stream.CloseSend(); err != nil {
		t.Fatal(err)
	}
	if _, err := stream.Recv(); !errors.Is(err, io.EOF) {
		t.Errorf("end of stream: %v", err)
	}
	ofAudit := func() int {
		n := 0
		for _, r := range all(t, f) {
			if r.GetServerId() == "spiffe://bank.test/audit" {
				n++
			}
		}
		return n
	}
	eventually(t, "the stream is recorded", func() bool { return ofAudit() > 0 })
	if n := ofAudit(); n != 1 {
		t.Errorf("%d decisions of audit about one stream", n)
	}
}

// breaking ends every stream after some requests, wherever the service stands then: also between a commit and its
// acknowledgement.
type breaking struct {
	auditv1.AuditServiceClient
	streams int
}

func (b *breaking) RecordDecisions(ctx context.Context, opts ...grpc.CallOption) (auditv1.AuditService_RecordDecisionsClient, error) {
	b.streams++
	ctx, cancel := context.WithCancel(ctx)
	stream, err := b.AuditServiceClient.RecordDecisions(ctx, opts...)
	return &breakingStream{AuditService_RecordDecisionsClient: stream, left: 5 * b.streams, cancel: cancel}, err
}

type breakingStream struct {
	auditv1.AuditService_RecordDecisionsClient
	left   int
	cancel func()
}

func (b *breakingStream) Send(request *auditv1.RecordDecisionsRequest) error {
	err := b.AuditService_RecordDecisionsClient.Send(request)
	if b.left--; b.left == 0 {
		b.cancel()
	}
	return err
}

func TestAQueueStoresEachDecisionOnceOverBrokenStreams(t *testing.T) {
	t.Parallel()
	f := start(t)
	client := &breaking{AuditServiceClient: f.as(t, "/ledger")}
	log := slog.New(slog.NewTextHandler(t.Output(), nil))
	q := audit.NewQueue(client, audit.WithBatch(10, time.Millisecond), audit.WithLogger(log))
	stop := run(t, q)
	const total = 1000
	for i := range total {
		q.Record(audit.Decision{ID: audit.NewID(), Time: time.Now(), Method: fmt.Sprintf("/%05d", i), Allowed: i%3 > 0})
	}
	eventually(t, "all is stored", func() bool { return q.Stats().Sent == total })
	stop()
	if client.streams < 4 {
		t.Errorf("%d streams: nothing broke", client.streams)
	}
	next := 0
	for _, r := range all(t, f) {
		if r.GetServerId() != "spiffe://bank.test/ledger" {
			continue
		}
		if want := fmt.Sprintf("/%05d", next); r.GetDecision().GetMethod() != want {
			t.Fatalf("stored %v where %s was made", r, want)
		}
		next++
	}
	if next != total {
		t.Errorf("%d stored of %d", next, total)
	}
}
