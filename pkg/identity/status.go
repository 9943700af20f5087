package identity

import (
	"cmp"
	"context"
	"fmt"
	"slices"
	"strings"
	"time"

	"github.com/spiffe/go-spiffe/v2/bundle/x509bundle"
	"github.com/spiffe/go-spiffe/v2/spiffeid"
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
	// Connected says whether the watch of the Workload API has been answered and is open. It stays true when the API withdraws the
	// identity and goes on.
	Connected bool
	// Failures counts the watches that could not be opened or ended, since New.
	Failures int
	// Serial, NotAfter and Lifetime are those of the last SVID received. NotAfter is the earliest expiry in its chain, Lifetime is
	// counted from the SVID's NotBefore to it.
	Serial   string
	NotAfter time.Time
	Lifetime time.Duration
	// Rotated is when that SVID was received; Rotations how many came after the first.
	Rotated   time.Time
	Rotations int
	// Authorities are those of every bundle at hand, by trust domain and expiry.
	Authorities []Authority
	// Err is why the state is not fresh, as the Workload API last had it; nil when it is.
	Err error
}

// Authority is a signing key that a bundle trusts.
type Authority struct {
	TrustDomain spiffeid.TrustDomain
	// SubjectKeyID is what AuthorityOf returns. It is unique within the trust domain.
	SubjectKeyID string
	// NotAfter is when the last certificate of the key expires.
	NotAfter time.Time
}

// Status returns a snapshot.
func (s *Source) Status() Status {
	s.mu.Lock()
	defer s.mu.Unlock()
	st := Status{
		State:       StateFresh,
		Connected:   s.connected,
		Failures:    s.failures,
		Serial:      s.held.serial,
		NotAfter:    s.held.notAfter,
		Lifetime:    s.held.notAfter.Sub(s.held.svid.Certificates[0].NotBefore),
		Rotated:     s.rotated,
		Rotations:   s.rotations,
		Authorities: slices.Clone(s.held.authorities),
		Err:         s.lastErr,
	}
	switch {
	case s.closed:
		st.State, st.Err = StateWithdrawn, ErrClosed
	case s.withdrawn:
		st.State = StateWithdrawn
	case s.expired():
		st.State = StateExpired
	case !s.connected:
		st.State = StateStale
	}
	return st
}

// String says in one line how the identity stands, until when its SVID is good and, when it is not fresh, why not.
func (st Status) String() string {
	expires := "expires"
	if st.State == StateExpired {
		expires = "expired"
	}
	line := fmt.Sprintf("%s: SVID %s %s %s", st.State, st.Serial, expires, stamp(st.NotAfter))
	if st.Err == nil {
		return line
	}
	// What the Workload API answers may have any form.
	return line + "; last answer: " + strings.Join(strings.Fields(st.Err.Error()), " ")
}

// Ready fails while there is no SVID that may be used, and says in one line why. A stale identity is ready: it is good until it
// expires. It has the form of a readiness check; ctx is not used.
func (s *Source) Ready(context.Context) error {
	if _, err := s.GetX509SVID(); err != nil {
		return fmt.Errorf("%w; %s", err, s.Status())
	}
	return nil
}

// authoritiesOf lists the authorities of bundles, by trust domain and expiry.
func authoritiesOf(bundles map[spiffeid.TrustDomain]*x509bundle.Bundle) []Authority {
	var list []Authority
	for td, bundle := range bundles {
		expiry := make(map[string]time.Time) // a key may have several certificates
		for _, cert := range bundle.X509Authorities() {
			key := AuthorityOf(cert)
			if cert.NotAfter.After(expiry[key]) {
				expiry[key] = cert.NotAfter
			}
		}
		for key, notAfter := range expiry {
			list = append(list, Authority{TrustDomain: td, SubjectKeyID: key, NotAfter: notAfter})
		}
	}
	slices.SortFunc(list, func(a, b Authority) int {
		return cmp.Or(a.TrustDomain.Compare(b.TrustDomain), a.NotAfter.Compare(b.NotAfter), cmp.Compare(a.SubjectKeyID, b.SubjectKeyID))
	})
	return list
}
