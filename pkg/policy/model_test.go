package policy_test

import (
	"fmt"
	"slices"
	"strings"

	ledgerv1 "github.com/countersign-mesh/countersign/proto/gen/bank/ledger/v1"
	policyv1 "github.com/countersign-mesh/countersign/proto/gen/mesh/policy/v1"
)

// This is what a policy means, read off the message that the file holds, one rule after the other. It is slow and shares nothing with the
// package but the message, so that a mistake in the one is not in the other.

// saying is what a condition says of a call.
type saying int

const (
	saysNo saying = iota
	saysYes
	saysNothing // without the request
	saysError
)

// modelCondition is a condition in CEL, and the same in Go.
type modelCondition struct {
	text        string
	overRequest bool
	says        func(id string, request *ledgerv1.PostTransferRequest) saying
}

func yesOrNo(yes bool) saying {
	if yes {
		return saysYes
	}
	return saysNo
}

// modelConditions are over the requests of PostTransfer.
var modelConditions = []modelCondition{
	{"true", false, func(string, *ledgerv1.PostTransferRequest) saying { return saysYes }},
	{"false", false, func(string, *ledgerv1.PostTransferRequest) saying { return saysNo }},
	{`peer.path == "/a/b"`, false, func(id string, _ *ledgerv1.PostTransferRequest) saying { return yesOrNo(pathOf(id) == "/a/b") }},
	{`peer.trust_domain != "bank.test"`, false, func(id string, _ *ledgerv1.PostTransferRequest) saying {
		return yesOrNo(!strings.HasPrefix(id, "spiffe://bank.test/"))
	}},
	{`100 / (size(peer.path) - 2) > 50`, false, func(id string, _ *ledgerv1.PostTransferRequest) saying {
		// 100 for 1, 50 for 2: only paths of three bytes have the first.
		if len(pathOf(id)) == 2 {
			return saysError
		}
		return yesOrNo(len(pathOf(id)) == 3)
	}},
	{`peer.id.contains(request.description)`, true, func(id string, r *ledgerv1.PostTransferRequest) saying {
		return yesOrNo(strings.Contains(id, r.GetDescription()))
	}},
	{`request.description == "rent"`, true, func(_ string, r *ledgerv1.PostTransferRequest) saying { return yesOrNo(r.GetDescription() == "rent") }},
	{`request.postings.exists(p, p.amount.minor_units > 100)`, true, func(_ string, r *ledgerv1.PostTransferRequest) saying {
		return yesOrNo(slices.ContainsFunc(r.GetPostings(), func(p *ledgerv1.Posting) bool { return p.GetAmount().GetMinorUnits() > 100 }))
	}},
	{`request.postings[0].amount.minor_units > 0`, true, func(_ string, r *ledgerv1.PostTransferRequest) saying {
		if len(r.GetPostings()) == 0 {
			return saysError
		}
		return yesOrNo(r.GetPostings()[0].GetAmount().GetMinorUnits() > 0)
	}},
	{`10 / size(request.postings) == 10 || request.description == "rent"`, true, func(_ string, r *ledgerv1.PostTransferRequest) saying {
		switch {
		case r.GetDescription() == "rent":
			return saysYes
		case len(r.GetPostings()) == 0:
			return saysError
		}
		return yesOrNo(len(r.GetPostings()) == 1)
	}},
}

func pathOf(id string) string {
	_, path, _ := strings.Cut(strings.TrimPrefix(id, "spiffe://"), "/")
	return "/" + path
}

// wholeOf writes a peer as a rule of the domain own has it, or an ID, whole.
func wholeOf(own, peer string) string {
	if strings.HasPrefix(peer, "/") {
		return "spiffe://" + own + peer
	}
	return peer
}

// means reports whether a peer as a rule of the domain own has it means an ID: segment by segment.
func means(own, peer, id string) bool {
	want, got := strings.Split(wholeOf(own, peer), "/"), strings.Split(id, "/")
	if id == "" || want[len(want)-1] != "**" {
		return id != "" && slices.Equal(want, got)
	}
	root := want[:len(want)-1]
	return len(got) > len(root) && slices.Equal(root, got[:len(root)])
}

// modelCall is a call as the model sees it.
type modelCall struct {
	service, method string
	id, serial      string
	request         *ledgerv1.PostTransferRequest // nil while it is not known
	// user is what the call's token says; nil while nobody has looked, and when looked is set there is none.
	user   *policyv1.User
	looked bool
}

// modelUserConditions are those of rules that ask for a user, beside modelConditions.
var modelUserConditions = []modelUserCondition{
	{`user.subject == "alice"`, false, func(u *policyv1.User, _ *ledgerv1.PostTransferRequest) saying {
		return yesOrNo(u.GetSubject() == "alice")
	}},
	{`user.context.description == request.description`, true, func(u *policyv1.User, r *ledgerv1.PostTransferRequest) saying {
		description, ok := u.GetContext()["description"]
		if !ok {
			return saysError
		}
		return yesOrNo(description == r.GetDescription())
	}},
	{`peer.id in user.requesters`, false, nil},
}

// modelUserCondition is a condition over the user, and the same in Go.
type modelUserCondition struct {
	text        string
	overRequest bool
	says        func(u *policyv1.User, request *ledgerv1.PostTransferRequest) saying
}

// modelVerdict is what the model says of a call. The rules are told by their why.
type modelVerdict struct {
	outcome string
	// rules are those of which one is to be reported; none when it is to be none.
	rules []string
	// shadow is what the rules in shadow say, and shadowRules those of which one is to be reported.
	shadow      string
	shadowRules []string
}

// weighed is what the rules of one kind say of a call: which of them deny and allow, the most specific first, and whether some may.
type weighed struct {
	denies, allows    []*policyv1.Rule
	mayDeny, mayAllow bool
}

