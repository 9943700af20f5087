package policyview

import (
	"bytes"
	"maps"
	"os"
	"slices"
	"strings"
	"testing"
	"unicode/utf8"

	"github.com/google/go-cmp/cmp"
	"google.golang.org/protobuf/proto"
	"pgregory.net/rapid"

	"github.com/countersign-mesh/countersign/cmd/countersign/internal/console"
	"github.com/countersign-mesh/countersign/pkg/identity"
	"github.com/countersign-mesh/countersign/pkg/policy"
	ledgerv1 "github.com/countersign-mesh/countersign/proto/gen/bank/ledger/v1"
)

// everyMark is a policy with each kind of cell.
const everyMark = `trust_domain: bank.test
revoked: [{id: /risk}]
services:
  bank.ledger.v1.LedgerService:
    served_by: [/ledger]
    methods:
      PostTransfer:
        allow:
          - {peer: /pay, why: moves money, when: 'request.transfer_id < "<b>|"'}
          - {peer: /risk}
        deny: [{peer: /t/x}]
      GetBalance:
        allow: [{peer: /t/**, when: 'peer.path != "/t/q"'}, {peer: spiffe://p.test/a}, {peer: /**, shadow: true}]
        deny: [{peer: /t/x, when: 'request.account_id == "1"'}]
      ListEntries:
        allow: [{peer: /t/**}, {peer: spiffe://p.test/**}]
        deny: [{peer: /t/x, shadow: true}, {peer: /t/**, shadow: true, when: 'request.account_id == "1"'}]
      CheckTrialBalance: {}
`

func text(m *Matrix) string {
	var out bytes.Buffer
	m.WriteText(console.New(&out, nil))
	return out.String()
}

func TestMatrixInText(t *testing.T) {
	t.Parallel()
	p := mustParse(t, everyMark)
	want := `Who may call what: p.yaml, version ` + p.Version() + `

bank.ledger.v1.LedgerService, served by /ledger
                              /pay   /risk  /t/x          spiffe://p.test/a  /**   /t/**     spiffe://p.test/**
  CheckTrialBalance (nobody)  ·      ⊘      ·             ·                  ·     ·         ·
  GetBalance                  · ~✓   ⊘      ✓ [1] ~✓ [2]  ✓                  · ~✓  ✓ [3] ~✓  ·
  ListEntries                 ·      ⊘      (✓) ~✗        (✓)                ·     ✓ ~✓ [2]  ✓
  PostTransfer                ✓ [4]  ⊘      ✗             ·                  ·     ·         ·

  [1] allowed when peer.path != "/t/q", but denied when request.account_id == "1"
  [2] allowed, but denied when request.account_id == "1"
  [3] allowed when peer.path != "/t/q"
  [4] allowed when request.transfer_id < "<b>|"

  ✓      allowed
  ✓ [1]  allowed under a condition, which the note has
  ✗      denied by a rule, whatever allows it
  ⊘      the caller is revoked: refused everywhere
  ·      not allowed
  (✓)    by a rule for more than this caller
  ~✓     what would be if the rules in shadow were enforced

Whoever has no column may call nothing.
`
	if diff := cmp.Diff(want, text(NewMatrix(p))); diff != "" {
		t.Errorf("the matrix differs (-want +got):\n%s", diff)
	}
}

// A condition over the peer alone is decided for a workload, and open for a pattern.
func TestMatrixOfConditionsOverThePeer(t *testing.T) {
	t.Parallel()
	for name, test := range map[string]struct {
		rules string
		want  []string // the cells of /t/q, /t/x and /t/**
	}{
		"a pattern is allowed where it holds": {
			"{allow: [{peer: /t/**, when: 'peer.path == \"/t/q\"'}], deny: [{peer: /t/q, when: 1 > 2}, {peer: /t/x, when: 1 > 2}]}", []string{"(✓)", "·", "✓ [1]"},
		},
		"a pattern is denied where it holds": {
			"{deny: [{peer: /t/**, when: 'peer.path == \"/t/q\"'}], allow: [{peer: /t/q}, {peer: /t/x}, {peer: /t/**}]}", []string{"(✗)", "✓", "✓ [1]"},
		},
		"a pattern would be denied where it holds": {
			"{deny: [{peer: /t/**, when: 'peer.path == \"/t/q\"', shadow: true}], allow: [{peer: /t/q}, {peer: /t/x}, {peer: /t/**}]}",
			[]string{"✓ ~✗", "✓", "✓ ~✓ [1]"},
		},
		"a pattern would be allowed where it holds": {
			"{allow: [{peer: /t/**, when: 'peer.path == \"/t/q\"', shadow: true}], deny: [{peer: /t/q, when: 1 > 2}, {peer: /t/x, when: 1 > 2}]}",
			[]string{"· ~✓", "·", "· ~✓ [1]"},
		},
	} {
		m := NewMatrix(ledgerPolicy(t, "GetBalance: "+test.rules))
		var got []string
		for _, c := range m.sections[0].rows[0].cells {
			got = append(got, c.String())
		}
		if diff := cmp.Diff([]string{"/t/q", "/t/x", "/t/**"}, m.callers); diff != "" {
			t.Errorf("%s: the callers differ:\n%s", name, diff)
		}
		if diff := cmp.Diff(test.want, got); diff != "" {
			t.Errorf("%s: the cells differ (-want +got):\n%s", name, diff)
		}
	}
}

