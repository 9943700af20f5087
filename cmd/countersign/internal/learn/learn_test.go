package learn_test

import (
	"fmt"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"google.golang.org/protobuf/types/known/timestamppb"

	auditv1 "github.com/countersign-mesh/countersign/proto/gen/mesh/audit/v1"
)

func TestARuleIsUsedOrNotOrMayBe(t *testing.T) {
	t.Parallel()
	const payments, canary, blue, risk, accounts, everybody, partner, trial = "{peer: /payments", "{peer: /canary/**", "{peer: /canary/blue", "{peer: /risk", "{peer: /accounts}", "{peer: /**}", "partner.test", "{peer: /trial"
	all := []string{payments, canary, blue, risk, accounts, everybody, partner, trial}
	other := func(m *mesh) { m.version = "0123456789abcdef" }
	for name, test := range map[string]struct {
		add         func(t *testing.T, m *mesh)
		used, maybe []string
	}{
		"nothing was seen": {func(*testing.T, *mesh) {}, nil, nil},
		"a rule without a condition": {func(t *testing.T, m *mesh) {
			m.seen(1, "/payments", post, m.line(t, payments), "")
		}, []string{payments}, nil},
		"a rule without a condition, by another version": {func(_ *testing.T, m *mesh) {
			other(m)
			m.seen(1, "/payments", post, "p.yaml:1", "")
		}, []string{payments}, nil},
		"a condition": {func(t *testing.T, m *mesh) {
			m.seen(1, "/canary/blue", post, m.line(t, canary), "")
		}, []string{canary}, nil},
		"a condition, by another version": {func(t *testing.T, m *mesh) {
			line := m.line(t, canary)
			other(m)
			m.seen(1, "/canary/blue", post, line, "")
		}, nil, []string{canary}},
		"a condition that denies, by another version": {func(_ *testing.T, m *mesh) {
			other(m)
			m.seen(1, "/canary/blue", post, "", "denied")
		}, nil, []string{blue}},
		"a condition that denies": {func(t *testing.T, m *mesh) {
			m.seen(1, "/canary/blue", post, m.line(t, blue), "denied")
		}, []string{blue}, nil},
		"a rule that denies": {func(t *testing.T, m *mesh) {
			m.seen(1, "/risk/x", post, m.line(t, risk), "denied")
		}, []string{risk}, nil},
		"a rule that denies, by another version": {func(_ *testing.T, m *mesh) {
			other(m)
			m.seen(1, "/risk/x", post, "", "denied")
		}, []string{risk}, nil},
		"the one of two in a line that names the peer": {func(t *testing.T, m *mesh) {
			m.seen(1, "/accounts", balance, m.line(t, accounts), "")
		}, []string{accounts}, nil},
		"the other one": {func(t *testing.T, m *mesh) {
			m.seen(1, "/gateway", balance, m.line(t, accounts), "")
		}, []string{everybody}, nil},
		"a rule for another trust domain": {func(t *testing.T, m *mesh) {
			m.seen(1, "spiffe://partner.test/shop", entries, m.line(t, partner), "")
		}, []string{partner}, nil},
		"a rule in shadow": {func(t *testing.T, m *mesh) {
			m.seen(1, "/trial", post, "", "no rule", func(d *auditv1.Decision) { d.ShadowRule = m.line(t, trial) })
		}, []string{trial}, nil},
		"a place that has no such rule for the peer": {func(t *testing.T, m *mesh) {
			m.seen(1, "/stranger", post, m.line(t, payments), "")
		}, nil, nil},
		"a denial for want of a rule": {func(_ *testing.T, m *mesh) {
			m.seen(1, "/stranger", post, "", "no rule")
		}, nil, nil},
		"a call that an earlier policy let in": {func(_ *testing.T, m *mesh) {
			other(m)
			m.seen(1, "/stranger", post, "p.yaml:9", "")
		}, nil, nil},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			m := newMesh(t, text)
			test.add(t, m)
			written := func(names []string) (peers []string) {
				for _, name := range names {
					peer, _, _ := strings.Cut(strings.Trim(strings.TrimPrefix(name, "{peer: "), "}"), ",")
					peers = append(peers, peer)
				}
				return peers
			}
			unused := slices.DeleteFunc(slices.Clone(all), func(name string) bool {
				return slices.Contains(test.used, name) || slices.Contains(test.maybe, name)
			})
			for title, want := range map[string][]string{"Rules that never decided": unused, "Rules that may have decided": test.maybe} {
				rows := m.section(t, title)
				if len(rows) != len(want) {
					t.Errorf("%s: %d of them, want %v:\n%s", title, len(rows), want, strings.Join(rows, "\n"))
					continue
				}
				for _, peer := range written(want) {
					if !slices.ContainsFunc(rows, func(row string) bool { return strings.Contains(row, peer) }) {
						t.Errorf("%s: %s is not among them:\n%s", title, peer, strings.Join(rows, "\n"))
					}
				}
			}
		})
	}
}

