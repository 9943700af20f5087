package policy_test

import (
	"slices"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"

	"github.com/countersign-mesh/countersign/pkg/identity"
	"github.com/countersign-mesh/countersign/pkg/policy"
	"github.com/countersign-mesh/countersign/pkg/yamlfile"
)

const browsedText = `trust_domain: bank.test
services:
  c.v1.C:
    methods:
      Get:
        allow:
          - peer: /x
  a.v1.A:
    served_by: [/a, "spiffe://partner.test/a/**"]
    methods:
      Put:
        allow:
          - peer: /writer
            why: writes
          - peer: /tester
            shadow: true
        deny:
          - peer: /late
            when: peer.path == "/late"
          - peer: /tester
      Get:
        allow:
          - peer: /reader
          - peer: spiffe://bank.test/team/**
      Gets:
        allow: []
`

func TestServicesShowsEverythingInOrder(t *testing.T) {
	t.Parallel()
	parsed := mustParse(t, browsedText)
	var got []string
	for service := range parsed.Services() {
		line := service.Name + " " + service.Position.String()
		for _, pattern := range service.ServedBy {
			line += " by " + pattern.Short(parsed.TrustDomain())
		}
		got = append(got, line)
		for _, m := range service.Methods {
			got = append(got, m.Full+" "+m.Name+" "+m.Position.String())
			for _, r := range m.Rules {
				line := r.Effect.String() + " " + r.Peer.String() + " as " + r.Written + " at " + r.Position.String() + " " + r.Place()
				if r.When != "" {
					line += " when " + r.When
				}
				if r.Why != "" {
					line += " why " + r.Why
				}
				if r.Shadow {
					line += " in shadow"
				}
				got = append(got, line)
			}
		}
	}
	want := []string{
		"a.v1.A p.yaml:8:3 by /a by spiffe://partner.test/a/**",
		"/a.v1.A/Get Get p.yaml:21:7",
		"allow spiffe://bank.test/reader as /reader at p.yaml:23:13 p.yaml:23",
		"allow spiffe://bank.test/team/** as spiffe://bank.test/team/** at p.yaml:24:13 p.yaml:24",
		"/a.v1.A/Gets Gets p.yaml:25:7",
		"/a.v1.A/Put Put p.yaml:11:7",
		`deny spiffe://bank.test/late as /late at p.yaml:18:13 p.yaml:18 when peer.path == "/late"`,
		"deny spiffe://bank.test/tester as /tester at p.yaml:20:13 p.yaml:20",
		"allow spiffe://bank.test/writer as /writer at p.yaml:13:13 p.yaml:13 why writes",
		"allow spiffe://bank.test/tester as /tester at p.yaml:15:13 p.yaml:15 in shadow",
		"c.v1.C p.yaml:3:3",
		"/c.v1.C/Get Get p.yaml:5:7",
		"allow spiffe://bank.test/x as /x at p.yaml:7:13 p.yaml:7",
	}
	if diff := cmp.Diff(want, got); diff != "" {
		t.Errorf("the policy shows (-want +got)\n%s", diff)
	}
}

func TestAllowsYieldsWhomRulesLetIn(t *testing.T) {
	t.Parallel()
	parsed := mustParse(t, browsedText)
	var got []string
	for method, peer := range parsed.Allows() {
		got = append(got, method+" "+peer.String())
	}
	want := []string{"/a.v1.A/Get spiffe://bank.test/reader", "/a.v1.A/Get spiffe://bank.test/team/**", "/a.v1.A/Put spiffe://bank.test/writer", "/c.v1.C/Get spiffe://bank.test/x"}
	if diff := cmp.Diff(want, got); diff != "" {
		t.Errorf("Allows yields (-want +got)\n%s", diff)
	}
}

// Whoever stops in the middle is not called again.
func TestWhoeverHasSeenEnoughStops(t *testing.T) {
	t.Parallel()
	parsed := mustParse(t, browsedText)
	for stop := 1; stop <= 3; stop++ {
		seen := 0
		for range parsed.Allows() {
			if seen++; seen == stop {
				break
			}
		}
		if seen != stop {
			t.Errorf("Allows yielded %d, want %d", seen, stop)
		}
	}
	for service := range parsed.Services() {
		if service.Name != "a.v1.A" {
			t.Errorf("the first service is %s", service.Name)
		}
		break
	}
}

func TestMethodIsFoundByItsName(t *testing.T) {
	t.Parallel()
	parsed := mustParse(t, browsedText)
	services := slices.Collect(parsed.Services())
	for name, full := range map[string]string{
		"Get": "/a.v1.A/Get", "Gets": "/a.v1.A/Gets", "Put": "/a.v1.A/Put",
		"": "", "A": "", "Ge": "", "Getr": "", "Getz": "", "Puts": "", "get": "", "/a.v1.A/Get": "",
	} {
		m, ok := services[0].Method(name)
		if ok != (full != "") || ok && m.Full != full || !ok && m != nil {
			t.Errorf("the service has for %q %v, %v, want %q", name, m, ok, full)
		}
		again, ok := parsed.Method("/a.v1.A/" + name)
		if ok != (full != "") || again != m {
			t.Errorf("the policy has for %q %v, %v, want %q", name, again, ok, full)
		}
	}
}

func TestRevocationsAreThoseOfTheFile(t *testing.T) {
	t.Parallel()
	parsed := mustParse(t, "revoked:\n  - id: spiffe://partner.test/x\n  - serial: 0a:0b\n  - authority: C0:FF:EE\n"+browsedText)
	for _, peer := range []*identity.Peer{{ID: workload(t, "spiffe://partner.test/x")}, {ID: workload(t, "/x"), Serial: "a0b"}} {
		if parsed.Revocations().Check(peer) == nil {
			t.Errorf("%v is not revoked", peer)
		}
	}
	if err := parsed.Revocations().Check(&identity.Peer{ID: workload(t, "/x"), Serial: "c0ffee"}); err != nil {
		t.Errorf("an authority was taken for a serial number: %v", err)
	}
}

