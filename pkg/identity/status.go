package identity

import (
	"fmt"
	"time"
)

// State is how well the process's own identity stands.
type State int

// The states of a Source.
const (
	// StateFresh: the SVID is valid and the Workload API is connected.
	StateFresh State = iota + 1
	// StateStale: the SVID is valid, the Workload API is away.
	StateStale
	// StateExpired: the SVID has expired; GetX509SVID fails.
	StateExpired
	// StateWithdrawn: the Workload API no longer grants the identity, or the Source is closed; GetX509SVID fails.
	StateWithdrawn
)

// String returns the state in lower case.
func (s State) String() string {
	switch s {
	case StateFresh:
		return "fresh"
	case StateStale:
		return "stale"
	case StateExpired:
		return "expired"
	case StateWithdrawn:
		return "withdrawn"
	}
	return fmt.Sprintf("state %d", int(s))
}

// Status is a snapshot of a Source.
type Status struct {
	State State
	// Serial and NotAfter are those of the last SVID received.
	Serial   string
	NotAfter time.Time
	// Rotated is when that SVID was received; Rotations how many came after the first.
	Rotated   time.Time
	Rotations int
	// Err is why the state is not fresh, as the Workload API last had it; nil when it is.
	Err error
}

// Status returns a snapshot.
func (s *Source) Status() Status {
	s.mu.Lock()
	defer s.mu.Unlock()
	st := Status{
		State:     StateFresh,
		Serial:    s.held.serial,
		NotAfter:  s.held.notAfter,
		Rotated:   s.rotated,
		Rotations: s.count,
		Err:       s.lastErr,
	}
	switch {
	case s.state == closed, s.state == withdrawn:
		st.State = StateWithdrawn
	case !s.opts.now().Before(s.held.notAfter):
		st.State = StateExpired
	case s.state == away:
		st.State = StateStale
	}
	return st
}
