package learn_test

import (
	"context"
	"errors"
	"fmt"
	"maps"
	"math/rand/v2"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"github.com/spiffe/go-spiffe/v2/spiffeid"
	"google.golang.org/grpc"
	"google.golang.org/protobuf/encoding/protojson"
	"google.golang.org/protobuf/reflect/protoregistry"
	"google.golang.org/protobuf/testing/protocmp"
	"google.golang.org/protobuf/types/known/timestamppb"

	"github.com/countersign-mesh/countersign/cmd/countersign/internal/learn"
	"github.com/countersign-mesh/countersign/pkg/identity"
	"github.com/countersign-mesh/countersign/pkg/policy"
	auditv1 "github.com/countersign-mesh/countersign/proto/gen/mesh/audit/v1"
)

func (m *mesh) least(t *testing.T, withDenied bool) string {
	t.Helper()
	least, err := m.Least(protoregistry.GlobalFiles, withDenied)
	if err != nil {
		t.Fatal(err)
	}
	return string(least)
}

func TestTheLeastPolicyHasWhatWasUsedAndWhatGuardsIt(t *testing.T) {
	t.Parallel()
	m := newMesh(t, text)
	m.seen(12, "/payments", post, m.line(t, "{peer: /payments"), "")
	m.seen(2, "/canary/blue", post, m.line(t, "{peer: /canary/**"), "")
	m.seen(3, "/gateway", balance, m.line(t, "{peer: /accounts}"), "")
	m.seen(1, "spiffe://partner.test/shop", entries, m.line(t, "partner.test"), "")
	m.seen(7, "/stranger", balance, "", "p.yaml:15: no rule\n          - peer: /stranger\r")
	m.version = "0123456789abcdef"
	m.seen(2, "/canary/red", post, "", "")
	m.seen(2, "/gone", post, "p.yaml:2", "")
	want := `# The least policy that would have allowed what policy VERSION and those before it allowed from 2026-03-01T12:00:00Z to 2026-03-01T12:11:00Z:
# 29 decisions. What happens rarer than that is not in it. Read it before it takes the place of another one.
trust_domain: bank.test

services:
  bank.ledger.v1.LedgerService:
    served_by: [/ledger]
    methods:
      CheckTrialBalance:
        allow: []
      GetBalance:
        allow:
          - peer: /gateway
            why: seen 3 times, last 2026-03-01T12:02:00Z
          # - peer: /stranger # denied 7 times, last 2026-03-01T12:06:00Z: p.yaml:15: no rule           - peer: /stranger 
      ListEntries:
        allow:
          - peer: spiffe://partner.test/shop
            why: seen 1 times, last 2026-03-01T12:00:00Z
      PostTransfer:
        allow:
          - peer: /canary/blue
            when: request.transfer_id != ''
            why: 'seen 2 times, last 2026-03-01T12:01:00Z: a canary: careful'
          - peer: /canary/red
            when: request.transfer_id != ''
            why: 'seen 2 times, last 2026-03-01T12:01:00Z: a canary: careful'
          - peer: /payments
            why: 'seen 12 times, last 2026-03-01T12:11:00Z: moves money'
          - peer: /trial
            shadow: true
          # - peer: /gone # let in 2 times by an earlier policy, last 2026-03-01T12:01:00Z
        deny:
          - peer: /canary/blue
            when: request.transfer_id == 'x'

revoked:
  - id: /mallory
    why: 'was broken into: twice'
  - serial: "4F:02"
  - authority: "9c01"
`
	want = strings.Replace(want, "VERSION", m.Version(), 1)
	if diff := cmp.Diff(want, m.least(t, true)); diff != "" {
		t.Errorf("want (-) and got (+):\n%s", diff)
	}
	var lines []string
	for line := range strings.Lines(want) {
		if !strings.HasPrefix(strings.TrimSpace(line), "# - ") {
			lines = append(lines, line)
		}
	}
	if diff := cmp.Diff(strings.Join(lines, ""), m.least(t, false)); diff != "" {
		t.Errorf("without what was denied, want (-) and got (+):\n%s", diff)
	}
}

// A rule that denies guards whoever is let in, also when it never had to; one that was used stays in any case.
func TestTheLeastPolicyDeniesWhatThePolicyDenies(t *testing.T) {
	t.Parallel()
	m := newMesh(t, text)
	m.seen(1, "/risk/x", post, m.line(t, "{peer: /risk"), "p.yaml:13: denied")
	least := m.least(t, false)
	if !strings.Contains(least, "        allow:\n          - peer: /trial\n            shadow: true\n        deny:\n          - peer: /risk/**\n            why: never\n") || strings.Contains(least, "/canary") {
		t.Errorf("it is\n%s", least)
	}
}

