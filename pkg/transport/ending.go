package transport

import (
	"errors"
	"fmt"
	"time"

	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"

	"github.com/countersign-mesh/countersign/pkg/identity"
)

// Why a connection is not made.
var (
	errClosed       = errors.New("the registry is closed")
	errNotAccepting = errors.New("no connections are accepted any more")
)

// Reason says why a connection was cut.
type Reason string

// The reasons.
const (
	// Expired: the peer's SVID has expired.
	Expired Reason = "expired"
	// Untrusted: no bundle verifies the peer's chain any more.
	Untrusted Reason = "untrusted"
	// Revoked: the peer's ID, its SVID or its authority is on a revocation list.
	Revoked Reason = "revoked"
	// OwnIdentity: this process's own identity is gone. Each connection asserts it.
	OwnIdentity Reason = "own-identity"
)

// reasons lists all of them.
func reasons() []Reason { return []Reason{Expired, Untrusted, Revoked, OwnIdentity} }

// linger is how long the socket of an inbound connection stays open after it was cut. Nothing that arrives on it is accepted any more; the
// calls that were in flight get their status out. With what it takes to notice, that is well within a second.
const linger = 500 * time.Millisecond

// ending is the end of a connection.
type ending struct {
	reason Reason // empty when the connection was not cut
	detail error
	// status is what its calls end with. Its text is the same for all: what is on a list is no business of whom it is about.
	status error
}

var (
	errGone    = status.Error(codes.Unauthenticated, "the identity of the connection is no longer valid")
	errOwnGone = status.Error(codes.Unavailable, "this process has no valid identity at the moment")
	errRenewed = status.Error(codes.Unavailable, "the connection is due for renewal; come again")
	errEnded   = status.Error(codes.Unavailable, "the connection was closed")
)

// renewed is the end of a connection that has only reached its age.
func renewed() *ending { return &ending{detail: errors.New("due for renewal"), status: errRenewed} }

// expired is the end of a connection whose peer's SVID has expired.
func expired() *ending {
	return &ending{reason: Expired, detail: errors.New("the peer's SVID has expired"), status: errGone}
}

// ownGone is the end of a connection that this process has no identity for any more.
func ownGone(err error) *ending {
	return &ending{reason: OwnIdentity, detail: fmt.Errorf("own identity: %w", err), status: errOwnGone}
}

// refuted is the end of a connection whose peer verifies no more.
func refuted(err error) *ending {
	e := &ending{reason: Untrusted, detail: fmt.Errorf("the peer verifies no more: %w", err), status: errGone}
	if _, ok := errors.AsType[*identity.RevokedError](err); ok {
		e.reason = Revoked
	} else if broken, ok := errors.AsType[*identity.RuleError](err); ok && broken.Rule == "validity" {
		e.reason = Expired
	}
	return e
}

// closing is the end of a connection with its registry.
func closing() *ending { return &ending{detail: errClosed, status: errEnded} }
