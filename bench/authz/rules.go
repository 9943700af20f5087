package main

import (
	"fmt"
	"math/rand/v2"

	"github.com/spiffe/go-spiffe/v2/spiffeid"
)

// trustDomain is whose workloads the rules are about.
const trustDomain = "bank.test"

// grant is one method with the peers that may call it. Each peer of it is one rule.
type grant struct {
	service, method string
	// peers are paths of SPIFFE IDs, in the order of the rules.
	peers []string
}

// full is the name under which gRPC knows the method.
func (g grant) full() string { return "/" + g.service + "/" + g.method }

// question is one call to decide on.
type question struct {
	peer spiffeid.ID
	// method is the full method.
	method string
}

// shape is how rules lie over methods.
type shape string

const (
	// spread is ten peers a method, as meshes are: the methods are many, and few may call each.
	spread shape = "10 peers a method"
	// heaped is the worst that a method can have: every peer there is.
	heaped shape = "all on one method"
)

const (
	peersPerMethod    = 10
	methodsPerService = 10
	workloads         = 1000 // that call, when the rules are spread
)

// generate returns n rules, which is a multiple of ten, without a name that another could be taken for. The same n and shape give the same rules.
func generate(s shape, n int) []grant {
	if s == heaped {
		g := grant{service: conditionalService, method: conditionalMethod}
		for i := range n {
			g.peers = append(g.peers, workload(i))
		}
		return []grant{g}
	}
	var grants []grant
	for m := range n / peersPerMethod {
		g := grant{service: fmt.Sprintf("bank.part%04d.v1.PartService", m/methodsPerService), method: fmt.Sprintf("Method%d", m%methodsPerService)}
		for p := range peersPerMethod {
			g.peers = append(g.peers, workload((m*peersPerMethod+p)%workloads))
		}
		grants = append(grants, g)
	}
	return grants
}

// workload is the path of a SPIFFE ID about as long as one is in a cluster.
func workload(i int) string { return fmt.Sprintf("/team-%03d/workload-%06d", i/100, i) }

// id is the SPIFFE ID with a path that generate made.
func id(path string) spiffeid.ID {
	return spiffeid.RequireFromPath(spiffeid.RequireTrustDomainFromString(trustDomain), path)
}

// last asks for the last rule: whoever looks for it from the first has the longest way.
func last(grants []grant) []question {
	g := grants[len(grants)-1]
	return []question{{peer: id(g.peers[len(g.peers)-1]), method: g.full()}}
}

// stranger asks for the method of the last rule by a peer that no rule names.
func stranger(grants []grant) []question {
	return []question{{peer: id("/team-999/stranger-000001"), method: grants[len(grants)-1].full()}}
}

// inTurn asks for every rule, or for most of them where there are more, in an order that is random and the same each time. The questions lie in memory
// one after another, so that it is the rules that have to be fetched.
func inTurn(grants []grant) []question {
	const most = 1 << 15
	type rule struct {
		grant grant
		peer  string
	}
	var rules []rule
	for _, g := range grants {
		for _, p := range g.peers {
			rules = append(rules, rule{g, p})
		}
	}
	order := rand.New(rand.NewPCG(1, 2)) //nolint:gosec // it is to be the same each time
	order.Shuffle(len(rules), func(i, j int) { rules[i], rules[j] = rules[j], rules[i] })
	var questions []question
	for _, r := range rules[:min(len(rules), most)] {
		questions = append(questions, question{peer: id(r.peer), method: r.grant.full()})
	}
	return questions
}
