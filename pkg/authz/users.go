package authz

import (
	"context"
	"errors"
	"time"

	"github.com/countersign-mesh/countersign/pkg/policy"
)

// Users finds out for which user a call is made; a txntoken.Verifier is one. It is asked once a call, and only where a rule for its peer and method that may
// apply asks for a user. It is asked by the goroutine of the call, not by the one that reads the connection, so it may wait as long as ctx lives.
type Users interface {
	// User verifies the token that the call with the context ctx carries. It returns the context that the handler gets, which is derived from ctx. Its error is why
	// there is no user: policy.ErrNoUser for a call without a token, and one that wraps ErrUnavailable when nobody can tell now. It is logged and recorded, so it must
	// not have the token in it.
	User(ctx context.Context) (context.Context, *policy.User, error)
}

// ErrUnavailable is wrapped by an error of Users that is not the token's fault, such as that the keys cannot be had. The call is denied like one without a
// user, and its caller told UNAVAILABLE, so that it may try again.
var ErrUnavailable = errors.New("users cannot be verified now")

var (
	errNoUsers = errors.New("this server verifies no users' tokens")
	errExpired = errors.New("the user's token has expired since the stream was opened")
)

// WithUsers sets who verifies the tokens of users. Without, a rule with a user allows nothing, and denies.
func WithUsers(u Users) GuardOption { return func(g *Guard) { g.users = u } }

// found is the user of a call, or why it has none. It is zero while nobody has looked.
type found struct {
	user *policy.User
	err  error
	// enforced is whether more than a rule in shadow asked.
	enforced bool
}

// find looks for the user of a call. It returns the context that the handler is to get.
func (g *Guard) find(ctx context.Context) (context.Context, found) {
	if g.users == nil {
		return ctx, found{err: errNoUsers}
	}
	with, user, err := g.users.User(ctx)
	switch {
	case err != nil:
		return ctx, found{err: err}
	case user == nil:
		return ctx, found{err: policy.ErrNoUser}
	}
	return with, found{user: user}
}

// streamUser is the user of a stream, who is looked for once in its life.
type streamUser struct {
	found
	// policy is the one that was asked last while the token was good.
	policy *policy.Policy
	// was is the user, once the token was found to have expired.
	was *policy.User
	// late is whether the user was found when the handler had its context already.
	late bool
}

// under returns the user as a policy is to see it. A token that was good when it was first looked at under a policy stays so under that one, for a stream may be open for
// longer than a token lives; a policy that came into force after it had expired was never shown a good one.
func (u *streamUser) under(p *policy.Policy, now time.Time) found {
	if u.user != nil && u.policy != p {
		if u.policy = p; !u.user.Expires.IsZero() && !now.Before(u.user.Expires) {
			u.was, u.found = u.user, found{err: errExpired}
		}
	}
	return u.found
}

// outlived reports whether a decision denies a stream for no other reason than that it was open for longer than its token lived.
func (u *streamUser) outlived(d decision) bool {
	if d.verdict.Allowed || u.was == nil {
		return false
	}
	d.user = found{user: u.was}
	d = d.on(d.request)
	return d.verdict.Allowed || d.verdict.Undecided
}

// unseen reports whether a decision allows a stream for a user of whom its handler does not know.
func (u *streamUser) unseen(d decision) bool {
	return u.late && d.verdict.Allowed && d.verdict.Rule.User != ""
}