func TestRevocationsThatNameNobodyAreRefused(t *testing.T) {
	t.Parallel()
	for name, test := range map[string]struct{ entry, want string }{
		"an ID that is none":           {"id: /a/../b", "p.yaml:2:5: id: no SPIFFE ID: path cannot contain dot segments"},
		"a trust domain":               {"id: spiffe://partner.test", "names a trust domain and no workload"},
		"a subtree":                    {"id: /a/**", "p.yaml:2:5: id: it means many workloads; a revocation names one"},
		"a whole domain":               {"id: /**", "p.yaml:2:5: id: it means many workloads; a revocation names one"},
		"a serial number of nothing":   {`serial: ":"`, "p.yaml:2:5: serial: "},
		"an authority of nothing":      {`authority: "::"`, "p.yaml:2:5: authority: "},
		"two, of which it reports all": {"id: /a/**\n  - serial: ':'", "p.yaml:3:5: serial: "},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			_, err := policy.Parse("p.yaml", []byte("revoked:\n  - "+test.entry+"\n"+policyText))
			if err == nil {
				t.Fatal("it was accepted")
			}
			if !strings.Contains(err.Error(), test.want) {
				t.Errorf("the error is %q, want %q", err, test.want)
			}
		})
	}
}

// A rule is told from another of its method by all that it says but why.
func TestARuleStandsOnce(t *testing.T) {
	t.Parallel()
	for name, test := range map[string]struct {
		deny, allow []string
		want        string // empty when they are different rules
	}{
		"twice":                        {nil, []string{"peer: /a", "peer: /a"}, `p.yaml:8:14: peer "/a" stands already under allow at p.yaml:7`},
		"twice under deny":             {[]string{"peer: /a", "peer: /a"}, nil, `p.yaml:8:14: peer "/a" stands already under deny at p.yaml:7`},
		"twice, each with its own why": {nil, []string{"peer: /a, why: x", "peer: /a, why: y"}, `p.yaml:8:14: peer "/a" stands already`},
		"twice, short and whole":       {nil, []string{"peer: /a", `peer: "spiffe://bank.test/a"`}, `p.yaml:8:14: peer "spiffe://bank.test/a" stands already under allow at p.yaml:7`},
		"twice, with others between":   {nil, []string{"peer: /a", "peer: /b", "peer: /a"}, `p.yaml:9:14: peer "/a" stands already under allow at p.yaml:7`},
		"twice, and another one too":   {nil, []string{"peer: /a", "peer: /a", "peer: /b", "peer: /b"}, `p.yaml:10:14: peer "/b" stands already under allow at p.yaml:9`},
		"twice with one condition":     {nil, []string{"peer: /a, " + ifX, "peer: /a, " + ifX}, `p.yaml:8:14: peer "/a" stands already`},
		"under allow and under deny":   {[]string{"peer: /a"}, []string{"peer: /a"}, ""},
		"with two conditions":          {nil, []string{"peer: /a, " + ifX, "peer: /a, " + ifY}, ""},
		"with a condition and without": {nil, []string{"peer: /a, " + ifX, "peer: /a"}, ""},
		"enforced and in shadow":       {nil, []string{"peer: /a", "peer: /a, shadow: true"}, ""},
		"the subtree and its root":     {nil, []string{"peer: /a", "peer: /a/**"}, ""},
		"in two domains":               {nil, []string{"peer: /a", `peer: "spiffe://partner.test/a"`}, ""},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			_, err := policy.Parse("p.yaml", []byte(methodText(test.deny, test.allow)))
			if (err == nil) != (test.want == "") || err != nil && !strings.Contains(err.Error(), test.want) {
				t.Errorf("Parse = %v, want %q", err, test.want)
			}
		})
	}
}

func TestServedByIsRead(t *testing.T) {
	t.Parallel()
	_, err := policy.Parse("p.yaml", []byte(strings.Replace(browsedText, `[/a, "spiffe`, `[/a, /a/../b, /c/, "spiffe`, 1)))
	for _, want := range []string{
		`p.yaml:9:21: served_by "/a/../b": no SPIFFE ID: path cannot contain dot segments`,
		`p.yaml:9:30: served_by "/c/": no SPIFFE ID: path cannot have a trailing slash`,
	} {
		if err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("the error is %v, want %q", err, want)
		}
	}
}

func TestAPositionIsThatOfTheMainFileByItsLastName(t *testing.T) {
	t.Parallel()
	parsed, err := policy.Parse("/etc/mesh/bank.yaml", []byte(policyText))
	if err != nil {
		t.Fatal(err)
	}
	m, ok := parsed.Method("/bank.ledger.v1.LedgerService/PostTransfer")
	if !ok {
		t.Fatal("there is no such method")
	}
	if got, want := m.Rules[0].Position, (yamlfile.Position{File: "/etc/mesh/bank.yaml", Line: 7, Column: 13}); got != want {
		t.Errorf("Position = %v, want %v", got, want)
	}
	if got := m.Rules[0].Place(); got != "bank.yaml:7" {
		t.Errorf("Place = %s", got)
	}
	if got := parsed.Name(); got != "/etc/mesh/bank.yaml" {
		t.Errorf("Name = %s", got)
	}
	const want = `bank.yaml has no rules for "/x"`
	if got := parsed.Decide(callOf("/x", workload(t, "/a"))).Reason; got != want {
		t.Errorf("the reason is %q, want %q", got, want)
	}
}
