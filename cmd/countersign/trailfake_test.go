package main

import (
	"context"
	"fmt"
	"slices"
	"sync"
	"testing"
	"time"

	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"
	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/types/known/timestamppb"

	"github.com/countersign-mesh/countersign/pkg/audit/chain"
	auditv1 "github.com/countersign-mesh/countersign/proto/gen/mesh/audit/v1"
)

// trailOf returns records of the ledger: the second denied, the third a gap, the fourth with a shadow verdict, the others allowed.
func trailOf(n int) []*auditv1.StoredRecord {
	const server, run = "spiffe://bank.test/ledger", "11111111111111111111111111111111"
	at := func(i int) *timestamppb.Timestamp {
		return timestamppb.New(time.Date(2026, 11, 5, 9, 30, i, 123456000, time.UTC))
	}
	var records []*auditv1.StoredRecord
	var h chain.Hash
	for i := 1; i <= n; i++ {
		d := &auditv1.Decision{
			DecisionId: fmt.Sprintf("%032x", i), DecideTime: at(i), ServerId: server, PeerId: "spiffe://bank.test/payments", PeerSerial: "1f",
			Method: "/bank.ledger.v1.LedgerService/PostTransfer", Verdict: auditv1.Verdict_VERDICT_ALLOWED, Rule: "bank.yaml:101", PolicyVersion: "0123456789abcdef",
		}
		r := &auditv1.StoredRecord{
			Position: int64(i), ServerId: server, StoreTime: at(i), RunId: run, Sequence: int64(i), Event: &auditv1.StoredRecord_Decision{Decision: d},
		}
		switch i {
		case 2:
			d.Verdict, d.Rule, d.Reason, d.PeerId, d.Method = auditv1.Verdict_VERDICT_DENIED, "", "no rule \x1b[2J", "spiffe://other.test/risk", ""
		case 3:
			r.Event = &auditv1.StoredRecord_Gap{Gap: &auditv1.Gap{LostCount: 12, StartTime: at(i), EndTime: at(i)}}
		case 4:
			d.ShadowVerdict, d.ShadowRule = auditv1.Verdict_VERDICT_DENIED, "bank.yaml:104"
			d.Subject, d.TransactionId = "alice\x1b[2J", "txn-1"
		}
		h = chain.Next(h, r)
		hash := h
		r.Hash = hash[:]
		records = append(records, r)
	}
	return records
}

// auditFake is an audit service with a trail. It lists and watches all of it, whatever the filter.
type auditFake struct {
	auditv1.UnimplementedAuditServiceServer
	mu      sync.Mutex
	records []*auditv1.StoredRecord
	// later is stored when the first watch has ended.
	later []*auditv1.StoredRecord
	// cut is after how many records the next watches end with UNAVAILABLE.
	cut     []int
	lists   []*auditv1.ListDecisionsRequest
	watches []*auditv1.WatchDecisionsRequest
}

func (f *auditFake) ListDecisions(_ context.Context, r *auditv1.ListDecisionsRequest) (*auditv1.ListDecisionsResponse, error) {
	f.mu.Lock()
	defer f.mu.Unlock()
	f.lists = append(f.lists, proto.CloneOf(r))
	page := slices.Clone(f.records)
	slices.Reverse(page)
	if r.GetPageToken() != "" {
		page = page[len(f.records)/2:]
	}
	response := &auditv1.ListDecisionsResponse{Records: page[:min(len(page), int(r.GetPageSize()))]}
	if len(page) > len(response.GetRecords()) {
		response.NextPageToken = "half"
		response.Records = response.GetRecords()[:min(len(response.GetRecords()), len(f.records)/2)]
	}
	return response, nil
}

func (f *auditFake) WatchDecisions(r *auditv1.WatchDecisionsRequest, stream grpc.ServerStreamingServer[auditv1.WatchDecisionsResponse]) error {
	f.mu.Lock()
	f.watches = append(f.watches, proto.CloneOf(r))
	cut := -1
	if len(f.cut) > 0 {
		cut, f.cut = f.cut[0], f.cut[1:]
	}
	records := f.records
	f.records = append(f.records, f.later...)
	f.later = nil
	f.mu.Unlock()
	for _, record := range records {
		if record.GetPosition() <= r.GetAfterPosition() {
			continue
		}
		if cut == 0 {
			break
		}
		cut--
		if err := stream.Send(&auditv1.WatchDecisionsResponse{Record: record}); err != nil {
			return err
		}
	}
	if cut == 0 {
		return status.Error(codes.Unavailable, "cut")
	}
	<-stream.Context().Done()
	return status.FromContextError(stream.Context().Err()).Err()
}

func (f *auditFake) watched() []*auditv1.WatchDecisionsRequest {
	f.mu.Lock()
	defer f.mu.Unlock()
	return slices.Clone(f.watches)
}

// newAudit is a bank with a fake audit service that has these records.
func newAudit(t *testing.T, records []*auditv1.StoredRecord) (*bank, *auditFake) {
	t.Helper()
	b, fake := newBank(t), &auditFake{records: records}
	b.addAudit(t, fake)
	return b, fake
}

func (b *bank) addAudit(t *testing.T, service auditv1.AuditServiceServer) {
	t.Helper()
	b.add(t, "audit", b.Serve(t, "/audit", func(r grpc.ServiceRegistrar) { auditv1.RegisterAuditServiceServer(r, service) }))
}
