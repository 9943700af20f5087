package register

import (
	"context"
	"strings"
)

// Freezes keeps which accounts are frozen, and who froze and unfroze them when and why.
type Freezes interface {
	// Freeze freezes an account and returns it as it then is; a frozen one stays as it is. The error is ErrNotFound, ErrClosed, or ErrBusy while
	// an attempt to close it is under way that is not overdue at the intervention's time. One that is overdue is given up.
	Freeze(ctx context.Context, accountID string, by Intervention) (Account, error)
	// Unfreeze unfreezes an account and returns it as it then is; one that is not frozen stays as it is. The error is ErrNotFound or ErrClosed.
	Unfreeze(ctx context.Context, accountID string, by Intervention) (Account, error)
}

// Freeze takes an account out of use until it is unfrozen, for an actor's reason. Freezing a frozen account changes nothing. The error is ErrNotFound,
// ErrClosed, or ErrBusy while it is being closed.
func (r *Register) Freeze(ctx context.Context, accountID, actor, reason string) (Account, error) {
	return r.intervene(ctx, r.freezes.Freeze, accountID, actor, reason)
}

// Unfreeze makes a frozen account usable again, for an actor's reason. Unfreezing one that is not frozen changes nothing. The error is ErrNotFound
// or ErrClosed.
func (r *Register) Unfreeze(ctx context.Context, accountID, actor, reason string) (Account, error) {
	return r.intervene(ctx, r.freezes.Unfreeze, accountID, actor, reason)
}

func (r *Register) intervene(
	ctx context.Context, do func(context.Context, string, Intervention) (Account, error), accountID, actor, reason string,
) (Account, error) {
	if strings.Contains(reason, "\x00") {
		return Account{}, ErrNUL
	}
	return do(ctx, accountID, Intervention{Actor: actor, Reason: reason, Time: r.now()})
}
