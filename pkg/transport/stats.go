package transport

import (
	"context"
	"crypto/tls"
	"errors"
	"io"
	"maps"
	"net"
	"os"
	"slices"
	"syscall"
	"time"

	"github.com/countersign-mesh/countersign/pkg/identity"
)

// maxCuts is how many cuts a Registry remembers.
const maxCuts = 1000

// Cut is a connection that was cut.
type Cut struct {
	// Conn is the connection as it was then. Of its peer's chain only the authority is left.
	Conn
	Reason Reason
	// Detail is the reason in words. It is for operators.
	Detail string
	Time   time.Time
}

// Failure is a kind of handshake that failed.
type Failure struct {
	Direction Direction
	// Reason is the name of the rule that the peer broke (identity.RuleNames), or one of the others that Stats lists.
	Reason string
}

// CutKind is a kind of cut.
type CutKind struct {
	Direction Direction
	Reason    Reason
}

// Stats counts what has happened in a Registry since it was made. Every kind that there is has an entry, also when it is zero.
type Stats struct {
	// Handshakes are those that succeeded.
	Handshakes map[Direction]uint64
	// Failures are the handshakes that failed. Those that AbortHandshakes ended are left out.
	Failures map[Failure]uint64
	Cuts     map[CutKind]uint64
	// Renewed counts the connections that were renewed: the inbound ones whose client was asked to come again, and the outbound ones that were
	// left because the own authority has changed.
	Renewed uint64
}

// Why a handshake fails, beside the rules that a certificate can break.
const (
	failedTimeout  = "timeout"
	failedOwn      = "own-identity"
	failedServer   = "wrong-server"
	failedSilent   = "closed-by-peer"
	failedByPeer   = "refused-by-peer"
	failedNotTLS   = "not-tls"
	failedTLS      = "tls"
	failedCanceled = "canceled"
)

// failures lists every reason that a handshake can fail for.
func failures() []string {
	others := []string{failedTimeout, failedOwn, failedServer, failedSilent, failedByPeer, failedNotTLS, failedTLS, failedCanceled}
	return append(identity.RuleNames(), others...)
}

// failureOf returns the reason that err stands for.
func failureOf(err error) string {
	if broken, ok := errors.AsType[*identity.RuleError](err); ok {
		return broken.Rule
	}
	if _, ok := errors.AsType[*wrongServerError](err); ok {
		return failedServer
	}
	if _, ok := errors.AsType[tls.RecordHeaderError](err); ok {
		return failedNotTLS
	}
	if network, ok := errors.AsType[*net.OpError](err); ok && network.Op == "remote error" { // so crypto/tls marks an alert
		return failedByPeer
	}
	switch {
	case errors.Is(err, identity.ErrExpired), errors.Is(err, identity.ErrWithdrawn), errors.Is(err, identity.ErrClosed):
		return failedOwn
	case errors.Is(err, errSlow), errors.Is(err, os.ErrDeadlineExceeded), errors.Is(err, context.DeadlineExceeded):
		return failedTimeout
	case errors.Is(err, context.Canceled):
		return failedCanceled
	case errors.Is(err, io.EOF), errors.Is(err, io.ErrUnexpectedEOF), errors.Is(err, net.ErrClosed),
		errors.Is(err, syscall.ECONNRESET), errors.Is(err, syscall.EPIPE):
		return failedSilent
	}
	return failedTLS
}

// tally is what a Registry counts. It is under the Registry's lock.
type tally struct {
	handshakes map[Direction]uint64
	failures   map[Failure]uint64
	cuts       map[CutKind]uint64
	renewed    uint64
	last       []Cut // the oldest first; twice as many as are remembered before the older half goes
}

func newTally() tally {
	t := tally{handshakes: map[Direction]uint64{}, failures: map[Failure]uint64{}, cuts: map[CutKind]uint64{}}
	for _, direction := range []Direction{Inbound, Outbound} {
		t.handshakes[direction] = 0
		for _, reason := range failures() {
			t.failures[Failure{direction, reason}] = 0
		}
		for _, reason := range reasons() {
			t.cuts[CutKind{direction, reason}] = 0
		}
	}
	return t
}

// Stats returns the counts.
func (r *Registry) Stats() Stats {
	r.mu.Lock()
	defer r.mu.Unlock()
	return Stats{
		Handshakes: maps.Clone(r.tally.handshakes),
		Failures:   maps.Clone(r.tally.failures),
		Cuts:       maps.Clone(r.tally.cuts),
		Renewed:    r.tally.renewed,
	}
}

// succeeded counts a handshake.
func (r *Registry) succeeded(direction Direction) {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.tally.handshakes[direction]++
}

// failed counts a handshake.
func (r *Registry) failed(direction Direction, err error) {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.tally.failures[Failure{direction, failureOf(err)}]++
}

// Cuts returns the last thousand connections that were cut, the latest first.
func (r *Registry) Cuts() []Cut {
	r.mu.Lock()
	cuts := slices.Clone(r.tally.last[max(0, len(r.tally.last)-maxCuts):])
	r.mu.Unlock()
	slices.Reverse(cuts)
	return cuts
}

// cut takes note of a cut.
func (t *tally) cut(c Cut) {
	// What is remembered of a peer must not be as large as the peer likes.
	c.Peer = &identity.Peer{ID: c.Peer.ID, Serial: c.Peer.Serial, NotAfter: c.Peer.NotAfter, Chain: slices.Clone(c.Peer.Chain[len(c.Peer.Chain)-1:])}
	t.cuts[CutKind{c.Direction, c.Reason}]++
	if len(t.last) == 2*maxCuts {
		t.last = slices.Delete(t.last, 0, maxCuts)
	}
	t.last = append(t.last, c)
}
