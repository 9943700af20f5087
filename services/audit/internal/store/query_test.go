package store_test

import (
	"context"
	"fmt"
	"slices"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"

	auditv1 "github.com/countersign-mesh/countersign/proto/gen/mesh/audit/v1"
)

func TestPagesCoverEverythingOnceInBothDirections(t *testing.T) {
	t.Parallel()
	s, _ := open(t)
	appendTo(t, s, ledger, run1, 25, decisions(1, 25)...)
	walk := func(next func(context.Context, *auditv1.DecisionFilter, int64, int) ([]*auditv1.StoredRecord, bool, error), from int64) []string {
		var got []string
		for more := true; more; {
			var page []*auditv1.StoredRecord
			var err error
			if page, more, err = next(t.Context(), nil, from, 10); err != nil || len(page) == 0 {
				t.Fatalf("page of %d: %v", len(page), err)
			}
			got = append(got, texts(page)...)
			from = page[len(page)-1].GetPosition()
		}
		return got
	}
	up := texts(all(t, s))
	if got := walk(s.After, 0); !slices.Equal(got, up) {
		t.Errorf("upwards %v, want %v", got, up)
	}
	slices.Reverse(up)
	if got := walk(s.Newest, 26); !slices.Equal(got, up) {
		t.Errorf("downwards %v, want %v", got, up)
	}
}

// A caller that is denied under names as long as they get must not make a page too large to be received.
func TestAPageIsBoundedInBytes(t *testing.T) {
	t.Parallel()
	s, _ := open(t)
	long := strings.Repeat("m", 1024)
	var records []*auditv1.Record
	for i := range int64(1000) {
		records = append(records, decision(i+1, denied, func(d *auditv1.Decision) { d.Method, d.Reason, d.Rule = long, long, long }))
	}
	appendTo(t, s, ledger, run1, 1000, records...)
	page, more, err := s.Newest(t.Context(), nil, 1001, 1000)
	if err != nil || !more || len(page) < 200 || len(page) > 400 {
		t.Errorf("a page of %d records, more %v, %v; want about 300 of 3.4 KiB", len(page), more, err)
	}
}

func TestFilters(t *testing.T) {
	t.Parallel()
	s, _ := open(t)
	appendTo(t, s, ledger, run1, 3, decision(1), decision(2, denied), gap(3, 5))
	appendTo(t, s, risk, run1, 2, decision(1, func(d *auditv1.Decision) {
		d.DecisionId, d.Method, d.TraceId, d.DecideTime = fmt.Sprintf("%032x", 10), "/m", "", at(10)
		d.ShadowVerdict, d.ShadowRule = auditv1.Verdict_VERDICT_DENIED, "bank.yaml:104"
		d.Subject, d.TransactionId = "alice", "txn-1"
	}), gap(2, 6))
	for name, test := range map[string]struct {
		filter *auditv1.DecisionFilter
		want   []string
	}{
		"none, gaps too":           {nil, []string{"lost 6", "a", "lost 5", "2", "1"}},
		"empty":                    {&auditv1.DecisionFilter{}, []string{"lost 6", "a", "lost 5", "2", "1"}},
		"decision":                 {&auditv1.DecisionFilter{DecisionId: fmt.Sprintf("%032x", 2)}, []string{"2"}},
		"decision unknown":         {&auditv1.DecisionFilter{DecisionId: fmt.Sprintf("%032x", 99)}, []string{}},
		"peer":                     {&auditv1.DecisionFilter{PeerId: risk}, []string{"2"}},
		"server, its gaps too":     {&auditv1.DecisionFilter{ServerId: risk}, []string{"lost 6", "a"}},
		"method":                   {&auditv1.DecisionFilter{Method: "/m"}, []string{"a"}},
		"allowed":                  {&auditv1.DecisionFilter{Verdict: auditv1.Verdict_VERDICT_ALLOWED}, []string{"a", "1"}},
		"denied":                   {&auditv1.DecisionFilter{Verdict: auditv1.Verdict_VERDICT_DENIED}, []string{"2"}},
		"denied in shadow":         {&auditv1.DecisionFilter{ShadowVerdict: auditv1.Verdict_VERDICT_DENIED}, []string{"a"}},
		"allowed in shadow":        {&auditv1.DecisionFilter{ShadowVerdict: auditv1.Verdict_VERDICT_ALLOWED}, []string{}},
		"trace":                    {&auditv1.DecisionFilter{TraceId: fmt.Sprintf("%032x", 1001)}, []string{"1"}},
		"subject":                  {&auditv1.DecisionFilter{Subject: "alice"}, []string{"a"}},
		"another subject":          {&auditv1.DecisionFilter{Subject: "bob"}, []string{}},
		"transaction":              {&auditv1.DecisionFilter{TransactionId: "txn-1"}, []string{"a"}},
		"of another's":             {&auditv1.DecisionFilter{Subject: "bob", TransactionId: "txn-1"}, []string{}},
		"since":                    {&auditv1.DecisionFilter{StartTime: at(4)}, []string{"a", "lost 5"}},
		"until":                    {&auditv1.DecisionFilter{EndTime: at(2)}, []string{"1"}},
		"in a window":              {&auditv1.DecisionFilter{StartTime: at(2), EndTime: at(3)}, []string{"lost 6", "2"}},
		"all must match":           {&auditv1.DecisionFilter{PeerId: risk, Verdict: auditv1.Verdict_VERDICT_ALLOWED}, []string{}},
		"text that looks like SQL": {&auditv1.DecisionFilter{Method: "' OR ''='"}, []string{}},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			got, more, err := s.Newest(t.Context(), test.filter, 1000, 100)
			if err != nil || more {
				t.Fatalf("more %v, %v", more, err)
			}
			if diff := cmp.Diff(test.want, texts(got)); diff != "" {
				t.Errorf("records differ (-want +got):\n%s", diff)
			}
		})
	}
}
