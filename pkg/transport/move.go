package transport

import (
	"bytes"
	"crypto/x509"
	"math/rand/v2"
	"time"
)

const (
	// moveTime is how long it takes at most until every connection is renewed that was made with an SVID of another authority than the own one has
	// now. Somebody who takes an authority away in a hurry waits for that; and a server's clients, all of which shake hands anew, are not to come at once.
	moveTime = 10 * time.Second
	// moveGrace is how long calls in flight may take from then on. It is more than calls have as a deadline; what takes longer is a stream, which comes again.
	moveGrace = 30 * time.Second
)

// shown is the own SVID that a connection was made with. It is zero when the peer asked for none.
type shown struct {
	// chain is the SVID's, from the leaf up to, without, the authority in the bundle.
	chain []*x509.Certificate
	// until is when the first of them expires: the peer cuts the connection then.
	until time.Time
}

// move decides whether the connection is to be renewed soon because the own SVID is signed by another authority now: the peer will cut it when
// the bundle lacks the one that it was made with. It reports whether that is new. The caller holds the registry's lock.
//
// The authority that signed the peer's SVID does not count. The peer moves what is of its own: it alone knows that it has a better SVID to come again with. Two
// ends whose SVIDs are of different authorities of one trust domain are nothing out of the ordinary, and would else renew without end.
func (c *conn) move(own []*x509.Certificate, now time.Time) bool {
	if !c.moveBy.IsZero() || len(c.shown.chain) == 0 || sameAuthority(c.shown.chain, own) {
		return false
	}
	within := max(1, min(c.registry.opts.moveTime, c.expires().Sub(now)/10))
	c.moveBy = now.Round(0).Add(rand.N(within)) //nolint:gosec // it spreads load, it hides nothing
	return true
}

// planMove brings the renewal forward to moveBy, and the end of the calls that are left. left is what is left of the connection's SVIDs.
func (c *conn) planMove(left time.Duration) {
	if c.next != renew || c.moveBy.Before(c.due) {
		c.next, c.due = renew, c.moveBy
	}
	if end := c.moveBy.Add(min(c.registry.opts.moveGrace, left/4)); end.Before(c.retireAt) {
		c.retireAt = end
	}
}

// sameAuthority reports whether two chains of the same workload were signed by the same authorities: each certificate by one of the same name and with the
// same key. A root that was only signed anew, with its key, is the same; an intermediate below another root is not. It allocates nothing, since it is asked for
// every connection at every change.
func sameAuthority(a, b []*x509.Certificate) bool {
	if len(a) != len(b) {
		return false
	}
	for i := range a {
		if a[i] == b[i] {
			continue
		}
		if !bytes.Equal(a[i].RawIssuer, b[i].RawIssuer) || !bytes.Equal(a[i].AuthorityKeyId, b[i].AuthorityKeyId) {
			return false
		}
	}
	return true
}