// A record of the same version names a line, and the line has the rule, however much else there is for the same peer or in the same line.
func TestARuleIsKnownByItsPlace(t *testing.T) {
	t.Parallel()
	const text = `trust_domain: bank.test
services:
  bank.ledger.v1.LedgerService:
    methods:
      PostTransfer:
        allow:
          - {peer: /a, when: request.transfer_id == 'one'}
          - {peer: /a, when: request.transfer_id == 'two'}
      GetBalance: {allow: [{peer: /a, when: request.account_id == 'one'}, {peer: /b, when: request.account_id == 'two'}, {peer: /a, when: request.account_id == 'three', shadow: true}], deny: [{peer: /a, when: request.account_id == 'four'}]}
`
	for name, test := range map[string]struct {
		add  func(m *mesh)
		want string
	}{
		"the second of two for a peer": {func(m *mesh) { m.seen(1, "/a", post, "p.yaml:8", "") }, "'two'"},
		"that of the peer in a line":   {func(m *mesh) { m.seen(1, "/b", balance, "p.yaml:9", "") }, "'two'"},
		"that which allows":            {func(m *mesh) { m.seen(1, "/a", balance, "p.yaml:9", "") }, "'one'"},
		"that which denies":            {func(m *mesh) { m.seen(1, "/a", balance, "p.yaml:9", "denied") }, "'four'"},
		"that in shadow": {func(m *mesh) {
			m.seen(1, "/a", balance, "", "denied", func(d *auditv1.Decision) { d.ShadowRule = "p.yaml:9" })
		}, "'three'"},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			m := newMesh(t, text)
			all := m.section(t, "Rules that never decided")
			test.add(m)
			unused := m.section(t, "Rules that never decided")
			used := slices.DeleteFunc(all, func(row string) bool { return slices.Contains(unused, row) })
			if maybe := m.section(t, "Rules that may have"); len(used) != 1 || !strings.Contains(used[0], test.want) || len(maybe) > 0 {
				t.Errorf("used are %v and maybe %v, want %s", used, maybe, test.want)
			}
		})
	}
}

func TestDenialsThatRecurSayWhatWouldAllowThem(t *testing.T) {
	t.Parallel()
	m := newMesh(t, text)
	m.seen(4, "/stranger", post, "", "p.yaml:6: allowed for \x1b[31m/payments\n")
	m.seen(3, "/risk/x", post, m.line(t, "{peer: /risk"), "p.yaml:13: denied")
	m.seen(2, "/mallory", balance, "", "revoked")
	m.seen(2, "/canary/red", post, "", "not this call")
	m.seen(1, "/canary/x", "/no.such.Service/Get", "", "no such method")
	m.seen(1, "/canary/x", "/no.such.Service/Put", "", "no such method")
	m.seen(2, "", balance, "", "no identity")
	m.seen(1, "/rare", post, "", "no rule")
	m.version = "0123456789abcdef"
	m.seen(5, "/accounts", balance, "", "no rule then")
	m.seen(2, "/gone", post, "p.yaml:2", "")
	title := "Denials that recur (1 more happened once)"
	want := []string{
		"spiffe://bank.test/accounts | /bank.ledger.v1.LedgerService/GetBalance | 5 | 2026-03-01T12:00:00Z | 2026-03-01T12:04:00Z | no rule then | p.yaml:15, by now",
		"spiffe://bank.test/stranger | /bank.ledger.v1.LedgerService/PostTransfer | 4 | 2026-03-01T12:00:00Z | 2026-03-01T12:03:00Z | p.yaml:6: allowed for  [31m/payments  | under bank.ledger.v1.LedgerService/PostTransfer allow: - peer: /stranger",
		"spiffe://bank.test/risk/x | /bank.ledger.v1.LedgerService/PostTransfer | 3 | 2026-03-01T12:00:00Z | 2026-03-01T12:02:00Z | p.yaml:13: denied | nothing, while p.yaml:13 denies it",
		"spiffe://bank.test/canary/x | what the policy has no rules for | 2 | 2026-03-01T12:00:00Z | 2026-03-01T12:00:00Z | no such method | nothing: no such method",
		"nobody | /bank.ledger.v1.LedgerService/GetBalance | 2 | 2026-03-01T12:00:00Z | 2026-03-01T12:01:00Z | no identity | an identity",
		"spiffe://bank.test/mallory | /bank.ledger.v1.LedgerService/GetBalance | 2 | 2026-03-01T12:00:00Z | 2026-03-01T12:01:00Z | revoked | nothing: the SPIFFE ID \"spiffe://bank.test/mallory\" is revoked (p.yaml:21)",
		"spiffe://bank.test/canary/red | /bank.ledger.v1.LedgerService/PostTransfer | 2 | 2026-03-01T12:00:00Z | 2026-03-01T12:01:00Z | not this call | p.yaml:9, for other requests",
	}
	if diff := cmp.Diff(want, m.section(t, title)); diff != "" {
		t.Errorf("want (-) and got (+):\n%s", diff)
	}
	want = []string{"spiffe://bank.test/gone | /bank.ledger.v1.LedgerService/PostTransfer | 2 | 2026-03-01T12:00:00Z | 2026-03-01T12:01:00Z | under bank.ledger.v1.LedgerService/PostTransfer allow: - peer: /gone"}
	if diff := cmp.Diff(want, m.section(t, "Let in by an earlier policy")); diff != "" {
		t.Errorf("want (-) and got (+):\n%s", diff)
	}
}

