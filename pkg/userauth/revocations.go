package userauth

import (
	"sync"
	"time"
)

// Revocation names what is not to be believed any more, though its signature is good. Exactly one of TokenID, Session and CertSerial is set.
type Revocation struct {
	// TokenID is one access token, by its jti.
	TokenID string
	// Session is every token of one log-in, by its sid.
	Session string
	// CertSerial is a device, by the serial number of its certificate in lower-case hexadecimal.
	CertSerial string
	// Until is when nobody would believe it anyway, so that it need not be remembered longer.
	Until time.Time
}

// Revocations is the set of what is revoked now, in memory. It is safe for concurrent use. The zero value is an empty set.
//
// A revocation that names nothing revokes nothing: an empty name is no token's.
type Revocations struct {
	mu      sync.RWMutex
	until   map[subject]time.Time
	changed chan struct{}
	// sweepAt is how many there must be for those that are over to be looked for.
	sweepAt int
}

// subject is what is revoked. Names of different kinds never meet.
type subject struct {
	kind kind
	name string
}

type kind uint8

const (
	token kind = iota + 1
	session
	certificate
)

// minSweep is how many revocations are kept before it is worth while to look for those that are over.
const minSweep = 128

// Replace makes a snapshot the whole set.
func (r *Revocations) Replace(snapshot []Revocation) {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.until = nil
	r.sweepAt = 0
	r.add(snapshot)
}

// Add puts more into the set. What was in it stays, each until its time.
func (r *Revocations) Add(more ...Revocation) {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.add(more)
}

// Changed returns a channel that is closed at the next Replace or Add. One who takes the channel first and looks at the set then misses nothing.
func (r *Revocations) Changed() <-chan struct{} {
	r.mu.Lock()
	defer r.mu.Unlock()
	if r.changed == nil {
		r.changed = make(chan struct{})
	}
	return r.changed
}

// Certificate reports whether a device is revoked, by the serial number of its certificate in lower-case hexadecimal.
func (r *Revocations) Certificate(serial string) bool {
	r.mu.RLock()
	defer r.mu.RUnlock()
	return r.has(certificate, serial)
}

// check returns what is revoked of a principal; nothing for one that is good, or where r is nil. It allocates nothing.
func (r *Revocations) check(p *Principal) (what string, revoked bool) {
	if r == nil {
		return "", false
	}
	r.mu.RLock()
	defer r.mu.RUnlock()
	switch {
	case r.has(token, p.TokenID):
		return "token", true
	case r.has(session, p.Session):
		return "session", true
	case r.has(certificate, p.CertSerial):
		return "device", true
	default:
		return "", false
	}
}

// has says whether a name is in the set. What is over may still be in it: it does no harm, because nobody believes it anyway.
func (r *Revocations) has(k kind, name string) bool {
	_, ok := r.until[subject{k, name}]
	return ok
}

// add adds, tells of it, and sweeps if there is much. The caller holds the lock.
func (r *Revocations) add(more []Revocation) {
	if r.until == nil {
		r.until = make(map[subject]time.Time, len(more))
	}
	for _, each := range more {
		r.put(subject{token, each.TokenID}, each.Until)
		r.put(subject{session, each.Session}, each.Until)
		r.put(subject{certificate, each.CertSerial}, each.Until)
	}
	if len(r.until) > max(r.sweepAt, minSweep) {
		r.sweep(time.Now())
	}
	if r.changed != nil {
		close(r.changed)
		r.changed = nil
	}
}

// put keeps the later of two times, so that no message can shorten a revocation.
func (r *Revocations) put(s subject, until time.Time) {
	if s.name == "" {
		return
	}
	if known, ok := r.until[s]; !ok || until.After(known) {
		r.until[s] = until
	}
}

// sweep forgets what has been over for longer than any leeway.
func (r *Revocations) sweep(now time.Time) {
	for s, until := range r.until {
		if now.After(until.Add(2 * maxLeeway)) {
			delete(r.until, s)
		}
	}
	r.sweepAt = 2 * len(r.until)
}
