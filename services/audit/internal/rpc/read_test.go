package rpc_test

import (
	"context"
	"slices"
	"strconv"
	"strings"
	"testing"
	"time"

	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"
	"google.golang.org/protobuf/proto"

	"github.com/countersign-mesh/countersign/pkg/audit"
	"github.com/countersign-mesh/countersign/pkg/audit/chain"
	auditv1 "github.com/countersign-mesh/countersign/proto/gen/mesh/audit/v1"
	"github.com/countersign-mesh/countersign/services/audit/internal/rpc"
)

var ofLedger = &auditv1.DecisionFilter{ServerId: "spiffe://bank.test/ledger"}

func TestThePagesOfAListCoverItOnce(t *testing.T) {
	t.Parallel()
	f := start(t)
	f.mustRecord(t, "/ledger", decisions(1, 120)...)
	operator, request := f.as(t, "/operator"), &auditv1.ListDecisionsRequest{Filter: ofLedger}
	var sizes []int
	next := int64(120)
	for {
		response, err := operator.ListDecisions(t.Context(), request)
		if err != nil {
			t.Fatal(err)
		}
		sizes = append(sizes, len(response.GetRecords()))
		for _, r := range response.GetRecords() {
			if number(r) != strconv.FormatInt(next, 16) {
				t.Fatalf("decision %s where %x comes next", number(r), next)
			}
			next--
		}
		if request.PageToken = response.GetNextPageToken(); request.GetPageToken() == "" {
			break
		}
		// What is stored meanwhile does not shift the pages.
		f.mustRecord(t, "/ledger", decision(121))
	}
	if !slices.Equal(sizes, []int{50, 50, 20}) || next != 0 {
		t.Errorf("pages of %v down to %d, want 50, 50 and 20 down to 1", sizes, next+1)
	}
}

func TestAPageTokenIsGoodForItsListOnly(t *testing.T) {
	t.Parallel()
	f := start(t)
	f.mustRecord(t, "/ledger", decisions(1, 10)...)
	operator := f.as(t, "/operator")
	first, err := operator.ListDecisions(t.Context(), &auditv1.ListDecisionsRequest{Filter: ofLedger, PageSize: 5})
	if err != nil {
		t.Fatal(err)
	}
	token := first.GetNextPageToken()
	for name, request := range map[string]*auditv1.ListDecisionsRequest{
		"another filter": {Filter: &auditv1.DecisionFilter{ServerId: "spiffe://bank.test/risk"}, PageToken: token},
		"no filter":      {PageToken: token},
		"made up":        {Filter: ofLedger, PageToken: "AAAA"},
		"altered":        {Filter: ofLedger, PageToken: strings.ToUpper(token)},
	} {
		if _, err := operator.ListDecisions(t.Context(), request); status.Code(err) != codes.InvalidArgument {
			t.Errorf("%s: %v, want INVALID_ARGUMENT", name, err)
		}
	}
	rest, err := operator.ListDecisions(t.Context(), &auditv1.ListDecisionsRequest{Filter: ofLedger, PageSize: 7, PageToken: token})
	if err != nil || len(rest.GetRecords()) != 5 {
		t.Errorf("its own list: %d records, %v; want 5", len(rest.GetRecords()), err)
	}
}

func watch(t *testing.T, f *fixture, request *auditv1.WatchDecisionsRequest) auditv1.AuditService_WatchDecisionsClient {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), time.Minute) // a watch that tells nothing is a failure
	t.Cleanup(cancel)
	stream, err := f.as(t, "/operator").WatchDecisions(ctx, request)
	if err != nil {
		t.Fatal(err)
	}
	return stream
}

// wantNext receives and expects the decisions with these numbers.
func wantNext(t *testing.T, stream auditv1.AuditService_WatchDecisionsClient, first, last int64) {
	t.Helper()
	for i := first; i <= last; i++ {
		response, err := stream.Recv()
		if err != nil {
			t.Fatalf("decision %d: %v", i, err)
		}
		if got := number(response.GetRecord()); got != strconv.FormatInt(i, 16) {
			t.Fatalf("decision %s where %x comes next", got, i)
		}
	}
}

func TestAWatcherResumesAndGoesOnLive(t *testing.T) {
	t.Parallel()
	f := start(t)
	f.mustRecord(t, "/ledger", decisions(1, 500)...)
	var third int64
	for _, r := range all(t, f) {
		if number(r) == "3" {
			third = r.GetPosition()
		}
	}
	stream := watch(t, f, &auditv1.WatchDecisionsRequest{Filter: ofLedger, AfterPosition: third})
	wantNext(t, stream, 4, 500)
	f.mustRecord(t, "/ledger", decisions(501, 510)...)
	wantNext(t, stream, 501, 510)
}

func TestAWatcherWithoutAPositionSeesWhatComes(t *testing.T) {
	t.Parallel()
	f := start(t)
	f.mustRecord(t, "/ledger", decisions(1, 5)...)
	stream := watch(t, f, &auditv1.WatchDecisionsRequest{})
	// The watcher's own call, recorded after it was let in, shows that the watch has begun.
	for {
		response, err := stream.Recv()
		if err != nil {
			t.Fatal(err)
		}
		if response.GetRecord().GetServerId() == "spiffe://bank.test/ledger" {
			t.Fatalf("told of %v, which is of the past", response.GetRecord())
		}
		if response.GetRecord().GetDecision().GetMethod() == auditv1.AuditService_WatchDecisions_FullMethodName {
			break
		}
	}
	f.mustRecord(t, "/ledger", decision(6))
	for {
		response, err := stream.Recv()
		if err != nil {
			t.Fatal(err)
		}
		if response.GetRecord().GetServerId() == "spiffe://bank.test/ledger" {
			if number(response.GetRecord()) != "6" {
				t.Errorf("told of decision %s, want 6", number(response.GetRecord()))
			}
			return
		}
	}
}

