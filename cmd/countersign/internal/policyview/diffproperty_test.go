package policyview

import (
	"fmt"
	"slices"
	"strings"
	"testing"

	"github.com/spiffe/go-spiffe/v2/spiffeid"
	"google.golang.org/protobuf/proto"
	"pgregory.net/rapid"

	"github.com/countersign-mesh/countersign/pkg/identity"
	"github.com/countersign-mesh/countersign/pkg/policy"
	ledgerv1 "github.com/countersign-mesh/countersign/proto/gen/bank/ledger/v1"
)

// What the generated policies are about: few names, so that rules meet.
var (
	methods  = []string{"GetBalance", "ListEntries"}
	peers    = []string{"/a", "/b", "/a/x", "/a/y", "/a/x/deep", "/ab", "spiffe://p.test/a", "spiffe://p.test/a/x"}
	patterns = []string{"/**", "/a/**", "/a/x/**", "spiffe://p.test/**"}
	whens    = []string{`request.account_id == "1"`, `request.account_id != "1"`, `peer.path == "/a"`, `request.account_id == "1" || 1 / 0 > 0`}
)

// serial is of an SVID that policies may revoke.
const serial = "4f"

// somePolicy draws a policy, with conditions or without.
func somePolicy(t *rapid.T, label string, conditions bool) *policy.Policy {
	var b strings.Builder
	b.WriteString("trust_domain: bank.test\n")
	if revoked := rapid.SliceOfNDistinct(rapid.SampledFrom(append([]string{serial}, peers...)), 0, 1, rapid.ID).Draw(t, label+" revoked"); len(revoked) > 0 {
		kind := map[bool]string{true: "serial", false: "id"}[revoked[0] == serial]
		fmt.Fprintf(&b, "revoked: [{%s: '%s'}]\n", kind, revoked[0])
	}
	fmt.Fprintf(&b, "services:\n  %s:\n    methods:\n      CheckTrialBalance: {}\n", ledger)
	for _, method := range rapid.SliceOfDistinct(rapid.SampledFrom(methods), rapid.ID).Draw(t, label+" methods") {
		fmt.Fprintf(&b, "      %s: {", method)
		for i, effect := range []string{"allow", "deny"} {
			rules := rapid.SliceOfNDistinct(someRule(conditions), 0, 4-i, rapid.ID).Draw(t, label+" "+method+" "+effect)
			fmt.Fprintf(&b, "%s: [%s], ", effect, strings.Join(rules, ", "))
		}
		b.WriteString("}\n")
	}
	parsed, err := policy.Parse("p.yaml", []byte(b.String()))
	if err != nil {
		t.Fatalf("%v\n%s", err, &b)
	}
	t.Log(b.String())
	return parsed
}

// someRule draws a rule in YAML's flow style.
func someRule(conditions bool) *rapid.Generator[string] {
	return rapid.Custom(func(t *rapid.T) string {
		rule := "peer: '" + rapid.SampledFrom(append(slices.Clone(peers), patterns...)).Draw(t, "peer") + "'"
		if conditions && rapid.Bool().Draw(t, "conditional") {
			rule += ", when: '" + rapid.SampledFrom(whens).Draw(t, "when") + "'"
		}
		if rapid.IntRange(0, 3).Draw(t, "shadow") == 0 {
			rule += ", shadow: true"
		}
		return "{" + rule + "}"
	})
}

// outcome is what a policy says of a call, but for whose rule it is.
type outcome struct{ allowed, undecided, planned bool }

func outcomeOf(p *policy.Policy, call policy.Call) outcome {
	v := p.Decide(call)
	o := outcome{allowed: v.Allowed, undecided: v.Undecided}
	if call.Request != nil { // else what is in shadow may depend on it
		o.planned = v.Allowed
		if v.Shadow.Rule != nil {
			o.planned = v.Shadow.Allowed
		}
	}
	return o
}

