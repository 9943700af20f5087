package transport

import (
	"context"
	"errors"
	"fmt"
	"time"
)

// Why a connection is cut, or not made.
var (
	errClosed       = errors.New("the registry is closed")
	errExpired      = errors.New("the peer's SVID has expired")
	errNotAccepting = errors.New("no connections are accepted any more")
)

// look is how long the watch sleeps at most. A timer does not see a machine sleep or a clock jump; this bounds how late it is.
const look = time.Second

// watch cuts connections, until ctx ends: at a change of the own identity or the bundles those that verify no more, and each at its
// peer's expiry.
func (r *Registry) watch(ctx context.Context) {
	timer := time.NewTimer(0)
	defer timer.Stop()
	for {
		changed := r.id.Changed()
		r.sweep()
		for same := true; same; {
			timer.Reset(r.cutExpired())
			select {
			case <-ctx.Done():
				return
			case <-changed:
				same = false
			case <-timer.C:
			case <-r.wake:
			}
		}
	}
}

// sweep verifies every connection anew.
func (r *Registry) sweep() {
	r.sweeps.Add(1)
	for _, c := range r.live() {
		if err := r.recheck(c); err != nil {
			r.cut(c, err)
		}
	}
}

// recheck fails when a connection may not go on: its peer verifies no more, or this process's own identity is gone, which
// each connection asserts.
func (r *Registry) recheck(c *conn) error {
	if _, err := r.id.GetX509SVID(); err != nil {
		return fmt.Errorf("own identity: %w", err)
	}
	peer, err := r.opts.verifier.Reverify(r.verified(c))
	if err != nil {
		return fmt.Errorf("the peer verifies no more: %w", err)
	}
	r.keep(c, peer)
	return nil
}

// cutExpired cuts the connections whose peer has expired and returns how long to wait until the next one.
func (r *Registry) cutExpired() time.Duration {
	for {
		now := r.opts.now()
		r.mu.Lock()
		if len(r.queue) == 0 {
			r.mu.Unlock()
			return look
		}
		c := r.queue[0]
		left := c.notAfter.Sub(now)
		r.mu.Unlock()
		if left > 0 {
			return min(left, look)
		}
		r.cut(c, errExpired)
	}
}

// cut ends a connection and says why.
func (r *Registry) cut(c *conn, why error) {
	if c.cut(why) {
		r.opts.log.Warn("connection cut", "peer", c.info.peer.ID.String(), "serial", c.info.peer.Serial,
			"direction", c.direction.String(), "remote", c.RemoteAddr().String(), "reason", why)
	}
}
