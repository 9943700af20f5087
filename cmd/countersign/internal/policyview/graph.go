package policyview

import (
	"cmp"
	"fmt"
	"slices"
	"strings"

	"github.com/spiffe/go-spiffe/v2/spiffeid"

	"github.com/countersign-mesh/countersign/pkg/policy"
)

// graph is who calls whom, as the rules of a policy have it.
type graph struct {
	nodes []node
	edges []edge
}

// node is a workload, many of them, or a service that nobody serves.
type node struct {
	// label is what is shown, and name the same written whole.
	label, name string
	kind        nodeKind
}

type nodeKind int

const (
	oneWorkload nodeKind = iota
	revokedWorkload
	manyWorkloads
	unservedService
)

// edge is all rules of a kind that a caller has for what a server serves. from and to are indexes of nodes.
type edge struct {
	from, to int
	effect   policy.Effect
	shadow   bool
	// lines say which methods, a line for each service.
	lines []string
}

// newGraph returns the graph of a policy. It shows rules, and not what they come to: a denial stands beside the allowance that it takes back. Who may only
// watch whether servers are to be called (policy.WatchHealth) calls none of them by that.
func newGraph(p *policy.Policy) *graph {
	b := &graphBuilder{
		own: p.TrustDomain(), revoked: revoked(p), names: shortNames(p), nodes: make(map[string]node), edges: make(map[arrow][]string),
	}
	for service := range p.Services() {
		b.service(service)
	}
	return b.graph()
}

// graphBuilder collects what is in a graph.
type graphBuilder struct {
	own     spiffeid.TrustDomain
	revoked map[policy.Pattern]bool
	// names are those that services go by.
	names map[string]string
	// nodes are keyed by their whole names, and edges have their lines.
	nodes map[string]node
	edges map[arrow][]string
}

// arrow is where an edge leads, and of which kind it is.
type arrow struct {
	from, to string
	effect   policy.Effect
	shadow   bool
}

func (b *graphBuilder) service(s *policy.Service) {
	var servers []string
	for _, pattern := range s.ServedBy {
		servers = append(servers, b.peer(pattern))
	}
	if len(servers) == 0 {
		servers = []string{s.Name}
		b.nodes[s.Name] = node{label: s.Name, name: s.Name, kind: unservedService}
	}
	methods := make(map[arrow][]string) // without the server
	for _, m := range s.Methods {
		for a, name := range b.method(m) {
			methods[a] = append(methods[a], name)
		}
	}
	for a, names := range methods {
		if len(names) == 1 && "/"+s.Name+"/"+names[0] == policy.WatchHealth && a.effect == policy.Allow {
			continue // its rules are for all servers: an arrow to each would hide who calls whom
		}
		line := b.names[s.Name] + ": " + strings.Join(names, ", ")
		if len(names) == len(s.Methods) && len(names) > 1 && !slices.ContainsFunc(names, conditional) {
			line = fmt.Sprintf("%s: all %d methods", b.names[s.Name], len(names))
		}
		for _, server := range servers {
			a.to = server
			b.edges[a] = append(b.edges[a], line)
		}
	}
}

// underCondition stands behind a method that a rule allows or denies under a condition.
const underCondition = " (under a condition)"

func conditional(method string) bool { return strings.HasSuffix(method, underCondition) }

// method returns what the rules of a method draw: its name, for each kind of an arrow from each caller.
func (b *graphBuilder) method(m *policy.Method) map[arrow]string {
	names := make(map[arrow]string)
	for _, r := range m.Rules {
		a := arrow{from: b.peer(r.Peer), effect: r.Effect, shadow: r.Shadow}
		if r.Condition() == "" {
			names[a] = m.Name
		} else if names[a] == "" {
			names[a] = m.Name + underCondition
		}
	}
	return names
}

// peer adds whom a pattern means, and returns the whole name.
func (b *graphBuilder) peer(pattern policy.Pattern) string {
	n := node{label: pattern.Short(b.own), name: pattern.String()}
	if _, one := pattern.ID(); !one {
		n.kind = manyWorkloads
	}
	if b.revoked[pattern] {
		n.kind = revokedWorkload
		n.label += " (revoked)"
	}
	b.nodes[n.name] = n
	return n.name
}

// graph puts all in order.
func (b *graphBuilder) graph() *graph {
	g := &graph{}
	for _, n := range b.nodes {
		g.nodes = append(g.nodes, n)
	}
	slices.SortFunc(g.nodes, func(x, y node) int { return cmp.Compare(x.name, y.name) })
	index := make(map[string]int)
	for i, n := range g.nodes {
		index[n.name] = i
	}
	for a, lines := range b.edges {
		g.edges = append(g.edges, edge{from: index[a.from], to: index[a.to], effect: a.effect, shadow: a.shadow, lines: lines})
	}
	slices.SortFunc(g.edges, func(x, y edge) int {
		return cmp.Or(cmp.Compare(x.from, y.from), cmp.Compare(x.to, y.to), cmp.Compare(x.kind(), y.kind()))
	})
	return g
}

// kind numbers the kinds of edges.
func (e edge) kind() int {
	kind := 2 * int(e.effect)
	if e.shadow {
		kind++
	}
	return kind
}

// shortNames returns what services are called on edges: their last names, and whole where two have the same.
func shortNames(p *policy.Policy) map[string]string {
	last := func(service string) string { return service[strings.LastIndexByte(service, '.')+1:] }
	count := make(map[string]int)
	for service := range p.Services() {
		count[last(service.Name)]++
	}
	names := make(map[string]string)
	for service := range p.Services() {
		names[service.Name] = service.Name
		if count[last(service.Name)] == 1 {
			names[service.Name] = last(service.Name)
		}
	}
	return names
}
