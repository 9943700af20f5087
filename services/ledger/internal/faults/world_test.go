package faults_test

import (
	"math/rand/v2"
	"sync"
)

// world thinks of operations for one group of accounts: money comes in, moves, is held, and goes; what was asked is asked again, and IDs are
// used for other content. It is safe for concurrent use.
type world struct {
	group int

	mu        sync.Mutex
	random    *rand.Rand
	transfers []op // by ID, from 1
	holds     []op
}

func newWorld(group int, seed uint64) *world {
	return &world{group: group, random: rand.New(rand.NewPCG(seed, uint64(group)))}
}

// next returns an operation.
func (w *world) next() op {
	w.mu.Lock()
	defer w.mu.Unlock()
	switch n := w.random.IntN(100); {
	case n < 8 || len(w.transfers) < 3:
		return w.transfer(w.payment(bank, w.random.IntN(bank), 100))
	case n < 30:
		from := w.random.IntN(bank)
		return w.transfer(w.payment(from, (from+1+w.random.IntN(bank))%accounts, 60))
	case n < 40:
		return w.transfer(w.split(w.random.IntN(bank), 60))
	case n < 55 || len(w.holds) == 0:
		o := op{Kind: reserve, Group: w.group, ID: len(w.holds) + 1, Whose: w.random.IntN(bank), Minor: 1 + w.random.Int64N(50)}
		w.holds = append(w.holds, o)
		return o
	case n < 67:
		return w.capture()
	case n < 75:
		return op{Kind: release, Group: w.group, ID: w.recent(w.holds).ID + w.random.IntN(2)} // the one after it may not be there
	case n < 79:
		return w.recent(append(w.lately(w.transfers), w.lately(w.holds)...)) // again
	case n < 83:
		return w.another(w.recent(append(w.lately(w.transfers), w.lately(w.holds)...)))
	default:
		return op{Kind: balance, Group: w.group, Whose: w.random.IntN(accounts)}
	}
}

// transfer gives moves an ID.
func (w *world) transfer(m moves) op {
	o := op{Kind: post, Group: w.group, ID: len(w.transfers) + 1, Moves: m}
	w.transfers = append(w.transfers, o)
	return o
}

// payment has two postings.
func (w *world) payment(from, to int, most int64) (m moves) {
	amount := 1 + w.random.Int64N(most)
	m[from], m[to] = -amount, amount
	return m
}

// split has three: the bank takes a fee.
func (w *world) split(from int, most int64) moves {
	m := w.payment(from, (from+1+w.random.IntN(bank-1))%bank, most)
	m[from]--
	m[bank]++
	return m
}

// capture takes a hold, or a part of it, or too much of it.
func (w *world) capture() op {
	hold := w.recent(w.holds)
	m := w.payment(hold.Whose, (hold.Whose+1+w.random.IntN(bank))%accounts, hold.Minor+2)
	if w.random.IntN(3) == 0 {
		m = w.split(hold.Whose, hold.Minor)
	}
	o := w.transfer(m)
	o.Hold = hold.ID
	w.transfers[o.ID-1] = o
	return o
}

// another returns an operation of the same ID with other content.
func (w *world) another(o op) op {
	if o.Kind == reserve {
		o.Minor++
		return o
	}
	if from := w.random.IntN(2); o.Hold == 0 {
		o.Moves = w.payment(from, bank, 60)
	} else {
		o.Hold = 0
	}
	return o
}

// lately returns the last few operations.
func (w *world) lately(of []op) []op { return of[max(0, len(of)-8):len(of):len(of)] }

// recent returns one of the last few operations.
func (w *world) recent(of []op) op {
	of = w.lately(of)
	return of[w.random.IntN(len(of))]
}