// about reports whether a change is about a peer and a method.
func (c Change) about(peer *identity.Peer, method string) bool {
	if c.Kind == PeerRevoked || c.Kind == PeerRestored {
		return c.Peer.Matches(peer.ID) || c.Serial != "" && c.Serial == peer.Serial
	}
	return c.Before != nil && c.Method == method && c.Peer.Matches(peer.ID) &&
		!slices.ContainsFunc(c.Except, func(p policy.Pattern) bool { return p.Matches(peer.ID) })
}

// Whatever a change of policy does to any call of anybody, the difference tells.
func TestWhatIsDecidedOtherwiseIsInTheDiff(t *testing.T) {
	t.Parallel()
	rapid.Check(t, func(t *rapid.T) {
		old, current := somePolicy(t, "old", true), somePolicy(t, "current", true)
		changes := Diff(old, current)
		for _, name := range append(slices.Clone(peers), "/new", "/a/new", "/a/x/new", "spiffe://p.test/new", "spiffe://else.test/a") {
			pattern, err := policy.ParsePattern(old.TrustDomain(), name)
			if err != nil {
				t.Fatal(err)
			}
			id, _ := pattern.ID()
			for _, peer := range []*identity.Peer{{ID: id}, {ID: id, Serial: serial}} {
				for _, method := range methods {
					requireTold(t, old, current, changes, peer, ledger+"/"+method)
				}
			}
		}
		if len(changes) == 0 != (len(Diff(current, old)) == 0) {
			t.Errorf("one way there are these changes, and the other way round it is not so: %v", changes)
		}
	})
}

func requireTold(t *rapid.T, old, current *policy.Policy, changes []Change, peer *identity.Peer, method string) {
	requests := []proto.Message{nil, &ledgerv1.GetBalanceRequest{AccountId: "1"}, &ledgerv1.GetBalanceRequest{AccountId: "2"}}
	if strings.HasSuffix(method, "ListEntries") {
		requests = []proto.Message{nil, &ledgerv1.ListEntriesRequest{AccountId: "1"}, &ledgerv1.ListEntriesRequest{AccountId: "2"}}
	}
	for _, request := range requests {
		call := policy.Call{Method: "/" + method, Peer: peer, Request: request}
		before, after := outcomeOf(old, call), outcomeOf(current, call)
		if before == after {
			continue
		}
		if !slices.ContainsFunc(changes, func(c Change) bool { return c.about(peer, method) }) {
			t.Errorf("%s of %s (%s) with %v was %+v and is %+v; the changes are %v", method, peer.ID, peer.Serial, request, before, after, changes)
		}
	}
}

// Whoever is said to gain or lose does: there is a workload whose calls were denied and are allowed, or the other way round.
func TestAGainOrALossHasAWitness(t *testing.T) {
	t.Parallel()
	seen := 0
	rapid.Check(t, func(t *rapid.T) {
		old, current := somePolicy(t, "old", false), somePolicy(t, "current", false)
		everybody := slices.Concat(named(old), named(current))
		for _, p := range []*policy.Policy{old, current} {
			for id := range revoked(p) {
				everybody = append(everybody, id)
			}
		}
		for _, c := range Diff(old, current) {
			if c.Kind != Gains && c.Kind != Loses {
				continue
			}
			seen++
			witnesses := []spiffeid.ID{somebody(c.Peer, everybody)}
			for _, p := range c.Among {
				if id, one := p.ID(); one {
					witnesses = append(witnesses, id)
				}
			}
			for _, id := range witnesses {
				call := policy.Call{Method: "/" + c.Method, Peer: &identity.Peer{ID: id}}
				before, after := old.Decide(call).Allowed, current.Decide(call).Allowed
				if before == after || after != (c.Kind == Gains) {
					t.Errorf("%s: of %s it was %t and is %t", c, id, before, after)
				}
			}
		}
	})
	if seen == 0 {
		t.Error("nobody gained or lost anything in any of the pairs")
	}
}
