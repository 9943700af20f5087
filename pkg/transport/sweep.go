package transport

import (
	"container/heap"
	"slices"
	"time"
)

// look is how long attend sleeps at most. A timer does not see a machine sleep or a clock jump; this bounds how late it is.
const look = time.Second

// follow verifies every connection anew whenever something changed, until the Registry is closed.
func (r *Registry) follow(changed func() <-chan struct{}) {
	for r.watching.Err() == nil {
		next := changed()
		r.sweep()
		select {
		case <-next:
		case <-r.watching.Done():
		}
	}
}

// sweep verifies every connection anew. All that are bad are dead before the first of them is logged: a log that is slow keeps none alive.
func (r *Registry) sweep() {
	r.sweeps.Add(1)
	var ended []*conn
	for _, c := range r.live() {
		if e := r.recheck(c); e != nil && r.end(c, e) {
			ended = append(ended, c)
		}
	}
	r.reportAll(ended)
}

// recheck says why a connection may not go on, or nil: its peer verifies no more, or this process's own identity is gone, which
// each connection asserts.
func (r *Registry) recheck(c *conn) *ending {
	r.sweeping.Lock()
	defer r.sweeping.Unlock()
	own, err := r.id.GetX509SVID()
	if err != nil {
		return ownGone(err)
	}
	peer, err := r.verifier.Load().Reverify(r.verified(c))
	if err != nil {
		return refuted(err)
	}
	r.keep(c, peer, own)
	return nil
}

// attend does for each connection what is due, until the Registry is closed.
func (r *Registry) attend() {
	timer := time.NewTimer(0)
	defer timer.Stop()
	for {
		select {
		case <-r.watching.Done():
			return
		case <-timer.C:
		case <-r.wake:
		}
		timer.Reset(r.attendAll())
	}
}

// attendAll does what is due by now and returns how long to wait until there is something again.
func (r *Registry) attendAll() time.Duration {
	var ended []*conn
	defer func() {
		if len(ended) > 0 { // apart, as a log that is slow must keep nothing alive
			r.tasks.Go(func() { r.reportAll(ended) })
		}
	}()
	for {
		c, stage, wait := r.first()
		if c == nil {
			return min(wait, r.bury())
		}
		switch stage {
		case renew:
			// It can block for as long as the peer reads nothing.
			r.tasks.Go(func() { _ = c.renew() }) // it fails only when the connection is closed
		case retire:
			if r.end(c, renewed()) {
				ended = append(ended, c)
			}
		case expire:
			if r.expire(c) {
				ended = append(ended, c)
			}
		}
	}
}

// expire cuts a connection whose peer has expired by the path that it was verified by, unless another path holds. It reports whether it did.
func (r *Registry) expire(c *conn) bool {
	e := r.recheck(c)
	if e == nil && r.opts.now().Before(r.verified(c).NotAfter) {
		return false
	}
	if e == nil || e.reason == Expired { // in the very moment of its expiry a certificate is still valid
		e = expired()
	}
	return r.end(c, e)
}

// first returns the first connection that something is due for, and what; or none, and how long to wait. A connection that is renewed
// goes on to its next stage; the others end.
func (r *Registry) first() (c *conn, due stage, wait time.Duration) {
	r.mu.Lock()
	defer r.mu.Unlock()
	if len(r.queue) == 0 {
		return nil, 0, look
	}
	c = r.queue[0]
	now := r.opts.now()
	if left := c.due.Sub(now); left > 0 {
		return nil, 0, min(left, look)
	}
	due = c.next
	switch {
	case !now.Before(c.verified.NotAfter):
		due = expire // the machine slept over what comes before, or its clock was set
	case due == renew:
		c.next, c.due = retire, c.retireAt
		heap.Fix(&r.queue, c.index)
		if !c.renewed {
			c.renewed = true
			r.tally.renewed++
		}
	}
	return c, due, 0
}

// end marks a connection dead: the calls on it end, and no more are let in. Its socket is closed at once when it was dialled here, as nothing
// that such a server says is to be believed; and in a while when it was accepted, so that calls in flight get their status. It reports whether it was the
// first to do so; whoever was reports it.
func (r *Registry) end(c *conn, why *ending) bool {
	if !r.mark(c, why) {
		return false
	}
	c.info.end(why.status)
	if c.direction == Outbound {
		r.drop(c)
	}
	return true
}

func (r *Registry) reportAll(ended []*conn) {
	for _, c := range ended {
		r.report(c)
	}
}

// report logs the end of a connection, cuts at a bounded rate.
func (r *Registry) report(c *conn) {
	why := c.info.ended.Load()
	if why.reason == "" {
		r.opts.log.Debug("connection ended", "peer", c.info.peer.ID.String(), "direction", c.direction.String(), "detail", why.detail)
		return
	}
	if !r.cuts.limiter.Allow() {
		r.cuts.suppressed.Add(1)
		return
	}
	r.opts.log.Warn("connection cut", "peer", c.info.peer.ID.String(), "serial", c.info.peer.Serial, "direction", c.direction.String(),
		"remote", c.RemoteAddr().String(), "reason", string(why.reason), "detail", why.detail, "not_logged_before", r.cuts.suppressed.Swap(0))
}

// mark makes the end of a connection known. It reports whether it was the first to do so. Whoever sees the connection dead finds it counted.
func (r *Registry) mark(c *conn, why *ending) bool {
	r.mu.Lock()
	defer r.mu.Unlock()
	if c.index < 0 { // it was closed meanwhile, or has ended before
		return false
	}
	if why.reason != "" {
		r.tally.cut(Cut{Conn: c.snapshot(), Reason: why.reason, Detail: why.detail.Error(), Time: r.opts.now()})
	}
	c.info.ended.Store(why)
	heap.Remove(&r.queue, c.index)
	if c.direction == Inbound && !r.closed {
		r.dead = append(r.dead, dead{c, time.Now().Add(linger)})
		r.poke()
		if why.reason == Expired {
			// A peer that is good by a newer SVID calls elsewhere from now on. One that is not good by any gets its status here.
			r.tasks.Go(func() { _ = c.frames.goAway() }) // it fails only when the connection is closed
		}
	}
	return true
}

// dead is an inbound connection that has ended and whose socket is still open.
type dead struct {
	*conn
	// until is by the monotonic clock: a wall clock that is set back keeps no socket open.
	until time.Time
}

// bury closes the sockets of connections that ended a while ago, and returns how long to wait until there is another.
func (r *Registry) bury() time.Duration {
	now := time.Now()
	r.mu.Lock()
	n := slices.IndexFunc(r.dead, func(d dead) bool { return d.until.After(now) })
	wait := look
	if n < 0 {
		n = len(r.dead)
	} else {
		wait = min(look, r.dead[n].until.Sub(now))
	}
	due := slices.Clone(r.dead[:n])
	r.dead = slices.Delete(r.dead, 0, n)
	r.mu.Unlock()
	for _, d := range due {
		r.drop(d.conn)
	}
	return wait
}

// drop closes a connection that has ended and forgets it. It closes the socket and not the TLS connection, which would first wait for
// its peer to take an alert.
func (r *Registry) drop(c *conn) {
	r.remove(c)
	_ = c.raw.Close() // it fails only when it was closed before
}
