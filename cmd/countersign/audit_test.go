package main

import (
	"bytes"
	"context"
	"encoding/json"
	"fmt"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"google.golang.org/protobuf/encoding/protojson"
	"google.golang.org/protobuf/testing/protocmp"
	"google.golang.org/protobuf/types/known/timestamppb"

	"github.com/countersign-mesh/countersign/cmd/countersign/internal/console"
	"github.com/countersign-mesh/countersign/cmd/countersign/internal/site"
	auditv1 "github.com/countersign-mesh/countersign/proto/gen/mesh/audit/v1"
)

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
		row(1, "/payments "+method+" - allowed 00000000000000000000000000000001 bank.yaml:101"),
		row(2, "spiffe://other.test/risk - - denied 00000000000000000000000000000002 no rule �[2J"),
		row(3, "- - - lost - 12 decisions were lost until "+clock(time.Date(2026, 11, 5, 9, 30, 3, 123456000, time.UTC))),
		row(4, "/payments "+method+" alice�[2J allowed, in shadow denied 00000000000000000000000000000004 bank.yaml:101"),
	}
}

const headerRow = "POSITION TIME SERVER PEER METHOD SUBJECT VERDICT DECISION WHY"

func TestAuditQueryAsksForWhatTheFlagsSay(t *testing.T) {
	t.Parallel()
	b, fake := newAudit(t, trailOf(4))
	out, err := b.countersign(t, "audit", "query", "--peer=/risk", "--server=spiffe://bank.test/ledger", "--method=PostTransfer", "--verdict=denied", "--shadow=allowed",
		"--since=2026-11-05T09:30:00Z", "--until=2026-11-05T10:30:00+01:00", "--decision="+strings.Repeat("ab", 16), "--trace="+strings.Repeat("cd", 16),
		"--subject=alice", "--transaction=txn-1")
	if err != nil {
		t.Fatal(err)
	}
	want := &auditv1.ListDecisionsRequest{PageSize: 50, Filter: &auditv1.DecisionFilter{
		PeerId: "spiffe://bank.test/risk", ServerId: "spiffe://bank.test/ledger", Method: "/bank.ledger.v1.LedgerService/PostTransfer",
		Verdict: auditv1.Verdict_VERDICT_DENIED, ShadowVerdict: auditv1.Verdict_VERDICT_ALLOWED, DecisionId: strings.Repeat("ab", 16), TraceId: strings.Repeat("cd", 16),
		Subject: "alice", TransactionId: "txn-1",
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
	if err := c.Run(ctx, &session{dir: b.dir, mesh: site.Finder{Dir: b.dir}, out: console.New(out, nil), err: console.New(out, nil)}); err != nil {
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

func TestAuditShowsForWhomAndInWhichTransaction(t *testing.T) {
	t.Parallel()
	for i, want := range map[int]string{4: "subject   alice�[2J\ntxn       txn-1\n", 1: "subject   -\ntxn       -\n"} {
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
