// Package policyview shows policies to people: as a matrix of who may call what, as a graph of who calls whom, and as the difference that a change
// makes to the peers.
//
// Everything in it is a function of compiled policies. What a policy says of a call is for policy.Policy to decide; this package asks it, or puts
// into words which of its rules apply.
package policyview

import (
	"cmp"
	"slices"
	"strconv"
	"strings"

	"github.com/spiffe/go-spiffe/v2/spiffeid"

	"github.com/countersign-mesh/countersign/pkg/policy"
)

// applying returns the rules of a method that hold for everybody whom class means. m is nil for a method that the policy does not know.
func applying(m *policy.Method, class policy.Pattern) []*policy.Rule {
	if m == nil {
		return nil
	}
	var rules []*policy.Rule
	for _, r := range m.Rules {
		if r.Peer.Covers(class) {
			rules = append(rules, r)
		}
	}
	return rules
}

// inOrder returns patterns without those that stand twice: single workloads before patterns that mean many, the trust domain own before others,
// and then by name.
func inOrder(own spiffeid.TrustDomain, patterns []policy.Pattern) []policy.Pattern {
	rank := func(p policy.Pattern) int {
		rank := 0
		if _, one := p.ID(); !one {
			rank += 2
		}
		if p.TrustDomain() != own {
			rank++
		}
		return rank
	}
	slices.SortFunc(patterns, func(a, b policy.Pattern) int {
		return cmp.Or(cmp.Compare(rank(a), rank(b)), cmp.Compare(a.String(), b.String()))
	})
	return slices.Compact(patterns)
}

// exactly is the pattern that means one workload.
func exactly(id spiffeid.ID) policy.Pattern {
	pattern, err := policy.ParsePattern(id.TrustDomain(), id.String())
	if err != nil {
		return policy.Pattern{} // an ID without a path, which no peer has: nobody
	}
	return pattern
}

// somebody returns a workload that a pattern means, and of the others only those that mean the whole pattern: whom only the pattern names.
func somebody(pattern policy.Pattern, others []policy.Pattern) spiffeid.ID {
	if id, one := pattern.ID(); one {
		return id
	}
	for i := 0; ; i++ {
		id := spiffeid.RequireFromString(strings.TrimSuffix(pattern.String(), "**") + "somebody-" + strconv.Itoa(i))
		if !slices.ContainsFunc(others, func(other policy.Pattern) bool { return other.Matches(id) && !other.Covers(pattern) }) {
			return id
		}
	}
}

// revoked returns the workloads that a policy revokes by their IDs.
func revoked(p *policy.Policy) map[policy.Pattern]bool {
	ids := make(map[policy.Pattern]bool)
	for _, entry := range p.Revocations().Entries() {
		if !entry.ID.IsZero() {
			ids[exactly(entry.ID)] = true
		}
	}
	return ids
}
