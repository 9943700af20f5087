package learn

import (
	"fmt"
	"maps"
	"slices"
	"strings"
	"time"

	"github.com/spiffe/go-spiffe/v2/spiffeid"

	"github.com/countersign-mesh/countersign/cmd/countersign/internal/headers"
	"github.com/countersign-mesh/countersign/pkg/identity"
	"github.com/countersign-mesh/countersign/pkg/policy"
)

// Section is a part of a report: a table, or what is said instead when it has no rows.
type Section struct {
	Title   string
	Headers []string
	Rows    [][]string
	Else    string
}

// longStream is how long a stream may have been open at most (package mesh ends connections at that age). Those that were opened before do not show.
const longStream = 45 * time.Minute

// Report says what the records come to. since is from when on they were asked for; zero for all there are.
func (l *Learner) Report(since time.Time) []Section {
	overview := Section{Title: "What was read", Headers: []string{"decisions", "from", "to", "by policy " + l.policy.Version(), "by others"}, Else: "No decision at all."}
	if l.all.Count > 0 {
		overview.Rows = [][]string{{fmt.Sprint(l.all.Count), stamp(l.all.First), stamp(l.all.Last), fmt.Sprint(l.all.Count - l.earlier), fmt.Sprint(l.earlier)}}
	}
	doubts := Section{Title: "Why a rule may look unused and not be", Headers: []string{""}, Else: "Nothing is missing in the record that is known to be."}
	for _, d := range l.doubts(since) {
		doubts.Rows = append(doubts.Rows, []string{d})
	}
	return []Section{overview, doubts, l.unused(), l.unsure(), l.recurring(), l.gone()}
}

// doubts are the reasons for which the record may be silent about what happened.
func (l *Learner) doubts(since time.Time) []string {
	var doubts []string
	say := func(format string, args ...any) { doubts = append(doubts, fmt.Sprintf(format, args...)) }
	for _, server := range slices.Sorted(maps.Keys(l.lost)) {
		gap := l.lost[server]
		say("%s lost %d decisions between %s and %s: nobody knows them.", plain(server), gap.Count, stamp(gap.First), stamp(gap.Last))
	}
	for _, server := range l.silent() {
		say("%s has recorded nothing: what it let in, if it runs, is not known.", server)
	}
	if asked := l.all.Last.Sub(since); !since.IsZero() && l.all.First.Sub(since) > asked/10 {
		say("The record begins at %s, later than was asked for, %s.", stamp(l.all.First), stamp(since))
	}
	if l.all.Last.Sub(l.all.First) < longStream {
		say("It is shorter than %v: a stream is decided on when it opens and when the policy changes, and one that was open before does not show.", longStream)
	}
	if l.earlier > 0 {
		say("%d decisions were made by other versions of the policy. They were matched with the rules of this one by peer and method; where conditions decide, all that may have.", l.earlier)
	}
	if n := l.overflow.allowed + l.overflow.others; n > 0 {
		say("%d decisions are of more different callers and methods than %d, and were not told apart.", n, maxGroups)
	}
	return doubts
}

// silent are the servers that serve something by the policy and have recorded nothing.
func (l *Learner) silent() []string {
	servers := make(map[string]bool)
	for service := range l.policy.Services() {
		for _, p := range service.ServedBy {
			if id, ok := p.ID(); ok && !l.servers[id.String()] {
				servers[id.String()] = true
			}
		}
	}
	return slices.Sorted(maps.Keys(servers))
}

func (l *Learner) unused() Section {
	section := Section{Title: "Rules that never decided", Headers: []string{"rule", "method", "effect", "peer", "when"}, Else: "Each rule has decided."}
	l.rules(func(m *policy.Method, r *policy.Rule) {
		if l.used[r] == nil && l.maybe[r] == nil {
			section.Rows = append(section.Rows, []string{r.Place(), m.Full, effectOf(r), r.Written, r.Condition()})
		}
	})
	return section
}

