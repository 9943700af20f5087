package rollout

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"sync"
	"time"

	"github.com/countersign-mesh/countersign/cmd/countersign/internal/admin"
	"github.com/countersign-mesh/countersign/cmd/countersign/internal/dial"
	auditv1 "github.com/countersign-mesh/countersign/proto/gen/mesh/audit/v1"
)

// follow waits until the new policy, written at a moment, is in force everywhere, and watches it for as long as it is to be. Its error is why it
// must not stay.
func (r *Rollout) follow(ctx context.Context, at time.Time, decisions *trail, seen *tally) error {
	ctx, end := context.WithCancelCause(ctx)
	var watching sync.WaitGroup
	defer watching.Wait()
	defer end(nil)
	if decisions != nil {
		seen.from(decisions.after)
		watching.Go(func() { end(r.watch(ctx, decisions, seen, end)) })
	}
	if err := r.inForce(ctx, admin.Written{Version: r.New.Version()}); err != nil {
		return reason(ctx, fmt.Errorf("it is not in force everywhere:\n%w", err))
	}
	r.sayInForce("In force", r.New.Version(), at)
	if decisions == nil {
		return reason(ctx, nil)
	}
	r.Say("Watching for %v. More than %d calls that it denies and the old one let in put the old one back; so does Ctrl-C.\n", r.Watch, r.MaxDenials)
	wait(ctx, r.Watch)
	wait(ctx, arrival)
	if ctx.Err() == nil {
		if err := r.catchUp(ctx, seen); err != nil {
			return reason(ctx, err)
		}
	}
	return reason(ctx, nil)
}

// watch counts decisions until ctx ends, and ends it itself when too many calls are denied.
func (r *Rollout) watch(ctx context.Context, decisions *trail, seen *tally, end context.CancelCauseFunc) error {
	return decisions.each(ctx, func(record *auditv1.StoredRecord) {
		if denied := seen.add(record); denied > r.MaxDenials {
			end(errDenials)
		}
	})
}

// catchUp waits until all decisions were counted that the audit service has by now. What came on a stream proves nothing about what did not: an
// audit service that is cut off looks like a mesh in which nothing was denied.
func (r *Rollout) catchUp(ctx context.Context, seen *tally) error {
	ctx, cancel := context.WithTimeout(ctx, openBound)
	defer cancel()
	last, err := head(ctx, r.Audit)
	if err != nil {
		return fmt.Errorf("it is not known what it denied: list the last decision: %w", err)
	}
	ticker := time.NewTicker(catchUpInterval)
	defer ticker.Stop()
	for !seen.reached(last) {
		select {
		case <-ctx.Done():
			return fmt.Errorf("it is not known what it denied: the decisions were not all read within %v", openBound)
		case <-ticker.C:
		}
	}
	return nil
}

// inForce waits until every server has a policy in force. Once one refuses it, the others are not waited for.
func (r *Rollout) inForce(ctx context.Context, w admin.Written) error {
	ctx, cancel := context.WithTimeout(ctx, forceBound)
	defer cancel()
	errs := make([]error, len(r.Servers))
	var group sync.WaitGroup
	for i, server := range r.Servers {
		group.Go(func() {
			err := w.Follow(ctx, server.Conn)
			if err == nil {
				return
			}
			errs[i] = fmt.Errorf("%s: %w", server.Name, dial.Explain(err))
			if !w.Restored && errors.As(err, new(*admin.RefusedError)) {
				cancel()
			}
		})
	}
	group.Wait()
	for _, err := range errs { // that the others do not have it says nothing then
		if !w.Restored && errors.As(err, new(*admin.RefusedError)) {
			return err
		}
	}
	return errors.Join(errs...)
}

func (r *Rollout) sayInForce(what, version string, since time.Time) {
	if len(r.Servers) > 0 {
		r.Say("%s at %d of %[2]d %s, policy %s, after %d ms.\n", what, len(r.Servers), cmp.Or(r.Noun, "services"), version, time.Since(since).Milliseconds())
	}
}

// reason is why ctx has ended, else err.
func reason(ctx context.Context, err error) error {
	switch cause := context.Cause(ctx); {
	case cause == nil:
		return err
	case errors.Is(cause, context.Canceled):
		return errInterrupted
	default:
		return cause
	}
}

// wait lets time pass, until ctx ends at the latest.
func wait(ctx context.Context, d time.Duration) {
	timer := time.NewTimer(d)
	defer timer.Stop()
	select {
	case <-timer.C:
	case <-ctx.Done():
	}
}
