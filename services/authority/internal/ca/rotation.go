package ca

import (
	"slices"
	"time"
)

// minPublished is the least time that a key is published before it signs, as long as another key can sign meanwhile.
const minPublished = 2 * time.Second

// kind says what a key signs.
type kind string

const (
	kindX509 kind = "x509"
	kindJWT  kind = "jwt"
)

// ring is all the keys of one kind, oldest first. It is immutable. All of it is published.
type ring []signer

// rings is the whole state of an authority.
type rings struct {
	X509 ring
	JWT  ring
}

func x509Ring(r *rings) *ring { return &r.X509 }
func jwtRing(r *rings) *ring  { return &r.JWT }

// find returns the key in a phase; a ring has at most one prepared and one active.
func (r ring) find(p phase) (signer, bool) {
	i := slices.IndexFunc(r, func(s signer) bool { return s.Phase == p })
	if i < 0 {
		return signer{}, false
	}
	return r[i], true
}

// usable returns the active key when it can sign now.
func (r ring) usable(now time.Time) (signer, bool) {
	active, ok := r.find(phaseActive)
	return active, ok && active.valid(now)
}

// with returns the ring with the key of that ID replaced, or added.
func (r ring) with(changed signer) ring {
	next := slices.Clone(r)
	if i := slices.IndexFunc(next, func(s signer) bool { return s.ID == changed.ID }); i >= 0 {
		next[i] = changed
		return next
	}
	return append(next, changed)
}

// sameKeys reports whether two rings publish the same.
func sameKeys(a, b ring) bool {
	return slices.EqualFunc(a, b, func(x, y signer) bool { return x.ID == y.ID })
}

// change is one step of one key, for the log.
type change struct {
	kind   kind
	what   string
	signer signer
}

// schedule decides which steps are due at one moment.
type schedule struct {
	now time.Time
	// started is when this process began to publish. Time before that does not count: nobody could fetch a bundle.
	started time.Time
	// ttl is the usual life of what is signed, wait how long a key is published before it signs.
	ttl  time.Duration
	wait time.Duration
	kind kind
	mint func() (signer, error)

	changes []change
}

// step returns the ring after all steps that are due. It does no more than one of preparing and activating, except where nothing
// can sign: what is prepared in one step is published before it is used in a later one.
func (s *schedule) step(r ring) (ring, []change, error) {
	s.changes = nil
	r = s.drop(r)
	active, ok := r.usable(s.now)
	if !ok {
		r, err := s.found(r)
		return r, s.changes, err
	}
	prepared, ok := r.find(phasePrepared)
	switch {
	case !ok && s.duePrepare(active):
		made, err := s.mint()
		if err != nil {
			return nil, nil, err
		}
		s.note("prepared", made)
		r = r.with(made)
	case ok && prepared.valid(s.now) && s.dueActivate(active, prepared):
		r = s.activate(r, prepared)
	}
	return r, s.changes, nil
}

// drop takes out what has nothing unexpired left.
func (s *schedule) drop(r ring) ring {
	return slices.DeleteFunc(slices.Clone(r), func(key signer) bool {
		gone := !s.now.Before(key.NotAfter) || key.Phase == phaseOld && !s.now.Before(key.leaves())
		if gone {
			s.note("removed", key)
		}
		return gone
	})
}

// found makes a key active at once, because none is: at the very first start, after an outage longer than the keys' lives, or after
// the clock was set back before them. Nothing valid is in use then that a workload without the new bundle would need.
func (s *schedule) found(r ring) (ring, error) {
	next, ok := r.find(phasePrepared)
	if !ok || !next.valid(s.now) {
		made, err := s.mint()
		if err != nil {
			return nil, err
		}
		next = made
		s.note("prepared", next)
	}
	return s.activate(r, next), nil
}

// activate makes next the active key and the one before it old. A second prepared key, which the clock has made unusable, goes:
// it has signed nothing.
func (s *schedule) activate(r ring, next signer) ring {
	if former, ok := r.find(phaseActive); ok {
		former.Phase, former.Retired = phaseOld, s.now
		s.note("retired", former)
		r = r.with(former)
	}
	next.Phase, next.Activated = phaseActive, s.now
	s.note("activated", next)
	r = r.with(next)
	return slices.DeleteFunc(r, func(key signer) bool { return key.Phase == phasePrepared })
}

// duePrepare is at half of the active key's life.
func (s *schedule) duePrepare(active signer) bool {
	life := active.NotAfter.Sub(active.Prepared)
	return !s.now.Before(active.NotAfter.Add(-life / 2))
}

// dueActivate is when the active key could soon no longer give a whole life to what it signs, and the next one was published
// for long enough. When the active key is about to end the next one does not wait: a short notice is better than none.
func (s *schedule) dueActivate(active, prepared signer) bool {
	left := active.NotAfter.Sub(s.now)
	if left <= s.ttl/2 {
		return true
	}
	life := active.NotAfter.Sub(active.Prepared)
	published := prepared.Prepared
	if published.Before(s.started) {
		published = s.started
	}
	return left <= max(life/6, s.ttl+s.ttl/4) && s.now.Sub(published) >= s.wait
}

func (s *schedule) note(what string, key signer) {
	s.changes = append(s.changes, change{kind: s.kind, what: what, signer: key})
}
