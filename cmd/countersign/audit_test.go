package main

import (
	"bytes"
	"context"
	"encoding/json"
	"fmt"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"
	"google.golang.org/protobuf/encoding/protojson"
	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/testing/protocmp"
	"google.golang.org/protobuf/types/known/timestamppb"

	"github.com/countersign-mesh/countersign/cmd/countersign/internal/console"
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

// fields are the lines of a table without the spaces that fill it up.
func fields(table string) []string {
	var lines []string
	for line := range strings.Lines(table) {
		lines = append(lines, strings.Join(strings.Fields(line), " "))
	}
	return lines
}

func row(i int, rest string) string {
	return fmt.Sprintf("%d %s /ledger %s", i, clock(time.Date(2026, 11, 5, 9, 30, i, 123456000, time.UTC)), rest)
}

// wantRows are the rows of trailOf(4).
func wantRows() []string {
	const method = "bank.ledger.v1.LedgerService/PostTransfer"
	return []string{
		row(1, "/payments "+method+" allowed 00000000000000000000000000000001 bank.yaml:101"),
		row(2, "spiffe://other.test/risk - denied 00000000000000000000000000000002 no rule �[2J"),
		row(3, "- - lost - 12 decisions were lost until "+clock(time.Date(2026, 11, 5, 9, 30, 3, 123456000, time.UTC))),
		row(4, "/payments "+method+" allowed, in shadow denied 00000000000000000000000000000004 bank.yaml:101"),
	}
}

const headerRow = "POSITION TIME SERVER PEER METHOD VERDICT DECISION WHY"

func TestAuditQueryAsksForWhatTheFlagsSay(t *testing.T) {
	t.Parallel()
	b, fake := newAudit(t, trailOf(4))
	out, err := b.countersign(t, "audit", "query", "--peer=/risk", "--server=spiffe://bank.test/ledger", "--method=PostTransfer", "--verdict=denied", "--shadow=allowed",
		"--since=2026-11-05T09:30:00Z", "--until=2026-11-05T10:30:00+01:00", "--decision="+strings.Repeat("ab", 16), "--trace="+strings.Repeat("cd", 16))
	if err != nil {
		t.Fatal(err)
	}
	want := &auditv1.ListDecisionsRequest{PageSize: 50, Filter: &auditv1.DecisionFilter{
		PeerId: "spiffe://bank.test/risk", ServerId: "spiffe://bank.test/ledger", Method: "/bank.ledger.v1.LedgerService/PostTransfer",
		Verdict: auditv1.Verdict_VERDICT_DENIED, ShadowVerdict: auditv1.Verdict_VERDICT_ALLOWED, DecisionId: strings.Repeat("ab", 16), TraceId: strings.Repeat("cd", 16),
		StartTime: timestamppb.New(time.Date(2026, 11, 5, 9, 30, 0, 0, time.UTC)), EndTime: timestamppb.New(time.Date(2026, 11, 5, 9, 30, 0, 0, time.UTC)),
	}}
	if diff := cmp.Diff([]*auditv1.ListDecisionsRequest{want}, fake.lists, protocmp.Transform()); diff != "" {
		t.Errorf("the request differs (-want +got):\n%s", diff)
	}
	rows := wantRows()
	slices.Reverse(rows)
	if diff := cmp.Diff(append([]string{headerRow}, rows...), fields(out)); diff != "" {
		t.Errorf("the table differs (-want +got):\n%s", diff)
	}
	if _, err := b.countersign(t, "audit", "query", "--since=10m"); err != nil {
		t.Fatal(err)
	}
	if ago := time.Since(fake.lists[1].GetFilter().GetStartTime().AsTime()); ago < 10*time.Minute || ago > 11*time.Minute {
		t.Errorf("10m is %v ago", ago)
	}
}

func TestAuditQueryGoesThroughPagesUpToTheLimit(t *testing.T) {
	t.Parallel()
	b, fake := newAudit(t, trailOf(6))
	for limit, want := range map[string][]string{"5": {"6", "5", "4", "3", "2"}, "9": {"6", "5", "4", "3", "2", "1"}} {
		out, err := b.countersign(t, "audit", "query", "--limit="+limit)
		if err != nil {
			t.Fatal(err)
		}
		var got []string
		for _, line := range fields(out)[1:] {
			if position, _, ok := strings.Cut(line, " 2026-"); ok {
				got = append(got, position)
			}
		}
		if more := strings.Contains(out, "There are more"); !slices.Equal(got, want) || more != (len(want) < 6) {
			t.Errorf("--limit %s lists %v, and that there are more: %t; want %v", limit, got, more, want)
		}
	}
	if size := fake.lists[0].GetPageSize(); size != 5 && size != 9 {
		t.Errorf("a page of %d is asked for", size)
	}
	fake.records = nil
	if out, err := b.countersign(t, "audit", "query"); err != nil || out != "There is no such record.\n" {
		t.Errorf("of an empty trail: %q, %v", out, err)
	}
}

func TestAuditQueryWritesJSON(t *testing.T) {
	t.Parallel()
	records := trailOf(4)
	b, _ := newAudit(t, records)
	out, err := b.countersign(t, "audit", "query", "--json")
	if err != nil {
		t.Fatal(err)
	}
	var got []*auditv1.StoredRecord
	for line := range strings.Lines(out) {
		var r auditv1.StoredRecord
		if err := protojson.Unmarshal([]byte(line), &r); err != nil {
			t.Fatalf("%s: %v", line, err)
		}
		if !json.Valid([]byte(line)) || strings.Contains(line, ": ") || !strings.Contains(line, `"server_id":`) {
			t.Errorf("not one compact line with the names of the contract: %s", line)
		}
		got = append(got, &r)
	}
	slices.Reverse(got)
	if diff := cmp.Diff(records, got, protocmp.Transform()); diff != "" {
		t.Errorf("records differ (-want +got):\n%s", diff)
	}
}

// tail runs audit tail until as many lines were written, as Ctrl-C then ends it.
func tail(t *testing.T, b *bank, lines int, c auditTailCommand) string {
	t.Helper()
	ctx, interrupt := context.WithTimeout(t.Context(), time.Minute)
	defer interrupt()
	out := &untilLines{left: lines, reached: interrupt}
	c.Addr, c.Expect = "audit", "/audit"
	if err := c.Run(ctx, &session{dir: b.dir, out: console.New(out, nil), err: console.New(out, nil)}); err != nil {
		t.Fatal(err)
	}
	if out.left > 0 {
		t.Fatalf("%d lines are missing after:\n%s", out.left, out)
	}
	return out.String()
}

type untilLines struct {
	bytes.Buffer
	left    int
	reached func()
}

func (w *untilLines) Write(p []byte) (int, error) {
	if w.left -= bytes.Count(p, []byte("\n")); w.left <= 0 {
		w.reached()
	}
	return w.Buffer.Write(p)
}

func TestAuditTailGoesOnAfterABreak(t *testing.T) {
	t.Parallel()
	b, fake := newAudit(t, trailOf(4))
	fake.cut = []int{1, 2}
	out := tail(t, b, 5+1, auditTailCommand{After: new(int64)}) // the header, four rows, and a word about the second break
	lines := slices.DeleteFunc(fields(out), func(line string) bool {
		return strings.HasPrefix(line, "The feed broke off after record 3 and will be opened again: UNAVAILABLE: cut")
	})
	if diff := cmp.Diff(append([]string{headerRow}, wantRows()...), lines); diff != "" {
		t.Errorf("the rows differ (-want +got):\n%s\n%s", diff, out)
	}
	want := []*auditv1.WatchDecisionsRequest{{Filter: &auditv1.DecisionFilter{}, FromStart: true}, {Filter: &auditv1.DecisionFilter{}, AfterPosition: 1}, {Filter: &auditv1.DecisionFilter{}, AfterPosition: 3}}
	if diff := cmp.Diff(want, fake.watched(), protocmp.Transform()); diff != "" {
		t.Errorf("the requests differ (-want +got):\n%s", diff)
	}
}

// A break before the first record must not lose what was stored meanwhile.
func TestAuditTailBeginsAtTheHead(t *testing.T) {
	t.Parallel()
	records := trailOf(4)
	b, fake := newAudit(t, records[:2])
	fake.later, fake.cut = records[2:], []int{0}
	out := tail(t, b, 2, auditTailCommand{JSON: true, auditFilter: auditFilter{Peer: "/payments"}})
	if !strings.Contains(out, `"position":"3"`) || !strings.Contains(out, `"position":"4"`) {
		t.Errorf("records 3 and 4 are not in:\n%s", out)
	}
	for i, w := range fake.watched() {
		if w.GetAfterPosition() != 2 || w.GetFromStart() || w.GetFilter().GetPeerId() != "spiffe://bank.test/payments" {
			t.Errorf("request %d is %v, want one after 2", i, w)
		}
	}
	if _, err := b.countersign(t, "audit", "tail", "--after=99"); err == nil || !strings.Contains(err.Error(), "no record 99 yet; its last one is 4") {
		t.Errorf("after a record that is to come: %v", err)
	}
}

func TestAuditShowsTheShadowVerdict(t *testing.T) {
	t.Parallel()
	for i, want := range map[int]string{4: "shadow    would be denied by bank.yaml:104\n", 1: "shadow    -\n"} {
		var out bytes.Buffer
		showDecision(console.New(&out, nil), trailOf(4)[i-1].GetDecision())
		if !strings.Contains(out.String(), want) {
			t.Errorf("no %q in:\n%s", want, out.String())
		}
	}
}

func TestAuditIsForTheOperatorAlone(t *testing.T) {
	t.Parallel()
	b, _ := newAudit(t, trailOf(2))
	b.Identity(t, "/payments")
	for _, command := range []string{"query", "tail", "verify"} {
		_, err := b.countersign(t, "audit", command, "--socket", b.API(t, "/payments").Addr())
		if err == nil || !strings.Contains(err.Error(), "PERMISSION_DENIED") {
			t.Errorf("%s: %v", command, err)
		}
	}
}