// A condition over messages that nobody knows here is a condition, and no denial.
func TestMatrixOfAServiceWhoseContractIsNotKnown(t *testing.T) {
	t.Parallel()
	m := NewMatrix(mustParse(t, "trust_domain: bank.test\nservices: {a.v1.Unknown: {methods: {Do: {allow: [{peer: /a, when: request.x == 1}]}}}}\n"))
	if got := text(m); !strings.Contains(got, "\n  Do  ✓ [1]\n\n  [1] allowed when request.x == 1\n") {
		t.Errorf("the matrix is\n%s", got)
	}
}

// The workload that stands for a pattern is none that a rule names, nor one that is revoked.
func TestMatrixOfAPatternAsksForSomebodyElse(t *testing.T) {
	t.Parallel()
	m := NewMatrix(mustParse(t, ledgerText("GetBalance: {allow: [{peer: /t/**}, {peer: /**}], deny: [{peer: /t/somebody-0}]}")+"revoked: [{id: /t/somebody-1}]\n"))
	var got []string
	for i, c := range m.sections[0].rows[0].cells {
		got = append(got, m.callers[i]+" "+c.String())
	}
	if diff := cmp.Diff([]string{"/t/somebody-0 ✗", "/** ✓", "/t/** ✓"}, got); diff != "" {
		t.Errorf("the cells differ (-want +got):\n%s", diff)
	}
}

// Where the callers do not fit on a line, numbers stand for them, and where those do not either, there are several tables.
func TestMatrixInTextIsNarrowEnough(t *testing.T) {
	t.Parallel()
	bank, err := policy.Load("../../../../deploy/policy/bank.yaml")
	if err != nil {
		t.Fatal(err)
	}
	many := func(n int) *policy.Policy {
		var rules []string
		for i := range n {
			rules = append(rules, "{peer: /a/workload/with/a/long/name/"+strings.Repeat("x", i+1)+"}")
		}
		return ledgerPolicy(t, "GetBalance: {allow: ["+strings.Join(rules, ", ")+"]}", "ListEntries: {}")
	}
	for name, test := range map[string]struct {
		policy *policy.Policy
		want   []string
	}{
		"the bank's":         {bank, []string{" /accounts  /gateway  /ledger  /login  /operator  /payments  /risk\n"}},
		"long names":         {many(12), []string{"\n  1   /a/workload/with/a/long/name/x\n", " 1  2  3  4  5 "}},
		"many callers":       {many(60), []string{" 1  2  3  4  5 ", " 59  60\n"}},
		"no callers, even":   {ledgerPolicy(t, "GetBalance: {}"), []string{"\n  GetBalance (nobody)\n"}},
		"names that just do": {many(2), []string{" /a/workload/with/a/long/name/x "}},
	} {
		got := text(NewMatrix(test.policy))
		for _, want := range test.want {
			if !strings.Contains(got, want) {
				t.Errorf("%s: the matrix has not %q in it:\n%s", name, want, got)
			}
		}
		for line := range strings.Lines(got) {
			if utf8.RuneCountInString(line) > maxWidth+1 && !strings.HasPrefix(line, "  [") {
				t.Errorf("%s: a line is too wide: %s", name, line)
			}
		}
	}
}

