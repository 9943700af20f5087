// Package headers asks a policy about calls of which no more is known than the audit log has: the method and the peer. What is in a request is not
// recorded, nor is a user.
package headers

import (
	"github.com/spiffe/go-spiffe/v2/spiffeid"

	"github.com/countersign-mesh/countersign/pkg/identity"
	"github.com/countersign-mesh/countersign/pkg/policy"
)

// Decide returns what a policy says of a call of a full method by the peer with an ID and, where it is known, a serial number. Where conditions
// decide over the request, or rules ask for a user, the verdict is Undecided.
func Decide(p *policy.Policy, method string, id spiffeid.ID, serial string) policy.Verdict {
	return p.Decide(policy.Call{Method: method, Peer: &identity.Peer{ID: id, Serial: serial}})
}

// Rules returns the enforced rules of a method that are for a peer, those that deny first.
func Rules(p *policy.Policy, method string, id spiffeid.ID) []*policy.Rule {
	m, ok := p.Method(method)
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
