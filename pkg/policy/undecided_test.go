package policy_test

import "testing"

// Conditions that depend on the request, on the peer alone, and that fail.
const (
	ifX    = "when: request.account_id == 'x'"
	ifY    = "when: request.account_id == 'y'"
	ifPeer = `when: peer.path == '/a'`
	notFor = `when: peer.path != '/a'`
	fails  = `when: "1 / 0 == 1"`
)

func TestWhatDependsOnTheRequestIsUndecidedWithoutIt(t *testing.T) {
	t.Parallel()
	const (
		allowsX = "p.yaml:7: it depends on the request: the rule allows /a when request.account_id == 'x'"
		deniesX = "p.yaml:7: it depends on the request: the rule denies /a when request.account_id == 'x'"
	)
	x, y := []string{"peer: /a, why: x, " + ifX}, []string{"peer: /a, why: y, " + ifY}
	plain := []string{"peer: /a, why: plain"}
	runDecide(t, map[string]decideCase{
		"a condition to allow":                                {allow: x, peer: "/a", want: undecided, reason: allowsX},
		"the same with a request for which it holds":          {allow: x, peer: "/a", request: balanceOf("x"), want: allowed, rule: "x"},
		"the same with a request for which it does not":       {allow: x, peer: "/a", request: balanceOf("y"), want: denied, reason: "p.yaml:7: allowed for /a when request.account_id == 'x', which this call is not"},
		"the same for another peer":                           {allow: x, peer: "/b", want: denied, reason: "p.yaml:5: allowed for /a; the caller is /b"},
		"a condition to deny what is allowed":                 {deny: x, allow: plain, peer: "/a", want: undecided, reason: deniesX},
		"the same with a request for which it denies":         {deny: x, allow: plain, peer: "/a", request: balanceOf("x"), want: denied, rule: "x"},
		"the same with a request for which it does not deny":  {deny: x, allow: plain, peer: "/a", request: balanceOf("y"), want: allowed, rule: "plain"},
		"a condition to deny what may be allowed":             {deny: x, allow: y, peer: "/a", want: undecided, reason: deniesX},
		"the same with a request that is allowed":             {deny: x, allow: y, peer: "/a", request: balanceOf("y"), want: allowed, rule: "y"},
		"the same with a request that is not":                 {deny: x, allow: y, peer: "/a", request: balanceOf("z"), want: denied},
		"a condition to deny what nothing allows":             {deny: x, peer: "/a", want: denied},
		"a condition to deny what a peer's condition refuses": {deny: x, allow: []string{"peer: /a, " + notFor}, peer: "/a", want: denied},
		"a condition to deny what a broken condition allows":  {deny: x, allow: []string{"peer: /a, " + fails}, peer: "/a", want: denied, reason: "p.yaml:9: the condition could not be evaluated"},
		"a condition to deny what a peer's condition allows":  {deny: x, allow: []string{"peer: /a, why: peer, " + ifPeer}, peer: "/a", want: undecided, reason: deniesX},
		"a condition to allow what is denied": {
			deny: []string{"peer: /a, why: d"}, allow: x, peer: "/a", want: denied, rule: "d",
		},
		"a condition to allow what a peer's condition denies": {
			deny: []string{"peer: /a, why: d, " + ifPeer}, allow: x, peer: "/a", want: denied, rule: "d",
		},
		"a condition to allow what a broken condition denies": {
			deny: []string{"peer: /a, why: d, " + fails}, allow: x, peer: "/a", want: denied, rule: "d",
		},
		"a condition to deny what is denied anyway": {
			deny: []string{x[0], "peer: /a, why: d"}, allow: plain, peer: "/a", want: denied, rule: "d", reason: "p.yaml:8: denied",
		},
		"a condition to allow what is allowed anyway": {
			allow: []string{x[0], "peer: /**, why: all"}, peer: "/a", want: allowed, rule: "all",
		},
		"a condition to allow what a peer's condition allows anyway": {
			allow: []string{x[0], "peer: /a, why: peer, " + ifPeer}, peer: "/a", want: allowed, rule: "peer",
		},
		"a condition to allow after one that is broken": {
			allow: []string{"peer: /a, " + fails, y[0]}, peer: "/a", want: undecided, reason: "p.yaml:8: it depends on the request: the rule allows /a when request.account_id == 'y'",
		},
		"the first of two conditions to allow is named": {allow: []string{x[0], y[0]}, peer: "/a", want: undecided, reason: allowsX},
		"the first of two conditions to deny is named":  {deny: []string{x[0], y[0]}, allow: plain, peer: "/a", want: undecided, reason: deniesX},
		"of two conditions to allow the second may hold": {
			allow: []string{x[0], y[0]}, peer: "/a", request: balanceOf("y"), want: allowed, rule: "y",
		},
		"a condition over the peer is decided without a request":          {allow: []string{"peer: /a, why: peer, " + ifPeer}, peer: "/a", want: allowed, rule: "peer"},
		"a condition over the peer that does not hold is decided as well": {allow: []string{"peer: /a, " + notFor}, peer: "/a", want: denied},
		"the peer and the request": {
			allow: []string{"peer: /a, why: both, when: request.account_id == peer.path"}, peer: "/a", want: undecided,
		},
		"the peer and the request, with one": {
			allow: []string{"peer: /a, why: both, when: request.account_id == peer.path"}, peer: "/a", request: balanceOf("/a"), want: allowed, rule: "both",
		},
		"the request, written from the root": {
			allow: []string{"peer: /a, why: root, when: .request.account_id == 'x'"}, peer: "/a", want: undecided,
		},
		"the request within a comprehension": {
			allow: []string{`peer: /a, why: in, when: "['x', 'y'].exists(id, id == request.account_id)"`}, peer: "/a", want: undecided,
		},
		"the request where the outcome is certain": {
			// What a condition asks for is read off its text. It is let into the interceptor, and decided there.
			allow: []string{"peer: /a, when: false && request.account_id == 'x'"}, peer: "/a", want: undecided,
		},
	})
}