func TestAWatcherFromTheStartSeesTheWholeTrailInOrder(t *testing.T) {
	t.Parallel()
	f := start(t)
	f.mustRecord(t, "/ledger", decisions(1, 250)...)
	want := all(t, f)
	stream := watch(t, f, &auditv1.WatchDecisionsRequest{FromStart: true})
	v := chain.NewVerifier()
	for i, w := range want {
		response, err := stream.Recv()
		if err != nil {
			t.Fatal(err)
		}
		if !proto.Equal(w, response.GetRecord()) {
			t.Fatalf("record %d is %v, want %v", i+1, response.GetRecord(), w)
		}
		v.Add(response.GetRecord())
	}
	if report := v.Report(); report.Found > 0 || report.Records < 250 {
		t.Errorf("%d records, findings %v", report.Records, report.Findings)
	}
	// It goes on live, and a position goes before the start.
	f.mustRecord(t, "/ledger", decision(251))
	wantNext(t, watch(t, f, &auditv1.WatchDecisionsRequest{FromStart: true, Filter: ofLedger, AfterPosition: want[len(want)-1].GetPosition()}), 251, 251)
}

func TestAWatcherCannotResumeFromTheFuture(t *testing.T) {
	t.Parallel()
	f := start(t)
	_, err := watch(t, f, &auditv1.WatchDecisionsRequest{AfterPosition: 1 << 40}).Recv()
	if status.Code(err) != codes.InvalidArgument {
		t.Errorf("error %v, want INVALID_ARGUMENT", err)
	}
}

func TestASlowWatcherIsSentAwayAndResumes(t *testing.T) {
	t.Parallel()
	f := start(t, rpc.WithMaxLag(300))
	f.mustRecord(t, "/ledger", decision(1))
	stream := watch(t, f, &auditv1.WatchDecisionsRequest{Filter: ofLedger, AfterPosition: 1})
	f.mustRecord(t, "/ledger", decision(2))
	for { // until it is live
		response, err := stream.Recv()
		if err != nil {
			t.Fatal(err)
		}
		if number(response.GetRecord()) == "2" {
			break
		}
	}
	// Far more than what HTTP/2 takes for a stream that nobody reads.
	const last = 1500
	long := strings.Repeat("m", 1024)
	var records []*auditv1.Record
	for i := int64(3); i <= last; i++ {
		records = append(records, decision(i, func(d *auditv1.Decision) { d.Method, d.Rule, d.Reason = long, long, long }))
	}
	for batch := range slices.Chunk(records, 100) {
		f.mustRecord(t, "/ledger", batch...)
	}
	seen, position := int64(2), int64(0)
	for {
		response, err := stream.Recv()
		if status.Code(err) == codes.ResourceExhausted {
			break
		}
		if err != nil {
			t.Fatalf("after decision %d: %v, want RESOURCE_EXHAUSTED", seen, err)
		}
		seen, position = seen+1, response.GetRecord().GetPosition()
	}
	if position == 0 || seen == last {
		t.Fatalf("saw %d of %d: the test did not reach what it is for", seen, last)
	}
	// What it reads of the past is no lag, however much it is.
	wantNext(t, watch(t, f, &auditv1.WatchDecisionsRequest{Filter: ofLedger, AfterPosition: position}), seen+1, last)
}

// From the queue of the server that decided to whoever asks: by a user and by a transaction, in a list and in a watch.
func TestDecisionsAreFoundByTheirUserAndTransaction(t *testing.T) {
	t.Parallel()
	f := start(t)
	q := audit.NewQueue(f.as(t, "/ledger"))
	run(t, q)
	for _, d := range []audit.Decision{
		{Subject: "alice", TransactionID: "txn-1", Allowed: true},
		{Subject: "alice", TransactionID: "txn-2"},
		{Subject: "bob", TransactionID: "txn-3"},
		{Allowed: true},
	} {
		d.ID, d.Time, d.Method, d.PeerID = audit.NewID(), time.Now(), "/m", "spiffe://bank.test/payments"
		q.Record(d)
	}
	hers := watch(t, f, &auditv1.WatchDecisionsRequest{Filter: &auditv1.DecisionFilter{Subject: "alice"}, FromStart: true})
	for _, want := range []string{"txn-1", "txn-2"} {
		response, err := hers.Recv()
		if err != nil {
			t.Fatal(err)
		}
		if d := response.GetRecord().GetDecision(); d.GetSubject() != "alice" || d.GetTransactionId() != want {
			t.Errorf("the watch has %v where %s of alice comes next", d, want)
		}
	}
	eventually(t, "all are stored", func() bool { return q.Stats().Sent == 4 })
	for name, test := range map[string]struct {
		filter *auditv1.DecisionFilter
		want   int
	}{
		"her transaction":        {&auditv1.DecisionFilter{TransactionId: "txn-2"}, 1},
		"all of hers":            {&auditv1.DecisionFilter{Subject: "alice"}, 2},
		"hers that were denied":  {&auditv1.DecisionFilter{Subject: "alice", Verdict: auditv1.Verdict_VERDICT_DENIED}, 1},
		"another's transaction":  {&auditv1.DecisionFilter{Subject: "alice", TransactionId: "txn-3"}, 0},
		"a name that begins so":  {&auditv1.DecisionFilter{Subject: "al"}, 0},
		"of whomever, by server": {&auditv1.DecisionFilter{ServerId: "spiffe://bank.test/ledger"}, 4},
	} {
		if got := f.list(t, test.filter); len(got) != test.want {
			t.Errorf("%s: %d decisions, want %d: %v", name, len(got), test.want, got)
		}
	}
}
