package main

import (
	"context"
	"slices"
	"sync"
	"testing"

	"google.golang.org/grpc"
	"google.golang.org/protobuf/types/known/timestamppb"

	"github.com/countersign-mesh/countersign/pkg/audit"
	"github.com/countersign-mesh/countersign/pkg/mesh"
	auditv1 "github.com/countersign-mesh/countersign/proto/gen/mesh/audit/v1"
)

// auditLog is an audit service, and the recorder of the servers whose decisions it has. It is safe for concurrent use.
type auditLog struct {
	auditv1.UnimplementedAuditServiceServer
	mu      sync.Mutex
	records []*auditv1.StoredRecord
	news    chan struct{}
}

// Record implements audit.Recorder.
func (l *auditLog) Record(d audit.Decision) {
	verdict := auditv1.Verdict_VERDICT_DENIED
	if d.Allowed {
		verdict = auditv1.Verdict_VERDICT_ALLOWED
	}
	l.store(&auditv1.StoredRecord{Event: &auditv1.StoredRecord_Decision{Decision: &auditv1.Decision{
		DecisionId: d.ID.String(), DecideTime: timestamppb.New(d.Time), PeerId: d.PeerID, PeerSerial: d.PeerSerial, Method: d.Method,
		Verdict: verdict, Rule: d.Rule, Reason: d.Reason, PolicyVersion: d.PolicyVersion,
		Subject: d.Subject, TransactionId: d.TransactionID,
	}}})
}

func (l *auditLog) store(r *auditv1.StoredRecord) {
	l.mu.Lock()
	defer l.mu.Unlock()
	r.Position = int64(len(l.records)) + 1
	l.records = append(l.records, r)
	close(l.news)
	l.news = make(chan struct{})
}

// after returns the records behind a position, and what is closed when there are more.
func (l *auditLog) after(position int64) ([]*auditv1.StoredRecord, <-chan struct{}) {
	l.mu.Lock()
	defer l.mu.Unlock()
	return slices.Clone(l.records[position:]), l.news
}

// ListDecisions implements AuditService: one page, newest first, without those before start_time.
func (l *auditLog) ListDecisions(_ context.Context, request *auditv1.ListDecisionsRequest) (*auditv1.ListDecisionsResponse, error) {
	records, _ := l.after(0)
	slices.Reverse(records)
	if n := int(request.GetPageSize()); n > 0 && len(records) > n {
		records = records[:n]
	}
	return &auditv1.ListDecisionsResponse{Records: records}, nil
}

// WatchDecisions implements AuditService.
func (l *auditLog) WatchDecisions(request *auditv1.WatchDecisionsRequest, stream grpc.ServerStreamingServer[auditv1.WatchDecisionsResponse]) error {
	for position := request.GetAfterPosition(); ; {
		records, news := l.after(position)
		for _, r := range records {
			if err := stream.Send(&auditv1.WatchDecisionsResponse{Record: r}); err != nil {
				return err
			}
			position = r.GetPosition()
		}
		select {
		case <-news:
		case <-stream.Context().Done():
			return stream.Context().Err()
		}
	}
}

// newAuditedBank is newBank with an audit service that has the decisions of all.
func newAuditedBank(t *testing.T, names ...string) (*bank, *auditLog) {
	t.Helper()
	b, log := newBank(t), &auditLog{news: make(chan struct{})}
	b.add(t, "audit", b.serveWith(t, "audit", true, func(s *mesh.Server) { auditv1.RegisterAuditServiceServer(s, log) }, mesh.WithRecorder(log)))
	for _, name := range names {
		b.add(t, name, b.serveWith(t, name, true, func(*mesh.Server) {}, mesh.WithRecorder(log)))
	}
	return b, log
}
