package rollout

import (
	"slices"
	"strings"
	"sync"

	"github.com/spiffe/go-spiffe/v2/spiffeid"

	"github.com/countersign-mesh/countersign/cmd/countersign/internal/headers"
	"github.com/countersign-mesh/countersign/pkg/policy"
	auditv1 "github.com/countersign-mesh/countersign/proto/gen/mesh/audit/v1"
)

// Denied is calls of one method by one peer that the old policy let in and the new one does not.
type Denied struct {
	Peer, Method string
	Count        int
	// DecisionID is the first of them.
	DecisionID string
}

// tally counts what the new policy decides. It is safe for concurrent use.
type tally struct {
	change Change

	mu      sync.Mutex
	denied  map[string]*Denied
	total   int
	decided int
	lost    int64
	// position is that of the last record.
	position int64
}

func newTally(change Change) *tally { return &tally{change: change, denied: make(map[string]*Denied)} }

// from says that records come that are behind a position.
func (t *tally) from(position int64) {
	t.mu.Lock()
	defer t.mu.Unlock()
	t.position = position
}

// add counts a record, and returns how many calls were denied so far that were let in before.
func (t *tally) add(record *auditv1.StoredRecord) int {
	t.mu.Lock()
	defer t.mu.Unlock()
	t.position = record.GetPosition()
	t.lost += record.GetGap().GetLostCount()
	decision := record.GetDecision()
	if decision == nil || decision.GetPolicyVersion() != t.change.New.Version() {
		return t.total
	}
	t.decided++
	if decision.GetVerdict() != auditv1.Verdict_VERDICT_DENIED || !t.change.letIn(decision) {
		return t.total
	}
	t.total++
	key := decision.GetPeerId() + " " + decision.GetMethod()
	if t.denied[key] == nil {
		t.denied[key] = &Denied{Peer: decision.GetPeerId(), Method: decision.GetMethod(), DecisionID: decision.GetDecisionId()}
	}
	t.denied[key].Count++
	return t.total
}

// reached reports whether the record at a position was counted, or one behind it.
func (t *tally) reached(position int64) bool {
	t.mu.Lock()
	defer t.mu.Unlock()
	return t.position >= position
}

// outcome is what was counted: the most denied calls first.
func (t *tally) outcome() Outcome {
	t.mu.Lock()
	defer t.mu.Unlock()
	o := Outcome{Decided: t.decided, Lost: t.lost}
	for _, d := range t.denied {
		o.Denied = append(o.Denied, *d)
	}
	slices.SortFunc(o.Denied, func(a, b Denied) int {
		if a.Count != b.Count {
			return b.Count - a.Count
		}
		return strings.Compare(a.Peer+" "+a.Method, b.Peer+" "+b.Method)
	})
	return o
}

// letIn reports whether the old policy let the call in that a decision of the new one denied. A request is not recorded: where the old policy
// asks for it, the call counts as let in, unless the new one asks the same.
func (c Change) letIn(denied *auditv1.Decision) bool {
	id, err := spiffeid.FromString(denied.GetPeerId())
	if err != nil { // nobody
		return false
	}
	was := headers.Decide(c.Old, denied.GetMethod(), id, denied.GetPeerSerial())
	if !was.Undecided {
		return was.Allowed
	}
	return !headers.Decide(c.New, denied.GetMethod(), id, denied.GetPeerSerial()).Undecided ||
		!slices.EqualFunc(headers.Rules(c.Old, denied.GetMethod(), id), headers.Rules(c.New, denied.GetMethod(), id), asksTheSame)
}

// asksTheSame reports whether two rules ask the same of a call.
func asksTheSame(a, b *policy.Rule) bool {
	return a.Effect == b.Effect && a.Peer == b.Peer && a.User == b.User && a.When == b.When
}
