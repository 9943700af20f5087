package faults_test

import (
	"fmt"
	"hash/maphash"

	"github.com/anishathalye/porcupine"
)

// model is books as the contract has them, for one group of accounts: what porcupine compares a history with. A model is a value that is never
// changed; a step makes the next one.
type model struct {
	balance, held moves
	transfers     table[posted]
	holds         table[held]
	hash          uint64 // of the content of the tables
}

// posted is a transfer in the model: its content, and the time that the first answer told.
type posted struct {
	content op
	time    int64
}

// held is a hold in the model.
type held struct {
	content op
	time    int64
	state   state
}

// table is a map from small numbers that shares what did not change with the one that it was made from.
type table[E comparable] [32]*[32]E

func (t *table[E]) at(i int) (e E) {
	if leaf := t[i/32]; leaf != nil {
		return leaf[i%32]
	}
	return e
}

func (t *table[E]) set(i int, e E) {
	leaf := new([32]E)
	if old := t[i/32]; old != nil {
		*leaf = *old
	}
	leaf[i%32] = e
	t[i/32] = leaf
}

func (t *table[E]) equal(other *table[E]) bool {
	for i, leaf := range t {
		switch mine, its := leaf, other[i]; {
		case mine == its: // the same memory
		case mine == nil || its == nil || *mine != *its:
			return false
		}
	}
	return true
}

// step says what the books answer to an operation, and what they are afterwards. Of the answer that was given the model takes only what it
// cannot know, the time of a first posting.
func (m *model) step(o op, given answer) (answer, *model) {
	switch o.Kind {
	case post:
		return m.post(o, given)
	case reserve:
		return m.reserve(o, given)
	case release:
		return m.release(o)
	case balance:
		return answer{Code: done, Balance: m.balance[o.Whose], Held: m.held[o.Whose]}, m
	default:
		return answer{Code: failed}, m
	}
}

func (m *model) post(o op, given answer) (answer, *model) {
	if first := m.transfers.at(o.ID); first.time != 0 {
		if first.content != o {
			return answer{Code: conflict}, m
		}
		return answer{Code: done, Time: first.time}, m
	}
	next := *m
	if o.Hold != 0 {
		hold := m.holds.at(o.Hold)
		if code := hold.takes(o); code != done {
			return answer{Code: code}, m
		}
		next.held[hold.content.Whose] -= hold.content.Minor
		next.setHold(o.Hold, held{hold.content, hold.time, captured})
	}
	for n, minor := range o.Moves {
		next.balance[n] += minor
		// An account that only gains may be short of nothing.
		if minor < 0 && n != bank && next.balance[n] < next.held[n] {
			return answer{Code: insufficient}, m
		}
	}
	if given.Time == 0 {
		given.Time = -1 // it was posted all the same
	}
	next.setTransfer(o.ID, posted{o, given.Time})
	return answer{Code: done, Time: given.Time}, &next
}

// takes says whether a transfer may capture a hold.
func (h held) takes(o op) code {
	switch {
	case h.time == 0:
		return noHold
	case h.state == released:
		return holdReleased
	case h.state == captured:
		return holdCaptured
	case o.Moves[h.content.Whose] >= 0 || -o.Moves[h.content.Whose] > h.content.Minor:
		return invalid
	default:
		return done
	}
}

func (m *model) reserve(o op, given answer) (answer, *model) {
	if first := m.holds.at(o.ID); first.time != 0 {
		if first.content != o {
			return answer{Code: conflict}, m
		}
		return answer{Code: done, Time: first.time, State: first.state}, m
	}
	if m.balance[o.Whose]-m.held[o.Whose] < o.Minor {
		return answer{Code: insufficient}, m
	}
	if given.Time == 0 {
		given.Time = -1
	}
	next := *m
	next.held[o.Whose] += o.Minor
	next.setHold(o.ID, held{o, given.Time, active})
	return answer{Code: done, Time: given.Time, State: active}, &next
}

func (m *model) release(o op) (answer, *model) {
	switch hold := m.holds.at(o.ID); {
	case hold.time == 0:
		return answer{Code: noHold}, m
	case hold.state == captured:
		return answer{Code: holdCaptured}, m
	case hold.state == released:
		return answer{Code: done, Time: hold.time, State: released}, m
	default:
		next := *m
		next.held[hold.content.Whose] -= hold.content.Minor
		next.setHold(o.ID, held{hold.content, hold.time, released})
		return answer{Code: done, Time: hold.time, State: released}, &next
	}
}

// seed is the one of the hashes of this process.
var seed = maphash.MakeSeed()

// The hash of a table is the sum of those of its entries, so that a change costs one of them.
func (m *model) setTransfer(i int, p posted) {
	m.hash ^= maphash.Comparable(seed, p)
	m.transfers.set(i, p)
}

func (m *model) setHold(i int, h held) {
	if old := m.holds.at(i); old.time != 0 {
		m.hash ^= maphash.Comparable(seed, old)
	}
	m.hash ^= maphash.Comparable(seed, h)
	m.holds.set(i, h)
}

func (m *model) equal(other *model) bool {
	return m == other || m.hash == other.hash && m.balance == other.balance && m.held == other.held &&
		m.transfers.equal(&other.transfers) && m.holds.equal(&other.holds)
}

// agrees reports whether an answer is what the model says.
func (a answer) agrees(want answer) bool {
	if a.Code != want.Code {
		return false
	}
	if a.Code != done {
		return true
	}
	// A hold that an unanswered attempt made may have ended before the attempt that was answered; each of them is a moment of its own, and
	// the operation cannot be at both. What became of the hold is seen by the other operations.
	if a.Attempts > 1 {
		a.State = want.State
	}
	return a.Time == want.Time && a.State == want.State && a.Balance == want.Balance && a.Held == want.Held
}

// as is what porcupine passes on, which is what it was given.
func as[T any](v any) T {
	t, ok := v.(T)
	if !ok {
		panic(fmt.Sprintf("porcupine passed a %T", v))
	}
	return t
}

// linear is the model as porcupine takes it.
func linear() porcupine.Model {
	return porcupine.Model{
		Partition: func(history []porcupine.Operation) [][]porcupine.Operation {
			groups := make(map[int]int)
			var parts [][]porcupine.Operation
			for _, o := range history {
				group := as[op](o.Input).Group
				at, ok := groups[group]
				if !ok {
					at = len(parts)
					groups[group] = at
					parts = append(parts, nil)
				}
				parts[at] = append(parts[at], o)
			}
			return parts
		},
		Init: func() any { return new(model) },
		Step: func(state, input, output any) (bool, any) {
			want, next := as[*model](state).step(as[op](input), as[answer](output))
			return as[answer](output).agrees(want), next
		},
		Equal: func(a, b any) bool { return as[*model](a).equal(as[*model](b)) },
		Hash: func(state any) uint64 {
			m := as[*model](state)
			return m.hash ^ maphash.Comparable(seed, [2]moves{m.balance, m.held})
		},
		DescribeOperation: func(input, output any) string { return fmt.Sprintf("%v: %v", input, output) },
		DescribeState: func(state any) string {
			m := as[*model](state)
			return fmt.Sprintf("%v, %v held", m.balance, m.held)
		},
	}
}
