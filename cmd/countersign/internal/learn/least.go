package learn

import (
	"errors"
	"fmt"
	"slices"
	"strings"

	"github.com/spiffe/go-spiffe/v2/spiffeid"

	"github.com/countersign-mesh/countersign/pkg/policy"
	"github.com/countersign-mesh/countersign/pkg/yamlfile"
	policyv1 "github.com/countersign-mesh/countersign/proto/gen/mesh/policy/v1"
)

// maxWhy is the policy file's limit (mesh.policy.v1.Rule).
const maxWhy = 500

// errTooMany means that not everything that was allowed is known.
var errTooMany = errors.New("more different callers and methods were seen than can be told apart, so that the least policy would deny some")

// Least returns the least policy that would have allowed what was allowed, as the text of a policy file. It allows nothing that the policy does not
// allow: what an earlier policy let in and this one does not stays out. It names each caller by itself; it has the conditions that the calls were let in
// under, the rules that deny any of the callers, the rules in shadow, and all revocations. withDenied adds, as comments, what was denied.
func (l *Learner) Least(descriptors policy.Descriptors, withDenied bool) ([]byte, error) {
	if l.overflow.allowed > 0 {
		return nil, errTooMany
	}
	var main policyv1.Policy
	if _, err := yamlfile.Unmarshal(l.policy.Name(), l.policy.Source().Main(), &main); err != nil {
		return nil, err
	}
	w := &writer{own: l.policy.TrustDomain()}
	w.line(0, "# The least policy that would have allowed what policy %s and those before it allowed from %s to %s:", l.policy.Version(), stamp(l.all.First), stamp(l.all.Last))
	w.line(0, "# %d decisions. What happens rarer than that is not in it. Read it before it takes the place of another one.", l.all.Count)
	w.line(0, "trust_domain: %s", l.policy.TrustDomain().Name())
	w.line(0, "")
	w.line(0, "services:")
	for service := range l.policy.Services() {
		w.service(service)
		for _, m := range service.Methods {
			l.method(w, m, withDenied)
		}
	}
	w.revoked(main.GetRevoked())
	text := []byte(w.String())
	if _, err := policy.Parse("least.yaml", text, policy.WithDescriptors(descriptors)); err != nil {
		return nil, fmt.Errorf("the least policy is none, which is a mistake of this program: %w", err)
	}
	return text, nil
}

// item is one rule of the least policy.
type item struct {
	peer, user, when, why string
	shadow                bool
}

// method writes what the least policy says of a method.
func (l *Learner) method(w *writer, m *policy.Method, withDenied bool) {
	allow, peers := l.grants(w, m)
	var deny []item
	for _, r := range m.Rules {
		kept := item{peer: r.Peer.Short(w.own), user: r.User, when: r.When, why: r.Why, shadow: r.Shadow}
		switch applies := l.used[r] != nil || l.maybe[r] != nil || slices.ContainsFunc(peers, r.Peer.Matches); {
		case r.Effect == policy.Deny && (r.Shadow || applies):
			deny = append(deny, kept)
		case r.Effect == policy.Allow && r.Shadow:
			allow = append(allow, kept)
		}
	}
	w.line(3, "%s:", m.Name)
	w.list("allow", allow)
	if withDenied {
		l.review(w, m)
	}
	if len(deny) > 0 {
		w.list("deny", deny)
	}
}

// grants are the rules that allow the calls of a method that were allowed, and who made them.
func (l *Learner) grants(w *writer, m *policy.Method) (allow []item, peers []spiffeid.ID) {
	type same struct{ peer, user, when string }
	written := make(map[same]bool) // two rules for many peers come to one for each of them
	for _, key := range pairsOf(l.allowed, m.Full) {
		seen := l.allowed[key]
		id := spiffeid.RequireFromString(key.peer) // Add has read it
		peers = append(peers, id)
		for _, r := range m.Rules {
			span := seen.rules[r]
			if span == nil || written[same{key.peer, r.User, r.When}] {
				continue
			}
			written[same{key.peer, r.User, r.When}] = true
			allow = append(allow, item{peer: w.short(id), user: r.User, when: r.When, why: because(r, *span, l.used[r] == nil)})
		}
	}
	return allow, peers
}

// pairsOf are those of a method, ordered by peer.
func pairsOf(pairs map[pair]*pairing, method string) []pair {
	var found []pair
	for key := range pairs {
		if key.method == method {
			found = append(found, key)
		}
	}
	slices.SortFunc(found, func(a, b pair) int { return strings.Compare(a.peer, b.peer) })
	return found
}

// because says why a rule is in the least policy.
func because(r *policy.Rule, span Span, oneOf bool) string {
	text := fmt.Sprintf("seen %d times, last %s", span.Count, stamp(span.Last))
	if oneOf {
		text = fmt.Sprintf("may have let in %d calls that were seen, the last %s", span.Count, stamp(span.Last))
	}
	if r.Why != "" {
		text += ": " + r.Why
	}
	if runes := []rune(text); len(runes) > maxWhy {
		text = string(runes[:maxWhy])
	}
	return text
}

// review writes the calls of a method that were denied, and those that the policy does not let in any more, as comments.
func (l *Learner) review(w *writer, m *policy.Method) {
	for _, key := range pairsOf(l.denied, m.Full) {
		d := l.denied[key]
		w.comment(key.peer, fmt.Sprintf("denied %d times, last %s: %s", d.Count, stamp(d.Last), d.reason))
	}
	for _, key := range pairsOf(l.withdrawn, m.Full) {
		d := l.withdrawn[key]
		w.comment(key.peer, fmt.Sprintf("let in %d times by an earlier policy, last %s", d.Count, stamp(d.Last)))
	}
}
