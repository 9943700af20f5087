// Package headers asks a policy about calls of which no more is known than the audit log has: the method and the peer. What is in a request is not
// recorded.
package headers

import (
	"strings"

	"github.com/spiffe/go-spiffe/v2/spiffeid"
	"google.golang.org/protobuf/reflect/protoreflect"

	"github.com/countersign-mesh/countersign/pkg/identity"
	"github.com/countersign-mesh/countersign/pkg/policy"
)

// Verdict is what a policy says of such a call.
type Verdict struct {
	policy.Verdict
	// Depends says that conditions decide which nobody can evaluate here. Allowed is false then.
	Depends bool
}

// Asker asks one policy. It is immutable and safe for concurrent use.
type Asker struct {
	policy      *policy.Policy
	descriptors policy.Descriptors
}

// New returns an Asker of p, which was compiled with these descriptors.
func New(p *policy.Policy, descriptors policy.Descriptors) Asker {
	return Asker{policy: p, descriptors: descriptors}
}

// Decide says what the policy says of a call of a full method by the peer with an ID and, where it is known, a serial number.
//
// Of a method whose messages are not known here, a policy takes each condition for one that never holds, as no server can serve such a method. Here
// it is one that may.
func (a Asker) Decide(method string, id spiffeid.ID, serial string) Verdict {
	call := policy.Call{Method: method, Peer: &identity.Peer{ID: id, Serial: serial}}
	verdict := Verdict{Verdict: a.policy.Decide(call)}
	verdict.Depends = verdict.Undecided
	if verdict.Allowed || verdict.Undecided || a.knows(method) || a.policy.Revocations().Check(call.Peer) != nil {
		return verdict
	}
	allows, asks := false, false
	for _, r := range a.Rules(method, id) {
		if r.Effect == policy.Deny && r.When == "" {
			return verdict
		}
		allows = allows || r.Effect == policy.Allow
		asks = asks || r.When != ""
	}
	if verdict.Depends = allows && asks; verdict.Depends {
		verdict.Rule = nil
	}
	return verdict
}

// Rules are the enforced rules of a method that are for a peer, those that deny first.
func (a Asker) Rules(method string, id spiffeid.ID) []*policy.Rule {
	m, ok := a.policy.Method(method)
	if !ok {
		return nil
	}
	var rules []*policy.Rule
	for _, r := range m.Rules {
		if !r.Shadow && r.Peer.Matches(id) {
			rules = append(rules, r)
		}
	}
	return rules
}

// knows reports whether the messages of a method are known here.
func (a Asker) knows(method string) bool {
	service, _, _ := strings.Cut(strings.TrimPrefix(method, "/"), "/")
	_, err := a.descriptors.FindDescriptorByName(protoreflect.FullName(service))
	return err == nil
}
