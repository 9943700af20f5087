package identity

import (
	"crypto/x509"
	"errors"
	"fmt"
	"slices"
	"time"

	"github.com/spiffe/go-spiffe/v2/bundle/x509bundle"
)

// RuleError is the error of Verify: it says which rule a chain broke.
type RuleError struct {
	// Rule is the stable name of the rule, such as "leaf-not-ca".
	Rule string
	// Section is where the rule stands, such as "X509-SVID §5.2".
	Section string
	// Err says what was found.
	Err error
}

// Error implements error.
func (e *RuleError) Error() string { return fmt.Sprintf("%v (rule %s, %s)", e.Err, e.Rule, e.Section) }

// Unwrap returns what was found.
func (e *RuleError) Unwrap() error { return e.Err }

// Verifier decides whether a certificate chain is an X.509-SVID that may be believed. It is safe for concurrent use. The
// zero value believes nothing.
type Verifier struct {
	bundles     x509bundle.Source
	maxLifetime time.Duration
	now         func() time.Time
	revoked     []func() *Revocations
}

// VerifierOption changes a default of NewVerifier.
type VerifierOption func(*Verifier)

// WithMaxLifetime sets the longest life (NotBefore to NotAfter) that a peer's SVID may have; 24 h by default. Zero means
// any. A minute is added, because authorities date NotBefore a little back.
func WithMaxLifetime(d time.Duration) VerifierOption { return func(v *Verifier) { v.maxLifetime = d } }

// WithClock sets the clock; time.Now by default.
func WithClock(now func() time.Time) VerifierOption { return func(v *Verifier) { v.now = now } }

// WithRevocations refuses whom a list names, though the certificates be good: current returns the list in force, and is asked at
// each verification. Several lists add up.
func WithRevocations(current func() *Revocations) VerifierOption {
	return func(v *Verifier) { v.revoked = append(v.revoked, current) }
}

// NewVerifier returns a Verifier that trusts the authorities in bundles.
func NewVerifier(bundles x509bundle.Source, opts ...VerifierOption) *Verifier {
	v := &Verifier{bundles: bundles, maxLifetime: 24 * time.Hour, now: time.Now}
	for _, opt := range opts {
		opt(v)
	}
	return v
}

// Verify checks a chain, leaf first, against every rule of the X509-SVID standard that falls on a verifier. Its error is a
// *RuleError that names the rule that was broken.
//
// It does not check that the peer has the leaf's key: that is for the TLS handshake.
func (v *Verifier) Verify(chain []*x509.Certificate) (*Peer, error) {
	c := &candidate{chain: chain, now: v.clock()}
	for _, r := range rules() {
		if err := r.check(v, c); err != nil {
			return nil, &RuleError{Rule: r.name, Section: r.section, Err: err}
		}
	}
	if c.peer == nil {
		return nil, &RuleError{Rule: "path", Section: "X509-SVID §5.1", Err: errors.New("no path was found")}
	}
	return c.peer, nil
}

// Reverify decides whether a peer that was verified before may still be believed, now that the bundles have changed. It
// returns the peer as it verifies today.
//
// It costs no signature check while the authority at the end of the peer's chain is still in its trust domain's bundle: a
// signature that was good is good. The chain's expiry is in NotAfter.
func (v *Verifier) Reverify(p *Peer) (*Peer, error) {
	if p == nil || len(p.presented) == 0 {
		return nil, &RuleError{Rule: "chain-length", Section: "X509-SVID §5.1", Err: errors.New("the peer was never verified")}
	}
	if err := v.checkPeer(p); err != nil { // no other path would change that
		return nil, &RuleError{Rule: "not-revoked", Section: "policy of the verifier", Err: err}
	}
	c := &candidate{chain: p.presented, id: p.ID, now: v.clock()}
	if c.now.Before(p.NotAfter) && v.checkSignersOf(p.Chain) == nil && v.findBundle(c) == nil && v.checkBundle(c) == nil {
		authority := p.Chain[len(p.Chain)-1]
		for _, root := range c.roots {
			if root.Equal(authority) {
				return p, nil
			}
		}
	}
	return v.Verify(p.presented)
}

// With returns a Verifier like this one with more options.
func (v *Verifier) With(opts ...VerifierOption) *Verifier {
	other := *v
	other.revoked = slices.Clone(v.revoked)
	for _, opt := range opts {
		opt(&other)
	}
	return &other
}

func (v *Verifier) clock() time.Time {
	if v.now == nil {
		return time.Now()
	}
	return v.now()
}
