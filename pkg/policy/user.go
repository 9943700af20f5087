package policy

import (
	"errors"
	"fmt"
	"strings"
	"time"

	policyv1 "github.com/countersign-mesh/countersign/proto/gen/mesh/policy/v1"
)

// User is the customer for whom a call is made: what the call's verified transaction token says. It is not to be changed once it is part of a Call, and is
// safe for concurrent use then.
type User struct {
	// Subject is who (sub).
	Subject string
	// Scope is for what (scope). Of several, with spaces between, a rule asks for one (RFC 6749 §3.3).
	Scope string
	// Transaction is which transaction (txn).
	Transaction string
	// Requesters are the SPIFFE IDs of the workloads that asked for the token, the first one first (req_wl).
	Requesters []string
	// Context is what the user asked for (tctx).
	Context map[string]string
	// Expires is when the token ends; zero when it is not known to. A policy does not look at it: who verifies the token does, and who keeps a User for
	// longer than a moment.
	Expires time.Time
}

// UserOf returns the user that a message describes, as tables of tests and questions to a policy have it.
func UserOf(m *policyv1.User) *User {
	return &User{
		Subject: m.GetSubject(), Scope: m.GetScope(), Transaction: m.GetTransaction(), Requesters: m.GetRequesters(), Context: m.GetContext(),
	}
}

// ErrNoUser is why a call has no user that carries no token.
var ErrNoUser = errors.New("the call carries no user's token")

// has reports whether the token is for a scope.
func (u *User) has(scope string) bool {
	for rest, more := u.Scope, true; more; {
		var one string
		if one, rest, more = strings.Cut(rest, " "); one == scope {
			return true
		}
	}
	return false
}

// userUnknown reports whether nobody has looked whether the call has a user.
func (c Call) userUnknown() bool { return c.User == nil && c.UserErr == nil }

// holds reports whether a rule for the peer of a call applies to it: whether it has the user that the rule asks for, and the condition holds for it. The error says why
// that cannot be told; whoever asks must take the side that lets nobody in.
func (r *Rule) holds(call Call) (truth, error) {
	if r.User != "" {
		switch {
		case call.userUnknown():
			return unknown, nil
		case call.UserErr != nil:
			return no, fmt.Errorf("%w, and the rule asks for one for %s", call.UserErr, r.User)
		case !call.User.has(r.User):
			return no, nil
		}
	}
	holds, err := r.condition.holds(call)
	if err != nil {
		return no, fmt.Errorf("the condition could not be evaluated: %w", err)
	}
	return holds, nil
}

// message is the user as conditions see it. The parts are shared: conditions change nothing.
func (u *User) message() *policyv1.User {
	if u == nil {
		return &policyv1.User{}
	}
	return &policyv1.User{
		Subject: u.Subject, Scope: u.Scope, Transaction: u.Transaction, Requesters: u.Requesters, Context: u.Context,
	}
}
