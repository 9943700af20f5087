package overload

import (
	"hash/maphash"
	"sync/atomic"
	"time"
)

const (
	// maxSlots keeps numbers that are no limit apart from those that are. Each call has a goroutine.
	maxSlots = 1_000_000
	// peerCounts is how many counts the peers of a server share among themselves: a peer's is chosen by a hash of its ID. Two that meet in one have one
	// share between them, which is less than they might have and no harm; of ten peers that happens to some once in a hundred servers. That
	// takes a fixed amount of memory whoever comes, and no lock.
	peerCounts = 4096
	// sampled is how many calls one is timed of.
	sampled = 16
	// recent is how much of the estimate a new time makes up: one in so many.
	recent = 8
)

// slots are the places in handlers for calls of one kind. They are safe for concurrent use.
type slots struct {
	kind         string
	limit, share int32
	peers        maphash.Seed
	byPeer       [peerCounts]atomic.Int32
	refused      [reasons]atomic.Uint64

	_     [64]byte // what is written at each call has a cache line of its own
	taken atomic.Int32
	// freed is how many were given back; held estimates for how long one is held, in nanoseconds.
	freed atomic.Uint64
	held  atomic.Int64
	_     [64]byte

	pace pace
}

// allot sets the number of slots. One peer gets three quarters of them, whether others are there or not: slots that one could have while it is
// alone are not free when another one comes. In a bank, what keeps the payments in flight going then always finds room beside a
// flood of new ones.
func (s *slots) allot(n int) {
	s.limit = int32(n) //nolint:gosec // at most maxSlots
	s.share = s.limit - s.limit/4
	s.peers = maphash.MakeSeed()
}

// visit is a slot that is held.
type visit struct {
	slots *slots
	peer  *atomic.Int32
	began time.Time
}

// take takes a slot for a peer, if there is one.
func (s *slots) take(peer string, now time.Time) (visit, reason) {
	count := &s.byPeer[maphash.String(s.peers, peer)%peerCounts]
	if !below(count, s.share) {
		if s.taken.Load() >= s.limit {
			return visit{}, full // that it has its share is not what keeps it out
		}
		return visit{}, share
	}
	if !below(&s.taken, s.limit) {
		count.Add(-1)
		return visit{}, full
	}
	return visit{s, count, now}, admitted
}

// below adds one to n unless it is limit. A refused call writes nothing, so that a flood of them does not slow down those that go on.
func below(n *atomic.Int32, limit int32) bool {
	for {
		now := n.Load()
		if now >= limit {
			return false
		}
		if n.CompareAndSwap(now, now+1) {
			return true
		}
	}
}

// release gives the slot back.
func (v visit) release() {
	v.peer.Add(-1)
	v.slots.taken.Add(-1)
	if n := v.slots.freed.Add(1); n%sampled == 1 {
		v.slots.time(time.Since(v.began))
	}
}

// time takes a call's time into the estimate. Of two at the same moment one may be lost.
func (s *slots) time(took time.Duration) {
	if before := s.held.Load(); before > 0 {
		took = time.Duration(before) + (took-time.Duration(before))/recent
	}
	s.held.Store(max(1, int64(took)))
}

// interval is how often a slot comes free when all are held: each is held for so long, and there are so many (Little's law).
func (s *slots) interval() time.Duration { return time.Duration(s.held.Load() / int64(s.limit)) }
