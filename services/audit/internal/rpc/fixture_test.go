package rpc_test

import (
	"context"
	"fmt"
	"log/slog"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"go.uber.org/goleak"
	"google.golang.org/grpc"
	"google.golang.org/protobuf/types/known/timestamppb"

	"github.com/countersign-mesh/countersign/pkg/audit"
	"github.com/countersign-mesh/countersign/pkg/audit/trail"
	"github.com/countersign-mesh/countersign/pkg/database"
	"github.com/countersign-mesh/countersign/pkg/mesh"
	"github.com/countersign-mesh/countersign/pkg/meshtest"
	auditv1 "github.com/countersign-mesh/countersign/proto/gen/mesh/audit/v1"
	"github.com/countersign-mesh/countersign/services/audit/internal/own"
	"github.com/countersign-mesh/countersign/services/audit/internal/rpc"
	"github.com/countersign-mesh/countersign/services/audit/internal/store"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

const run1 = "11111111111111111111111111111111"

// fixture is the audit service in a mesh under the bank's policy, put together as in main.
type fixture struct {
	mesh  *meshtest.Mesh
	store *store.Store
	addr  string
}

func start(t *testing.T, opts ...rpc.Option) *fixture {
	t.Helper()
	f := &fixture{mesh: meshtest.Open(t, "bank.test", "../../../../deploy/policy/bank.yaml"), store: openStore(t)}
	log := slog.New(slog.NewTextHandler(t.Output(), nil))
	records := own.NewQueue("spiffe://bank.test/audit", f.store, audit.WithLogger(log), audit.WithBatch(100, 5*time.Millisecond))
	run(t, records)
	f.addr = f.mesh.Serve(t, "/audit", func(r grpc.ServiceRegistrar) {
		auditv1.RegisterAuditServiceServer(r, rpc.New(f.store, log, opts...))
	}, mesh.WithRecorder(records))
	return f
}

func openStore(t *testing.T) *store.Store {
	t.Helper()
	migrations, err := trail.Migrations()
	if err != nil {
		t.Fatal(err)
	}
	db, err := database.Open(t.Context(), "sqlite:"+filepath.Join(t.TempDir(), "audit.db"), migrations)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := db.Close(); err != nil {
			t.Error(err)
		}
	})
	s, err := store.New(t.Context(), db)
	if err != nil {
		t.Fatal(err)
	}
	return s
}

// run runs a queue until the end of the test, or until stop is called.
func run(t *testing.T, q *audit.Queue) (stop func()) {
	t.Helper()
	ctx, cancel := context.WithCancel(context.WithoutCancel(t.Context()))
	done := make(chan struct{})
	go func() {
		defer close(done)
		if err := q.Run(ctx); err != nil {
			t.Error(err)
		}
	}()
	stop = func() {
		cancel()
		<-done
	}
	t.Cleanup(stop)
	return stop
}

// as returns a client with the identity of the workload with this path.
func (f *fixture) as(t *testing.T, path string) auditv1.AuditServiceClient {
	t.Helper()
	return auditv1.NewAuditServiceClient(f.mesh.Dial(t, path, "/audit", f.addr))
}

// record sends one request as path and returns what was acknowledged.
func (f *fixture) record(t *testing.T, path string, records ...*auditv1.Record) (int64, error) {
	t.Helper()
	stream, err := f.as(t, path).RecordDecisions(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	// The reason why it failed is for Recv to tell.
	_ = stream.Send(&auditv1.RecordDecisionsRequest{RunId: run1, Records: records})
	response, err := stream.Recv()
	if err != nil {
		return 0, err
	}
	if err := stream.CloseSend(); err != nil {
		t.Fatal(err)
	}
	if _, err := stream.Recv(); err == nil {
		t.Error("the stream goes on after its end")
	}
	return response.GetStoredSequence(), nil
}

func (f *fixture) mustRecord(t *testing.T, path string, records ...*auditv1.Record) {
	t.Helper()
	if stored, err := f.record(t, path, records...); err != nil || stored != records[len(records)-1].GetSequence() {
		t.Fatalf("record as %s: %d, %v", path, stored, err)
	}
}

// list lists as the operator.
func (f *fixture) list(t *testing.T, filter *auditv1.DecisionFilter) []*auditv1.StoredRecord {
	t.Helper()
	response, err := f.as(t, "/operator").ListDecisions(t.Context(), &auditv1.ListDecisionsRequest{Filter: filter, PageSize: 1000})
	if err != nil {
		t.Fatal(err)
	}
	if response.GetNextPageToken() != "" {
		t.Fatal("more than a page")
	}
	return response.GetRecords()
}

func decision(sequence int64, changes ...func(*auditv1.Decision)) *auditv1.Record {
	d := &auditv1.Decision{
		DecisionId:    fmt.Sprintf("%032x", sequence),
		DecideTime:    timestamppb.New(time.Unix(1_800_000_000+sequence, 0)),
		PeerId:        "spiffe://bank.test/payments",
		PeerSerial:    "1f",
		Method:        "/bank.ledger.v1.LedgerService/PostTransfer",
		Verdict:       auditv1.Verdict_VERDICT_ALLOWED,
		Rule:          "bank.yaml:101",
		PolicyVersion: "0123456789abcdef",
	}
	for _, change := range changes {
		change(d)
	}
	return &auditv1.Record{Sequence: sequence, Event: &auditv1.Record_Decision{Decision: d}}
}

func decisions(first, last int64) []*auditv1.Record {
	var records []*auditv1.Record
	for i := first; i <= last; i++ {
		records = append(records, decision(i))
	}
	return records
}

// number returns a decision's number.
func number(r *auditv1.StoredRecord) string {
	return strings.TrimLeft(r.GetDecision().GetDecisionId(), "0")
}

// eventually waits until f holds.
func eventually(t *testing.T, what string, f func() bool) {
	t.Helper()
	deadline := time.After(time.Minute)
	tick := time.NewTicker(5 * time.Millisecond)
	defer tick.Stop()
	for !f() {
		select {
		case <-tick.C:
		case <-deadline:
			t.Fatalf("%s: not within a minute", what)
		}
	}
}
