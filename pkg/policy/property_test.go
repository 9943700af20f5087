package policy_test

import (
	"fmt"
	"slices"
	"strings"
	"testing"

	"buf.build/go/protoyaml"
	"github.com/spiffe/go-spiffe/v2/spiffeid"
	"google.golang.org/protobuf/proto"
	"pgregory.net/rapid"

	"github.com/countersign-mesh/countersign/pkg/identity"
	"github.com/countersign-mesh/countersign/pkg/policy"
	ledgerv1 "github.com/countersign-mesh/countersign/proto/gen/bank/ledger/v1"
	moneyv1 "github.com/countersign-mesh/countersign/proto/gen/bank/money/v1"
	policyv1 "github.com/countersign-mesh/countersign/proto/gen/mesh/policy/v1"
)

const (
	drawnService = "bank.ledger.v1.LedgerService"
	drawnMethod  = "PostTransfer"
)

// Few segments and few domains, so that much overlaps and much looks alike.
func drawSegments(t *rapid.T, least int) []string {
	return rapid.SliceOfN(rapid.SampledFrom([]string{"a", "b", "ab"}), least, 3).Draw(t, "segments")
}

func drawDomain(t *rapid.T) string {
	return rapid.SampledFrom([]string{"bank.test", "bank.test", "bank.test", "partner.test", "bank.test.evil"}).Draw(t, "domain")
}

// drawPattern draws the peer of a rule, short or whole.
func drawPattern(t *rapid.T) string {
	domain := drawDomain(t)
	tree := rapid.Bool().Draw(t, "subtree")
	least := 1
	if tree {
		least = 0
	}
	var text string
	for _, segment := range drawSegments(t, least) {
		text += "/" + segment
	}
	if tree {
		text += "/**"
	}
	if domain == "bank.test" && rapid.Bool().Draw(t, "short") {
		return text
	}
	return "spiffe://" + domain + text
}

// drawPolicy draws a policy. It has a rule once, and each rule its own why.
func drawPolicy(t *rapid.T) *policyv1.Policy {
	p := &policyv1.Policy{TrustDomain: "bank.test", Shadow: rapid.IntRange(0, 9).Draw(t, "file in shadow") == 0}
	seen := make(map[string]bool)
	list := func(name string, most int) []*policyv1.Rule {
		var rules []*policyv1.Rule
		for range rapid.IntRange(0, most).Draw(t, name) {
			r := &policyv1.Rule{Peer: drawPattern(t), Shadow: rapid.IntRange(0, 3).Draw(t, "shadow") == 0}
			if rapid.Bool().Draw(t, "conditional") {
				r.When = rapid.SampledFrom(modelConditions).Draw(t, "when").text
			}
			if rapid.IntRange(0, 2).Draw(t, "with user") == 0 {
				r.User = rapid.SampledFrom([]string{"transfer", "accounts.read"}).Draw(t, "scope")
				if rapid.Bool().Draw(t, "conditional on the user") {
					r.When = rapid.SampledFrom(modelUserConditions).Draw(t, "when").text
				}
			}
			key := fmt.Sprint(name, wholeOf("bank.test", r.GetPeer()), r.GetUser(), r.GetWhen(), r.GetShadow() || p.GetShadow())
			if seen[key] {
				continue
			}
			seen[key] = true
			r.Why = fmt.Sprintf("%s %d", name, len(seen))
			rules = append(rules, r)
		}
		return rules
	}
	p.Services = map[string]*policyv1.Service{drawnService: {Methods: map[string]*policyv1.Method{
		drawnMethod:  {Deny: list("deny", 3), Allow: list("allow", 6)},
		"GetBalance": {Allow: []*policyv1.Rule{{Peer: "/**", Why: "balance"}}},
	}}}
	for range rapid.IntRange(0, 1).Draw(t, "revoked") {
		r := &policyv1.Revocation{Subject: &policyv1.Revocation_Id{Id: "/" + strings.Join(drawSegments(t, 1), "/")}}
		if rapid.Bool().Draw(t, "serial") {
			r.Subject = &policyv1.Revocation_Serial{Serial: "c0ffee"}
		}
		p.Revoked = append(p.Revoked, r)
	}
	return p
}

// drawCaller draws an ID: one that a rule names, one near to that, or any.
func drawCaller(t *rapid.T, p *policyv1.Policy) string {
	id := "spiffe://" + drawDomain(t) + "/" + strings.Join(drawSegments(t, 1), "/")
	rules := p.GetServices()[drawnService].GetMethods()[drawnMethod]
	if all := slices.Concat(rules.GetDeny(), rules.GetAllow()); len(all) > 0 && rapid.IntRange(0, 2).Draw(t, "near a rule") > 0 {
		id = strings.TrimSuffix(wholeOf("bank.test", rapid.SampledFrom(all).Draw(t, "rule").GetPeer()), "/**")
		if pathOf(id) == "/" {
			id = strings.TrimSuffix(id, "/") + "/a"
		}
	}
	switch rapid.SampledFrom([]string{"same", "same", "child", "grandchild", "parent", "longer name", "longer domain", "sibling"}).Draw(t, "relation") {
	case "child":
		id += "/b"
	case "grandchild":
		id += "/a/ab"
	case "parent":
		if i := strings.LastIndex(id, "/"); strings.Count(id, "/") > 3 {
			id = id[:i]
		}
	case "longer name":
		id += "b"
	case "longer domain":
		id = strings.Replace(id, ".test", ".test.evil", 1)
	case "sibling":
		id = id[:strings.LastIndex(id, "/")] + "/ab"
	}
	return id
}