// A record may say what it likes: it lets nobody into the least policy whom the policy does not let in.
func TestTheLeastPolicyAllowsNoMoreThanThePolicy(t *testing.T) {
	t.Parallel()
	m := newMesh(t, text)
	line := m.line(t, "{peer: /payments")
	for _, version := range []string{m.version, "0123456789abcdef"} {
		m.version = version
		m.seen(1, "/stranger", post, line, "")
		m.seen(1, "/mallory", balance, line, "")
		m.seen(1, "/risk/x", post, line, "")
		m.seen(1, "/payments", "/no.such.Service/Get", line, "")
	}
	least := m.least(t, true)
	for line := range strings.Lines(least) {
		if strings.HasPrefix(strings.TrimSpace(line), "- peer:") && !strings.Contains(line, "/trial") {
			t.Errorf("it has %s", line)
		}
	}
}

// The least policy of any set of calls that were allowed allows these and no others.
func TestTheLeastPolicyAllowsExactlyWhatWasSeen(t *testing.T) {
	t.Parallel()
	const peers, methods = 6, 5
	for seed := range uint64(200) {
		random := rand.New(rand.NewPCG(seed, 1))
		var b strings.Builder
		b.WriteString("trust_domain: bank.test\nservices:\n  a.v1.A:\n    methods:\n")
		for m := range methods {
			fmt.Fprintf(&b, "      M%d: {allow: [{peer: %s}, {peer: spiffe://partner.test/**}]}\n", m, []string{"/**", "/team/**"}[random.IntN(2)])
		}
		m := newMesh(t, b.String())
		id := func(p int) string {
			return []string{"spiffe://bank.test/a", "spiffe://bank.test/team/a", "spiffe://bank.test/team/a/b", "spiffe://bank.test/team", "spiffe://partner.test/a", "spiffe://other.test/a"}[p]
		}
		seen := make(map[string]bool)
		for range random.IntN(peers * methods) {
			peer, method := id(random.IntN(peers)), fmt.Sprintf("/a.v1.A/M%d", random.IntN(methods))
			if m.Decide(policy.Call{Method: method, Peer: &identity.Peer{ID: spiffeid.RequireFromString(peer)}}).Allowed {
				m.version = []string{m.Version(), "0123456789abcdef"}[random.IntN(2)]
				m.seen(1, peer, method, "p.yaml:1", "")
				seen[peer+" "+method] = true
			}
		}
		least := m.least(t, true)
		compiled, got := parse(t, least), make(map[string]bool)
		for p := range peers {
			for i := range methods {
				method := fmt.Sprintf("/a.v1.A/M%d", i)
				if compiled.Decide(policy.Call{Method: method, Peer: &identity.Peer{ID: spiffeid.RequireFromString(id(p))}}).Allowed {
					got[id(p)+" "+method] = true
				}
			}
		}
		if diff := cmp.Diff(slices.Sorted(maps.Keys(seen)), slices.Sorted(maps.Keys(got))); diff != "" {
			t.Fatalf("seed %d: want (-) and got (+):\n%s\nof\n%s\nis\n%s", seed, diff, b.String(), least)
		}
	}
}

func TestThereIsNoLeastPolicyOfMoreThanIsKnown(t *testing.T) {
	t.Parallel()
	m := newMesh(t, text)
	for i := range 10_001 {
		m.seen(1, fmt.Sprintf("/x%d", i), balance, m.line(t, "{peer: /accounts}"), "")
	}
	if _, err := m.Least(protoregistry.GlobalFiles, false); err == nil || !strings.Contains(err.Error(), "more different callers") {
		t.Errorf("the error is %v", err)
	}
}

// pages is an audit service of a few pages.
type pages struct {
	auditv1.AuditServiceClient
	records [][]*auditv1.StoredRecord
	err     error
	filters []*auditv1.DecisionFilter
}

func (p *pages) ListDecisions(_ context.Context, request *auditv1.ListDecisionsRequest, _ ...grpc.CallOption) (*auditv1.ListDecisionsResponse, error) {
	n := len(request.GetPageToken())
	p.filters = append(p.filters, request.GetFilter())
	if n == len(p.records) {
		return nil, p.err
	}
	response := &auditv1.ListDecisionsResponse{Records: p.records[n]}
	if n+1 < len(p.records) || p.err != nil {
		response.NextPageToken = strings.Repeat("x", n+1)
	}
	return response, nil
}