func TestMatrixInMarkdown(t *testing.T) {
	t.Parallel()
	got := NewMatrix(mustParse(t, everyMark)).Markdown()
	for _, want := range []string{
		"# Who may call what: p.yaml\n\nMade by `countersign policy matrix --policy p.yaml --format markdown`",
		"## bank.ledger.v1.LedgerService\n\nServed by `/ledger`.\n\n| method | `/pay` | `/risk` | `/t/x` |",
		"| CheckTrialBalance (nobody) | · | ⊘ | · | · | · | · | · |\n",
		"| PostTransfer | ✓ [4] | ⊘ | ✗ | · | · | · | · |\n",
		"4. allowed when `request.transfer_id < \"<b>|\"`\n",
	} {
		if !strings.Contains(got, want) {
			t.Errorf("the Markdown has not %q in it:\n%s", want, got)
		}
	}
}

// What a policy says is text on the page and nothing else.
func TestMatrixInHTML(t *testing.T) {
	t.Parallel()
	var out bytes.Buffer
	if err := NewMatrix(mustParse(t, strings.Replace(everyMark, "moves money", "'<img src=x onerror=alert(1)> \"'", 1))).WriteHTML(&out); err != nil {
		t.Fatal(err)
	}
	got := out.String()
	for _, want := range []string{
		`content="default-src 'none'; style-src 'unsafe-inline'"`,
		`<th scope="col" title="spiffe://bank.test/pay"><span>/pay</span></th>`,
		`<td class="denied" title="/t/x, PostTransfer: denied (p.yaml:`,
		`<td class="allowed" title="/t/x, ListEntries: allowed (p.yaml:`, `(✓) <span class="shadow">~✗</span></td>`,
		`<li>allowed when request.transfer_id &lt; &#34;&lt;b&gt;|&#34;</li>`,
	} {
		if !strings.Contains(got, want) {
			t.Errorf("the page has not %q in it:\n%s", want, got)
		}
	}
	for _, not := range []string{"<script", "<b>", "<img", "http://", "https://", "<link"} {
		if strings.Contains(got, not) {
			t.Errorf("the page has %q in it:\n%s", not, got)
		}
	}
}

// A cell promises the same for everybody whom its column means and no other column means more closely, whatever they ask for.
func TestTheMatrixPromisesNothingThatIsNotDecided(t *testing.T) {
	t.Parallel()
	rapid.Check(t, func(t *rapid.T) {
		p := somePolicy(t, "policy", true)
		all := inOrder(p.TrustDomain(), named(p))
		everybody := slices.Concat(all, slices.Collect(maps.Keys(revoked(p))))
		for _, s := range NewMatrix(p).sections {
			for _, r := range s.rows {
				for i, c := range r.cells {
					peer := &identity.Peer{ID: somebody(all[i], everybody)}
					requirePromise(t, p, policy.Call{Method: "/" + s.service + "/" + r.method, Peer: peer}, c)
				}
			}
		}
	})
}

func requirePromise(t *rapid.T, p *policy.Policy, call policy.Call, c cell) {
	planned := c.planned
	if planned == "" {
		planned = c.state
	}
	for _, account := range []string{"1", "2"} {
		for _, request := range []proto.Message{&ledgerv1.GetBalanceRequest{AccountId: account}, &ledgerv1.ListEntriesRequest{AccountId: account}} {
			if !strings.HasPrefix(string(request.ProtoReflect().Descriptor().Name()), call.Method[strings.LastIndexByte(call.Method, '/')+1:]) {
				continue
			}
			call.Request = request
			got := outcomeOf(p, call)
			if c.state != Conditional && got.allowed != (c.state == Allowed) || planned != Conditional && got.planned != (planned == Allowed) {
				t.Errorf("%s of %s with %v is %+v; the matrix says %s, and %s", call.Method, call.Peer.ID, request, got, c.state, planned)
			}
		}
	}
}

// docs/policy-matrix.md shows the bank's policy as it is.
func TestTheMatrixInTheDocsIsOfTheBanksPolicy(t *testing.T) {
	t.Chdir("../../../..")
	bank, err := policy.Load("deploy/policy/bank.yaml")
	if err != nil {
		t.Fatal(err)
	}
	committed, err := os.ReadFile("docs/policy-matrix.md")
	if err != nil {
		t.Fatal(err)
	}
	if diff := cmp.Diff(string(committed), NewMatrix(bank).Markdown()); diff != "" {
		t.Errorf("docs/policy-matrix.md is not what the policy says; make policy-matrix writes it anew (-committed +policy):\n%s", diff)
	}
}
