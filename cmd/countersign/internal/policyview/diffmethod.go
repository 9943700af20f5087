package policyview

import (
	"slices"

	"github.com/countersign-mesh/countersign/pkg/policy"
)

// class is some peers of a method, whom the same rules name in either policy: one workload, or those whom only a pattern and wider ones name.
type class struct {
	pattern policy.Pattern
	// changes are what differs for them.
	changes []Change
	// within is the smallest class whose pattern means them too; nil when there is none.
	within *class
}

// method compares the rules of a method for each class of peers; either is nil when there are none.
func (d *diff) method(about Change, old, current *policy.Method) {
	classes := d.classes(old, current)
	for _, c := range classes {
		c.changes = d.compare(
			standingOf(applying(old, c.pattern), d.oldRevoked[c.pattern], d.conditions),
			standingOf(applying(current, c.pattern), d.revoked[c.pattern], d.conditions),
		)
	}
	for _, c := range classes {
		if c.within == nil && len(c.changes) == 0 || c.within != nil && d.same(c, c.within) {
			continue // as for everybody around them
		}
		for _, change := range c.changes {
			change.Service, change.Method = about.Service, about.Method
			change.Peer = c.pattern
			change.Except = d.exceptions(c, classes)
			change.Among = d.among(change)
			d.add(change)
		}
	}
}

// classes returns the classes that the rules of a method, and revocations, divide the peers into.
func (d *diff) classes(old, current *policy.Method) []*class {
	var patterns []policy.Pattern
	for _, m := range []*policy.Method{old, current} {
		if m != nil {
			for _, r := range m.Rules {
				patterns = append(patterns, r.Peer)
			}
		}
	}
	for _, ids := range []map[policy.Pattern]bool{d.oldRevoked, d.revoked} {
		for id := range ids {
			patterns = append(patterns, id)
		}
	}
	var classes []*class
	for _, pattern := range inOrder(d.own, patterns) {
		classes = append(classes, &class{pattern: pattern})
	}
	for _, c := range classes {
		for _, other := range classes {
			if other != c && other.pattern.Covers(c.pattern) && (c.within == nil || c.within.pattern.Covers(other.pattern)) {
				c.within = other
			}
		}
	}
	return classes
}

// compare returns what differs between two standings: nothing, what is enforced, what is in shadow, or both.
func (d *diff) compare(old, current standing) []Change {
	var changes []Change
	enforced := Change{Kind: d.kind(old.enforced, current.enforced), Before: &old.enforced, After: &current.enforced}
	if enforced.Kind != "" {
		enforced.FromShadow = d.equal(old.planned, current.enforced)
		enforced.ToShadow = d.equal(old.enforced, current.planned)
		changes = append(changes, enforced)
	}
	if d.shadowDiffers(old, current) {
		changes = append(changes, Change{Kind: ShadowChanged, Before: &old.planned, After: &current.planned})
	}
	return changes
}

func (d *diff) equal(a, b Access) bool { return a.equal(b, d.conditions) }

// shadowed reports whether the rules in shadow would change anything.
func (d *diff) shadowed(s standing) bool { return !d.equal(s.enforced, s.planned) }

// shadowDiffers reports whether rules in shadow say something else than they did. Of a peer that is revoked they say nothing.
func (d *diff) shadowDiffers(old, current standing) bool {
	if old.enforced.State == Revoked || current.enforced.State == Revoked {
		return false
	}
	return (d.shadowed(old) || d.shadowed(current)) && !d.equal(old.planned, current.planned)
}

// kind is how what is enforced changes; empty when it does not.
func (d *diff) kind(old, current Access) Kind {
	switch {
	case d.equal(old, current):
		return ""
	case !old.can() && current.can():
		return Gains
	case old.can() && !current.can():
		return Loses
	case old.State == Revoked || current.State == Revoked:
		return "" // the revocation is a change of its own; but for it nothing is allowed before or after
	case !old.can() || d.conditions.equal(old.When, current.When):
		return d.denialKind(old, current)
	case len(old.When) == 0:
		return ConditionAdded
	case len(current.When) == 0:
		return ConditionRemoved
	default:
		return ConditionChanged
	}
}

// denialKind is how rules that deny change.
func (d *diff) denialKind(old, current Access) Kind {
	switch {
	case current.State == Denied || old.State != Denied && d.conditions.within(old.Unless, current.Unless):
		return DenyAdded
	case old.State == Denied || d.conditions.within(current.Unless, old.Unless):
		return DenyRemoved
	default:
		return ConditionChanged
	}
}

// same reports whether the same differs for two classes.
func (d *diff) same(a, b *class) bool {
	return slices.EqualFunc(a.changes, b.changes, func(x, y Change) bool {
		return x.Kind == y.Kind && d.equal(*x.Before, *y.Before) && d.equal(*x.After, *y.After) && x.FromShadow == y.FromShadow && x.ToShadow == y.ToShadow
	})
}

// exceptions returns the widest of those within a class for whom something else differs, or nothing.
func (d *diff) exceptions(c *class, classes []*class) []policy.Pattern {
	var except []policy.Pattern
	for _, other := range classes {
		if other == c || !c.pattern.Covers(other.pattern) || d.same(other, c) {
			continue
		}
		widest := true
		for around := other.within; around != c; around = around.within {
			widest = widest && d.same(around, c)
		}
		if widest {
			except = append(except, other.pattern)
		}
	}
	return except
}

// among returns whom rules of either policy name, for any method, and a change means.
func (d *diff) among(change Change) []policy.Pattern {
	var among []policy.Pattern
	for _, p := range d.named {
		except := slices.ContainsFunc(change.Except, func(e policy.Pattern) bool { return e.Covers(p) })
		if p != change.Peer && change.Peer.Covers(p) && !except {
			among = append(among, p)
		}
	}
	return among
}