func (l *Learner) unsure() Section {
	section := Section{Title: "Rules that may have decided", Headers: []string{"rule", "method", "effect", "peer", "when", "at most", "last"}, Else: "None: of each rule it is known."}
	l.rules(func(m *policy.Method, r *policy.Rule) {
		if span := l.maybe[r]; span != nil && l.used[r] == nil {
			section.Rows = append(section.Rows, []string{r.Place(), m.Full, effectOf(r), r.Written, r.Condition(), fmt.Sprint(span.Count), stamp(span.Last)})
		}
	})
	return section
}

// rules goes through all rules.
func (l *Learner) rules(do func(*policy.Method, *policy.Rule)) {
	for service := range l.policy.Services() {
		for _, m := range service.Methods {
			for _, r := range m.Rules {
				do(m, r)
			}
		}
	}
}

func effectOf(r *policy.Rule) string {
	if r.Shadow {
		return r.Effect.String() + ", in shadow"
	}
	return r.Effect.String()
}

// recurring are the denials that happened more than once.
func (l *Learner) recurring() Section {
	section := Section{Title: "Denials that recur", Headers: []string{"peer", "method", "times", "first", "last", "reason", "what would allow it"}}
	once := 0
	for _, key := range mostFirst(l.denied) {
		d := l.denied[key]
		if d.Count == 1 {
			once++
			continue
		}
		section.Rows = append(section.Rows, []string{
			nameOf(key.peer), methodOf(key.method), fmt.Sprint(d.Count), stamp(d.First), stamp(d.Last), plain(d.reason), l.remedy(key),
		})
	}
	section.Else = "None."
	if once > 0 {
		section.Title += fmt.Sprintf(" (%d more happened once)", once)
	}
	return section
}

// gone are the calls that an earlier policy let in and this one does not.
func (l *Learner) gone() Section {
	section := Section{Title: "Let in by an earlier policy, and not by this one", Headers: []string{"peer", "method", "times", "first", "last", "what would allow it"}, Else: "None."}
	for _, key := range mostFirst(l.withdrawn) {
		d := l.withdrawn[key]
		section.Rows = append(section.Rows, []string{nameOf(key.peer), methodOf(key.method), fmt.Sprint(d.Count), stamp(d.First), stamp(d.Last), l.remedy(key)})
	}
	return section
}

func mostFirst(pairs map[pair]*pairing) []pair {
	return slices.SortedFunc(maps.Keys(pairs), func(a, b pair) int {
		if n := pairs[b].Count - pairs[a].Count; n != 0 {
			return n
		}
		return strings.Compare(a.method+" "+a.peer, b.method+" "+b.peer)
	})
}

func nameOf(peer string) string {
	if peer == "" {
		return "nobody"
	}
	return plain(peer)
}

func methodOf(method string) string {
	if method == "" {
		return "what the policy has no rules for"
	}
	return method
}

// remedy says which rule would allow the calls of a pair, or does by now.
func (l *Learner) remedy(key pair) string {
	id, err := spiffeid.FromString(key.peer)
	if err != nil {
		return "an identity"
	}
	if key.method == "" {
		return "nothing: no such method"
	}
	if err := l.policy.Revocations().Check(&identity.Peer{ID: id}); err != nil {
		return "nothing: " + err.Error()
	}
	switch verdict := headers.Decide(l.policy, key.method, id, ""); {
	case verdict.Allowed:
		return verdict.Rule.Place() + ", by now"
	case verdict.Undecided:
		var places []string
		for _, r := range headers.Rules(l.policy, key.method, id) {
			places = append(places, r.Place())
		}
		if verdict.NeedsUser {
			return strings.Join(places, ", ") + ", for other requests or users"
		}
		return strings.Join(places, ", ") + ", for other requests"
	case verdict.Rule != nil:
		return "nothing, while " + verdict.Rule.Place() + " denies it"
	default:
		w := writer{own: l.policy.TrustDomain()}
		return fmt.Sprintf("under %s allow: - peer: %s", strings.TrimPrefix(key.method, "/"), w.short(id))
	}
}
