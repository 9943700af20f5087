package transport

import (
	"cmp"
	"container/heap"
	"slices"
	"time"

	"github.com/spiffe/go-spiffe/v2/svid/x509svid"

	"github.com/countersign-mesh/countersign/pkg/identity"
)

// Direction says which end of a connection this process is.
type Direction int

// The directions.
const (
	// Inbound connections were accepted here.
	Inbound Direction = iota + 1
	// Outbound connections were dialled here.
	Outbound
)

// String returns "inbound" or "outbound".
func (d Direction) String() string {
	if d == Inbound {
		return "inbound"
	}
	return "outbound"
}

// Conn is a snapshot of a connection.
type Conn struct {
	// Seq numbers the connections of a Registry in the order of their opening, from 1.
	Seq        uint64
	Peer       *identity.Peer
	Direction  Direction
	RemoteAddr string
	Opened     time.Time
	// Expires is when one end or the other cuts the connection at the latest: the earlier expiry of the two SVIDs that it was made with.
	Expires time.Time
	// Calls counts the calls that arrived on an inbound connection, and those that have ended on an outbound one.
	Calls uint64
}

// Conns returns the live connections, oldest first.
func (r *Registry) Conns() []Conn {
	live := r.live()
	slices.SortFunc(live, func(a, b *conn) int { return cmp.Compare(a.seq, b.seq) })
	r.mu.Lock()
	defer r.mu.Unlock()
	conns := make([]Conn, len(live))
	for i, c := range live {
		conns[i] = c.snapshot()
	}
	return conns
}

// snapshot returns the connection as it is now. The caller holds the registry's lock.
func (c *conn) snapshot() Conn {
	return Conn{
		Seq:        c.seq,
		Peer:       c.verified,
		Direction:  c.direction,
		RemoteAddr: c.RemoteAddr().String(),
		Opened:     c.opened,
		Expires:    c.expires(),
		Calls:      c.info.calls.Load(),
	}
}

// live returns the connections that have not ended.
func (r *Registry) live() []*conn {
	r.mu.Lock()
	defer r.mu.Unlock()
	return slices.Clone(r.queue)
}

// add takes a connection in. It fails when the peer is no longer good by now.
func (r *Registry) add(c *conn, sweep uint64) error {
	r.mu.Lock()
	if r.closed {
		r.mu.Unlock()
		return errClosed
	}
	r.opened++
	c.seq = r.opened
	heap.Push(&r.queue, c)
	if c.index == 0 {
		r.poke()
	}
	r.mu.Unlock()
	// A change of the bundles between the verification and this moment has not seen the connection: it counts the sweep first and lists
	// the connections then.
	if r.sweeps.Load() == sweep {
		return nil
	}
	if e := r.recheck(c); e != nil {
		return e.detail
	}
	return nil
}

// remove forgets a connection.
func (r *Registry) remove(c *conn) {
	r.mu.Lock()
	defer r.mu.Unlock()
	if c.index >= 0 {
		heap.Remove(&r.queue, c.index)
	}
}

// verified returns the peer of a connection as it verified last.
func (r *Registry) verified(c *conn) *identity.Peer {
	r.mu.Lock()
	defer r.mu.Unlock()
	return c.verified
}

// keep notes how the peer of a connection verified now, for the next time, and until when that holds; and whether the connection was made with
// another authority than that of the own SVID now.
func (r *Registry) keep(c *conn, peer *identity.Peer, own *x509svid.SVID) {
	r.mu.Lock()
	defer r.mu.Unlock()
	same := peer.NotAfter.Equal(c.verified.NotAfter)
	c.verified = peer
	if c.index < 0 {
		return
	}
	now := r.opts.now()
	if moved := c.move(own.Certificates, now); same && !moved {
		return
	}
	c.plan(now)
	heap.Fix(&r.queue, c.index)
	r.poke()
}

// poke wakes attend: something is due earlier than before.
func (r *Registry) poke() {
	select {
	case r.wake <- struct{}{}:
	default:
	}
}

// queue is a heap of connections by what is due.
type queue []*conn

func (q queue) Len() int           { return len(q) }
func (q queue) Less(i, j int) bool { return q[i].due.Before(q[j].due) }
func (q queue) Swap(i, j int) {
	q[i], q[j] = q[j], q[i]
	q[i].index, q[j].index = i, j
}

func (q *queue) Push(x any) {
	c := x.(*conn) //nolint:errcheck,forcetypeassert // nothing else is pushed
	c.index = len(*q)
	*q = append(*q, c)
}

func (q *queue) Pop() any {
	old := *q
	c := old[len(old)-1]
	old[len(old)-1] = nil
	*q = old[:len(old)-1]
	c.index = -1
	return c
}