func drawCall(t *rapid.T, p *policyv1.Policy) modelCall {
	call := modelCall{service: drawnService, method: drawnMethod, id: drawCaller(t, p)}
	switch rapid.IntRange(0, 19).Draw(t, "oddity") {
	case 0:
		call.id = ""
	case 1:
		call.method = "posttransfer"
	case 2:
		call.service = "bank.ledger.v1.LedgerServices"
	case 3:
		call.method = "GetBalance"
	case 4:
		call.serial = "c0ffee"
	}
	return call
}

func drawRequest(t *rapid.T) *ledgerv1.PostTransferRequest {
	r := &ledgerv1.PostTransferRequest{Description: rapid.SampledFrom([]string{"rent", "", "a", "zzz"}).Draw(t, "description")}
	for range rapid.IntRange(0, 2).Draw(t, "postings") {
		r.Postings = append(r.Postings, &ledgerv1.Posting{Amount: &moneyv1.Money{MinorUnits: rapid.SampledFrom([]int64{-5, 0, 7, 101}).Draw(t, "amount")}})
	}
	return r
}

// drawUser draws what is found out about the user of a call.
func drawUser(t *rapid.T, call *modelCall) {
	call.looked = true
	if rapid.IntRange(0, 3).Draw(t, "no user") == 0 {
		return
	}
	call.user = &policyv1.User{
		Subject:    rapid.SampledFrom([]string{"alice", "bob"}).Draw(t, "subject"),
		Scope:      rapid.SampledFrom([]string{"transfer", "accounts.read", "accounts.read transfer", "transfers", ""}).Draw(t, "token's scope"),
		Requesters: []string{rapid.SampledFrom([]string{"spiffe://bank.test/a", "spiffe://bank.test/a/b"}).Draw(t, "requester")},
	}
	if rapid.Bool().Draw(t, "context") {
		call.user.Context = map[string]string{"description": rapid.SampledFrom([]string{"rent", "a"}).Draw(t, "described")}
	}
}

// compile makes a policy of the message as a file would have it.
func compile(t *rapid.T, p *policyv1.Policy) *policy.Policy {
	text, err := protoyaml.MarshalOptions{UseProtoNames: true, Indent: 2}.Marshal(p)
	if err != nil {
		t.Fatal(err)
	}
	compiled, err := policy.Parse("p.yaml", text)
	if err != nil {
		t.Fatalf("%v\n%s", err, text)
	}
	return compiled
}

// ask puts a call of the model to a policy.
func ask(compiled *policy.Policy, call modelCall) policy.Verdict {
	asked := policy.Call{Method: "/" + call.service + "/" + call.method}
	if call.id != "" {
		asked.Peer = &identity.Peer{ID: spiffeid.RequireFromString(call.id), Serial: call.serial}
	}
	if call.request != nil {
		asked.Request = call.request
	}
	switch {
	case call.user != nil:
		asked.User = policy.UserOf(call.user)
	case call.looked:
		asked.UserErr = policy.ErrNoUser
	}
	return compiled.Decide(asked)
}

// A policy that is compiled says what the same policy says that is read rule by rule. -rapid.checks=N tries N policies instead of 100.
func TestDecideSaysWhatTheFileSays(t *testing.T) {
	t.Parallel()
	rapid.Check(t, func(t *rapid.T) {
		p := drawPolicy(t)
		compiled := compile(t, p)
		for range rapid.IntRange(1, 12).Draw(t, "calls") {
			call := drawCall(t, p)
			if rapid.Bool().Draw(t, "with request") {
				call.request = drawRequest(t)
			}
			if rapid.Bool().Draw(t, "with user") {
				drawUser(t, &call)
			}
			got, want := ask(compiled, call), interpret(p, call)
			if unknown := call.user == nil && !call.looked; got.NeedsUser && (!unknown || !got.Undecided && !got.Shadow.Undecided) {
				t.Fatalf("%+v: it needs the user: %+v", call, got)
			}
			if outcome(got) != want.outcome || !reported(got.Rule, want.rules) {
				t.Fatalf("%+v: %s by %q, want %s by one of %q (%s)", call, outcome(got), why(got.Rule), want.outcome, want.rules, got.Reason)
			}
			if (got.Reason == "") != got.Allowed {
				t.Fatalf("%+v: %s because %q", call, outcome(got), got.Reason)
			}
			if shadowOutcome(got.Shadow) != want.shadow || !reported(got.Shadow.Rule, want.shadowRules) {
				t.Fatalf("%+v: in shadow %s by %q, want %s by one of %q", call, shadowOutcome(got.Shadow), why(got.Shadow.Rule), want.shadow, want.shadowRules)
			}
		}
	})
}