func TestTheReportSaysWhatItMayNotKnow(t *testing.T) {
	t.Parallel()
	const title = "Why a rule may look unused and not be"
	m := newMesh(t, text)
	if rows := strings.Join(m.section(t, title), "\n"); !strings.Contains(rows, "spiffe://bank.test/ledger has recorded nothing") {
		t.Errorf("before there is a record:\n%s", rows)
	}
	m.seen(61, "/payments", post, m.line(t, "{peer: /payments"), "")
	if rows := m.section(t, title); len(rows) > 0 {
		t.Errorf("of an hour in which nothing is missing: %v", rows)
	}
	for _, s := range m.Report(noon.Add(-time.Hour)) {
		if s.Title == title && (len(s.Rows) != 1 || s.Rows[0][0] != "The record begins at 2026-03-01T12:00:00Z, later than was asked for, 2026-03-01T11:00:00Z.") {
			t.Errorf("of two hours: %v", s.Rows)
		}
	}
	for i := range 2 {
		m.Add(&auditv1.StoredRecord{ServerId: ledger, Event: &auditv1.StoredRecord_Gap{Gap: &auditv1.Gap{
			LostCount: 3, StartTime: timestamppb.New(noon.Add(time.Duration(i) * time.Minute)), EndTime: timestamppb.New(noon.Add(time.Duration(i+1) * time.Minute)),
		}}})
	}
	m.version = "0123456789abcdef"
	m.seen(1, "/payments", post, "", "")
	want := []string{
		"spiffe://bank.test/ledger lost 6 decisions between 2026-03-01T12:00:00Z and 2026-03-01T12:02:00Z: nobody knows them.",
		"1 decisions were made by other versions of the policy. They were matched with the rules of this one by peer and method; where conditions decide, all that may have.",
	}
	if diff := cmp.Diff(want, m.section(t, title)); diff != "" {
		t.Errorf("want (-) and got (+):\n%s", diff)
	}
}

// Whoever is denied can name as many methods as it likes, and who has many identities call by each.
func TestMemoryIsBounded(t *testing.T) {
	t.Parallel()
	m := newMesh(t, text)
	for i := range 20_000 {
		m.seen(1, "/x", fmt.Sprintf("/no.such.Service/M%d", i), "", "no such method")
	}
	if rows := m.section(t, "Denials that recur"); len(rows) != 1 || !strings.Contains(rows[0], "| 20000 |") {
		t.Errorf("%d rows, the first %.300q", len(rows), rows)
	}
	for i := range 10_001 {
		m.seen(2, fmt.Sprintf("/x%d", i), post, "", "no rule")
	}
	if rows := m.section(t, "Denials that recur"); len(rows) != 10_000 {
		t.Errorf("%d rows", len(rows))
	}
	if rows := strings.Join(m.section(t, "Why a rule"), "\n"); !strings.Contains(rows, "4 decisions are of more different callers and methods than 10000") {
		t.Errorf("it does not say what was not told apart:\n%s", rows)
	}
}