// interpret says what a policy says of a call.
func interpret(p *policyv1.Policy, call modelCall) modelVerdict {
	service, ok := p.GetServices()[call.service]
	if call.id == "" || modelRevokes(p, call) || !ok || service.GetMethods()[call.method] == nil {
		return modelVerdict{outcome: denied}
	}
	rules := service.GetMethods()[call.method]
	enforced, shadow := weighAll(p, rules, call, false), weighAll(p, rules, call, true)
	verdict := modelVerdict{}
	switch {
	case len(enforced.denies) > 0:
		verdict.outcome, verdict.rules = denied, whys(enforced.denies[:1])
	case enforced.mayDeny && (len(enforced.allows) > 0 || enforced.mayAllow), len(enforced.allows) == 0 && enforced.mayAllow:
		return modelVerdict{outcome: undecided} // what is in shadow is not looked at as long as the verdict itself is open
	case len(enforced.allows) > 0:
		verdict.outcome, verdict.rules = allowed, reportable(enforced.allows)
	default:
		verdict.outcome = denied
	}
	switch {
	case len(shadow.denies) > 0:
		verdict.shadow, verdict.shadowRules = denied, whys(shadow.denies[:1])
	case shadow.mayDeny, len(shadow.allows) == 0 && shadow.mayAllow:
		verdict.shadow = undecided
	case len(shadow.allows) > 0 && len(enforced.denies) == 0 && enforced.mayDeny:
		verdict.shadow = undecided // allowed, unless what is enforced denies it
	case len(shadow.allows) > 0 && len(enforced.denies) > 0:
		verdict.shadow, verdict.shadowRules = denied, whys(shadow.allows[:1])
	case len(shadow.allows) > 0:
		verdict.shadow, verdict.shadowRules = allowed, whys(shadow.allows[:1])
	}
	return verdict
}

func modelRevokes(p *policyv1.Policy, call modelCall) bool {
	return slices.ContainsFunc(p.GetRevoked(), func(r *policyv1.Revocation) bool {
		return r.GetId() != "" && wholeOf(p.GetTrustDomain(), r.GetId()) == call.id || r.GetSerial() != "" && r.GetSerial() == call.serial
	})
}

func weighAll(p *policyv1.Policy, rules *policyv1.Method, call modelCall, shadow bool) weighed {
	var w weighed
	for _, r := range mostSpecificFirst(p, rules.GetDeny()) {
		switch ruleSays(p, r, call, shadow) {
		case saysYes, saysError: // what cannot be told lets nobody in
			w.denies = append(w.denies, r)
		case saysNothing:
			w.mayDeny = true
		case saysNo:
		}
	}
	for _, r := range mostSpecificFirst(p, rules.GetAllow()) {
		switch ruleSays(p, r, call, shadow) {
		case saysYes:
			w.allows = append(w.allows, r)
		case saysNothing:
			w.mayAllow = true
		case saysNo, saysError:
		}
	}
	return w
}

func ruleSays(p *policyv1.Policy, r *policyv1.Rule, call modelCall, shadow bool) saying {
	if (r.GetShadow() || p.GetShadow()) != shadow || !means(p.GetTrustDomain(), r.GetPeer(), call.id) {
		return saysNo
	}
	if r.GetUser() != "" {
		switch {
		case call.user == nil && !call.looked:
			return saysNothing
		case call.user == nil:
			return saysError
		case !slices.Contains(strings.Fields(call.user.GetScope()), r.GetUser()):
			return saysNo
		}
	}
	if r.GetWhen() == "" {
		return saysYes
	}
	if i := slices.IndexFunc(modelUserConditions, func(c modelUserCondition) bool { return c.text == r.GetWhen() }); i >= 0 {
		return modelUserConditions[i].of(call)
	}
	i := slices.IndexFunc(modelConditions, func(c modelCondition) bool { return c.text == r.GetWhen() })
	if i < 0 {
		panic(fmt.Sprintf("the model does not know the condition %s", r.GetWhen()))
	}
	if modelConditions[i].overRequest && call.request == nil {
		return saysNothing
	}
	return modelConditions[i].says(call.id, call.request)
}

func (c modelUserCondition) of(call modelCall) saying {
	switch {
	case c.overRequest && call.request == nil:
		return saysNothing
	case c.says == nil:
		return yesOrNo(slices.Contains(call.user.GetRequesters(), call.id))
	}
	return c.says(call.user, call.request)
}

// mostSpecificFirst orders rules: a workload before a subtree, a subtree of more segments before one of fewer, else as the file has them. Among rules that
// mean the same caller that is all there is.
func mostSpecificFirst(p *policyv1.Policy, rules []*policyv1.Rule) []*policyv1.Rule {
	rank := func(r *policyv1.Rule) int {
		if !strings.HasSuffix(r.GetPeer(), "/**") {
			return -1 << 20
		}
		return -strings.Count(wholeOf(p.GetTrustDomain(), r.GetPeer()), "/")
	}
	ordered := slices.Clone(rules)
	slices.SortStableFunc(ordered, func(a, b *policyv1.Rule) int { return rank(a) - rank(b) })
	return ordered
}

// reportable are the rules of which one is to be reported when they all allow a call: the most specific, or the most specific of those
// without a condition, which a policy may look at first.
func reportable(allows []*policyv1.Rule) []string {
	rules := allows[:1:1]
	if i := slices.IndexFunc(allows, func(r *policyv1.Rule) bool { return r.GetWhen() == "" && r.GetUser() == "" }); i > 0 {
		rules = append(rules, allows[i])
	}
	return whys(rules)
}

func whys(rules []*policyv1.Rule) []string {
	var all []string
	for _, r := range rules {
		all = append(all, r.GetWhy())
	}
	return all
}
