package policyview

import (
	"iter"
	"maps"
	"slices"

	"github.com/spiffe/go-spiffe/v2/spiffeid"

	"github.com/countersign-mesh/countersign/pkg/identity"
	"github.com/countersign-mesh/countersign/pkg/policy"
)

// Diff returns what differs between two policies in what they mean: first revocations, then service by service who serves it, and method by method
// which peer gains or loses it. Nothing differs where the same calls are allowed and denied, in shadow too, by other rules, in another order or for
// other reasons. A policy may be nil.
//
// Peers are compared class by class. Those whom the same rules of a method name are one class, so a Change is true of everybody whom it means, and
// of nobody else.
func Diff(old, current *policy.Policy) []Change {
	d := &diff{
		old: old, current: current, conditions: newConditions(),
		oldRevoked: revoked(old), revoked: revoked(current),
	}
	for _, p := range []*policy.Policy{old, current} {
		if p != nil {
			d.own = p.TrustDomain()
			d.named = append(d.named, named(p)...)
		}
	}
	d.named = inOrder(d.own, d.named)
	d.revocations()
	oldServices, services := servicesOf(old), servicesOf(current)
	for _, name := range union(maps.Keys(oldServices), maps.Keys(services)) {
		d.service(name, oldServices[name], services[name])
	}
	return d.changes
}

// diff is a comparison under way.
type diff struct {
	old, current *policy.Policy
	conditions   *conditions
	// own is the trust domain of the short forms: the current policy's.
	own spiffeid.TrustDomain
	// named are all whom rules of either policy name.
	named []policy.Pattern
	// oldRevoked and revoked are the workloads that are revoked.
	oldRevoked, revoked map[policy.Pattern]bool
	changes             []Change
}

func (d *diff) add(c Change) {
	c.own = d.own
	d.changes = append(d.changes, c)
}

// named returns whom rules of a policy name, in any order.
func named(p *policy.Policy) []policy.Pattern {
	var patterns []policy.Pattern
	for service := range p.Services() {
		for _, m := range service.Methods {
			for _, r := range m.Rules {
				patterns = append(patterns, r.Peer)
			}
		}
	}
	return patterns
}

func servicesOf(p *policy.Policy) map[string]*policy.Service {
	services := make(map[string]*policy.Service)
	for service := range p.Services() {
		services[service.Name] = service
	}
	return services
}

// union returns what is in either, in order.
func union(a, b iter.Seq[string]) []string {
	return slices.Compact(slices.Sorted(func(yield func(string) bool) {
		for _, seq := range []iter.Seq[string]{a, b} {
			for s := range seq {
				if !yield(s) {
					return
				}
			}
		}
	}))
}

func (d *diff) revocations() {
	entries := func(p *policy.Policy) map[identity.Revocation]bool {
		all := make(map[identity.Revocation]bool)
		for _, entry := range p.Revocations().Entries() {
			entry.Entry = "" // where it stands makes no difference
			all[entry] = true
		}
		return all
	}
	before, after := entries(d.old), entries(d.current)
	change := func(kind Kind, p *policy.Policy, others map[identity.Revocation]bool) {
		for _, entry := range p.Revocations().Entries() {
			entry.Entry = ""
			if others[entry] {
				continue
			}
			c := Change{Kind: kind, Serial: entry.Serial, Authority: entry.Authority}
			if !entry.ID.IsZero() {
				c.Peer = exactly(entry.ID)
			}
			d.add(c)
		}
	}
	change(PeerRevoked, d.current, before)
	change(PeerRestored, d.old, after)
}

// service compares the rules of a service; either is nil when there are none.
func (d *diff) service(name string, old, current *policy.Service) {
	switch {
	case old == nil:
		d.add(Change{Kind: ServiceAdded, Service: name})
	case current == nil:
		d.add(Change{Kind: ServiceRemoved, Service: name})
	}
	before, after := d.servers(old), d.servers(current)
	for _, p := range after {
		if !slices.Contains(before, p) {
			d.add(Change{Kind: ServedByAdded, Service: name, Peer: p})
		}
	}
	for _, p := range before {
		if !slices.Contains(after, p) {
			d.add(Change{Kind: ServedByRemoved, Service: name, Peer: p})
		}
	}
	oldMethods, methods := methodsOf(old), methodsOf(current)
	for _, method := range union(maps.Keys(oldMethods), maps.Keys(methods)) {
		about := Change{Service: name, Method: name + "/" + method}
		if oldMethods[method] == nil {
			d.add(Change{Kind: MethodAdded, Service: name, Method: about.Method})
		}
		if methods[method] == nil {
			d.add(Change{Kind: MethodRemoved, Service: name, Method: about.Method})
		}
		d.method(about, oldMethods[method], methods[method])
	}
}

// servers returns who serves a service, without those whom a wider pattern means as well.
func (d *diff) servers(s *policy.Service) []policy.Pattern {
	if s == nil {
		return nil
	}
	var widest []policy.Pattern
	for _, p := range s.ServedBy {
		if !slices.ContainsFunc(s.ServedBy, func(other policy.Pattern) bool { return other != p && other.Covers(p) }) {
			widest = append(widest, p)
		}
	}
	return inOrder(d.own, widest)
}

func methodsOf(s *policy.Service) map[string]*policy.Method {
	methods := make(map[string]*policy.Method)
	if s != nil {
		for _, m := range s.Methods {
			methods[m.Name] = m
		}
	}
	return methods
}