func at(minute int) *auditv1.StoredRecord {
	return &auditv1.StoredRecord{Event: &auditv1.StoredRecord_Decision{Decision: &auditv1.Decision{DecideTime: timestamppb.New(noon.Add(time.Duration(minute) * time.Minute))}}}
}

func TestFromServiceReadsEveryPage(t *testing.T) {
	t.Parallel()
	errGone := errors.New("gone")
	for _, err := range []error{nil, errGone} {
		service := &pages{records: [][]*auditv1.StoredRecord{{at(5), at(4)}, {at(3)}, {at(2)}}, err: err}
		var got []*auditv1.StoredRecord
		var gotErr error
		for record, err := range learn.FromService(t.Context(), service, noon) {
			if gotErr = err; err == nil {
				got = append(got, record)
			}
		}
		if diff := cmp.Diff([]*auditv1.StoredRecord{at(5), at(4), at(3), at(2)}, got, protocmp.Transform()); diff != "" || !errors.Is(gotErr, err) {
			t.Errorf("the error is %v, want %v:\n%s", gotErr, err, diff)
		}
		for _, filter := range service.filters { // a page token is good for one filter
			if diff := cmp.Diff(&auditv1.DecisionFilter{StartTime: timestamppb.New(noon)}, filter, protocmp.Transform()); diff != "" {
				t.Error(diff)
			}
		}
	}
}

func TestFromLinesReadsARecordALine(t *testing.T) {
	t.Parallel()
	line := func(record *auditv1.StoredRecord) string { return protojson.MarshalOptions{}.Format(record) + "\n" }
	gap := &auditv1.StoredRecord{Event: &auditv1.StoredRecord_Gap{Gap: &auditv1.Gap{LostCount: 1, EndTime: timestamppb.New(noon.Add(time.Minute))}}}
	for name, test := range map[string]struct {
		text  string
		since time.Time
		want  []*auditv1.StoredRecord
		err   string
	}{
		"all":                          {line(at(1)) + "\n" + line(gap) + strings.TrimSuffix(line(at(2)), "\n"), time.Time{}, []*auditv1.StoredRecord{at(1), gap, at(2)}, ""},
		"those since a moment":         {line(at(1)) + line(gap) + line(at(2)), noon.Add(2 * time.Minute), []*auditv1.StoredRecord{at(2)}, ""},
		"a field of a later version":   {`{"color": "red"}` + "\n", time.Time{}, []*auditv1.StoredRecord{{}}, ""},
		"what is no JSON":              {line(at(1)) + "position: 1\n", time.Time{}, []*auditv1.StoredRecord{at(1)}, "f.jsonl:2: no mesh.audit.v1.StoredRecord"},
		"a line that is cut off":       {line(at(1)) + line(at(2))[:20], time.Time{}, []*auditv1.StoredRecord{at(1)}, "f.jsonl:2: "},
		"a line that is longer than a": {line(at(1)) + strings.Repeat("x", 2<<20), time.Time{}, []*auditv1.StoredRecord{at(1)}, "f.jsonl:2: the line is longer"},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			var got []*auditv1.StoredRecord
			var gotErr error
			for record, err := range learn.FromLines("f.jsonl", strings.NewReader(test.text), test.since) {
				if gotErr = err; err == nil {
					got = append(got, record)
				}
			}
			if diff := cmp.Diff(test.want, got, protocmp.Transform()); diff != "" {
				t.Errorf("want (-) and got (+):\n%s", diff)
			}
			if (gotErr != nil) != (test.err != "") || gotErr != nil && !strings.HasPrefix(gotErr.Error(), test.err) {
				t.Errorf("the error is %v, want %q", gotErr, test.err)
			}
		})
	}
}

func TestMarkdownKeepsWhatCallersWroteText(t *testing.T) {
	t.Parallel()
	var b strings.Builder
	err := learn.Markdown(&b, []learn.Section{
		{Title: "Denials", Headers: []string{"peer", "reason"}, Rows: [][]string{{"/a", "x | y <b> `c` [d](e)\n# f"}}},
		{Title: "Doubts", Headers: []string{""}, Rows: [][]string{{"one"}, {"two"}}},
		{Title: "Rules", Else: "None."},
	})
	const want = "## Denials\n\n| peer | reason |\n| --- | --- |\n| /a | x \\| y &lt;b> \\`c\\` \\[d](e) # f |\n" +
		"\n## Doubts\n\n- one\n- two\n\n## Rules\n\nNone.\n"
	if diff := cmp.Diff(want, b.String()); err != nil || diff != "" {
		t.Errorf("%v, want (-) and got (+):\n%s", err, diff)
	}
}