// reported says whether a rule is one of those that may be reported, which is none when there are none.
func reported(r *policy.Rule, whys []string) bool {
	if len(whys) == 0 {
		return r == nil
	}
	return slices.Contains(whys, why(r))
}

// What is decided without the request is decided alike with each, so that a call that was let in, or denied, by its headers stays so.
func TestADecisionWithoutTheRequestStands(t *testing.T) {
	t.Parallel()
	rapid.Check(t, func(t *rapid.T) {
		p := drawPolicy(t)
		compiled := compile(t, p)
		for range 4 {
			call := drawCall(t, p)
			before := ask(compiled, call)
			// In either order, as the headers, the token and the message come to be known.
			if call.request = drawRequest(t); !before.NeedsUser {
				if now := ask(compiled, call); before.Undecided && now.Undecided || now.NeedsUser && !before.Undecided && !before.Shadow.Undecided {
					t.Fatalf("%+v: it needs the user, which it did not without the request: %+v", call, now)
				}
			}
			drawUser(t, &call)
			after := ask(compiled, call)
			if after.Undecided || after.Shadow.Undecided {
				t.Fatalf("%+v: with the request it is undecided: %+v", call, after)
			}
			if !before.Undecided && before.Allowed != after.Allowed {
				t.Fatalf("%+v: %s without the request, %s with it", call, outcome(before), outcome(after))
			}
			// With the request a rule may apply that is more specific than the one that was reported.
			if !before.Undecided && !before.Shadow.Undecided && shadowOutcome(before.Shadow) != shadowOutcome(after.Shadow) {
				t.Fatalf("%+v: without the request Shadow is %+v, with it %+v", call, before.Shadow, after.Shadow)
			}
		}
	})
}

// What is in shadow changes no verdict; and when it is enforced, the verdict is the one that Shadow said.
func TestShadowSaysWhatWouldBe(t *testing.T) {
	t.Parallel()
	rapid.Check(t, func(t *rapid.T) {
		p := drawPolicy(t)
		p.Shadow = false
		rules := p.GetServices()[drawnService].GetMethods()[drawnMethod]
		without, enforced := clonePolicy(t, p), clonePolicy(t, p)
		bare := without.GetServices()[drawnService].GetMethods()[drawnMethod]
		bare.Deny, bare.Allow = notInShadow(rules.GetDeny()), notInShadow(rules.GetAllow())
		all := enforced.GetServices()[drawnService].GetMethods()[drawnMethod]
		all.Deny, all.Allow = enforce(rules.GetDeny()), enforce(rules.GetAllow())
		compiled, compiledWithout, compiledEnforced := compile(t, p), compile(t, without), compile(t, enforced)
		for range 4 {
			call := drawCall(t, p)
			if rapid.Bool().Draw(t, "with request") {
				call.request = drawRequest(t)
			}
			if rapid.Bool().Draw(t, "with user") {
				drawUser(t, &call)
			}
			got, plain, would := ask(compiled, call), ask(compiledWithout, call), ask(compiledEnforced, call)
			// The rule may be another one that allows: of several a policy without rules in shadow may look at one without a condition first.
			if outcome(got) != outcome(plain) {
				t.Fatalf("%+v: %s, without the rules in shadow %s", call, outcome(got), outcome(plain))
			}
			if got.Shadow.Rule != nil && got.Shadow.Allowed != would.Allowed {
				t.Fatalf("%+v: Shadow is %+v, and with its rules enforced the call is %s", call, got.Shadow, outcome(would))
			}
			if got.Shadow == (policy.Shadow{}) && !got.Undecided && outcome(got) != outcome(would) {
				t.Fatalf("%+v: Shadow says nothing, and with its rules enforced the call is %s, else %s", call, outcome(would), outcome(got))
			}
		}
	})
}

func clonePolicy(t *rapid.T, p *policyv1.Policy) *policyv1.Policy {
	cloned, ok := proto.Clone(p).(*policyv1.Policy)
	if !ok {
		t.Fatal("a clone is of another type")
	}
	return cloned
}

func notInShadow(rules []*policyv1.Rule) []*policyv1.Rule {
	return slices.DeleteFunc(slices.Clone(rules), (*policyv1.Rule).GetShadow)
}

// enforce takes rules out of shadow. One that stands there and enforced too is then one.
func enforce(rules []*policyv1.Rule) []*policyv1.Rule {
	var all []*policyv1.Rule
	seen := make(map[string]bool)
	for _, r := range rules {
		key := wholeOf("bank.test", r.GetPeer()) + " " + r.GetUser() + " " + r.GetWhen()
		if !seen[key] {
			all = append(all, &policyv1.Rule{Peer: r.GetPeer(), User: r.GetUser(), When: r.GetWhen(), Why: r.GetWhy()})
		}
		seen[key] = true
	}
	return all
}
