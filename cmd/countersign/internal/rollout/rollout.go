// Package rollout puts another policy into the place of the one that a running mesh has, watches what that denies, and puts the old one back when it
// denies what was let in before.
//
// It changes one file, and that at once and whole: a process that dies half-way leaves the old policy or the new one, and a copy of the old one
// beside it.
package rollout

import (
	"context"
	"errors"
	"fmt"
	"os"
	"time"

	"github.com/spiffe/go-spiffe/v2/spiffeid"
	"google.golang.org/grpc"

	"github.com/countersign-mesh/countersign/cmd/countersign/internal/admin"
	"github.com/countersign-mesh/countersign/cmd/countersign/internal/policyfile"
	auditv1 "github.com/countersign-mesh/countersign/proto/gen/mesh/audit/v1"
)

const (
	// writeBound is how long the file may be held up by others, forceBound how long the servers may take to have a policy in force.
	writeBound = 5 * time.Second
	forceBound = 10 * time.Second
	// arrival is how long a decision may be on its way to the audit service; a tenth of a second is usual.
	arrival = time.Second
	// catchUpInterval is how often it is looked whether all decisions were read.
	catchUpInterval = 20 * time.Millisecond
)

// Server is a server that reads the policy file.
type Server struct {
	Name string
	Conn grpc.ClientConnInterface
}

// Rollout is a change that is to be made. Its fields are set once, before Run.
type Rollout struct {
	Change
	// Servers are all that read the file.
	Servers []Server
	// Noun is what the servers are called where they are counted: services, unless there are several of one.
	Noun string
	// Self is who asks them.
	Self spiffeid.ID
	// Audit is where decisions are watched; nil when they are not to be.
	Audit auditv1.AuditServiceClient
	// Watch is how long they are watched, and MaxDenials how many calls may be denied meanwhile that were let in before.
	Watch      time.Duration
	MaxDenials int
	// Hurry ends the wait for the servers to have the old policy back.
	Hurry <-chan struct{}
	// Say tells a person how it goes.
	Say func(format string, args ...any)
}

// Outcome is what became of a change.
type Outcome struct {
	// RolledBack is why the old policy was put back; nil when the new one stays.
	RolledBack error
	// Copy is where the old policy is kept; empty when it is back in place.
	Copy string
	// Denied are the calls that were denied though they were let in before, the most denied first.
	Denied []Denied
	// Decided is how many decisions by the new policy were seen, and Lost how many decisions nobody knows, of whichever policy.
	Decided int
	Lost    int64
}

var (
	errInterrupted = errors.New("it was interrupted")
	errDenials     = errors.New("calls were denied that were let in before")
)

// Run makes the change. Its error is why it was not begun, or why it is not known how it ended.
func (r *Rollout) Run(ctx context.Context) (Outcome, error) {
	decisions, err := r.begin(ctx)
	if err != nil {
		return Outcome{}, fmt.Errorf("nothing was changed: %w", err)
	}
	if decisions != nil {
		defer decisions.close()
	}
	kept, err := policyfile.Keep(r.Path, r.Old.Version(), r.text(false))
	if err != nil {
		return Outcome{}, fmt.Errorf("nothing was changed: %w", err)
	}
	r.Say("The old policy is kept in %s. To put it back by hand: mv %[1]s %s\n", kept, r.original(kept))
	at, err := r.write(ctx, r.text(false), r.text(true))
	if err != nil && !r.isIn() {
		return Outcome{}, errors.Join(fmt.Errorf("nothing was changed: %w", err), os.Remove(kept))
	}
	seen := newTally(r.Change)
	if err == nil {
		err = r.follow(ctx, at, decisions, seen)
	}
	outcome := seen.outcome()
	outcome.Copy = kept
	if err == nil {
		return outcome, nil
	}
	outcome.RolledBack = err
	return r.rollBack(ctx, outcome)
}

// begin looks whether all is there that the change needs, and opens the decisions.
func (r *Rollout) begin(ctx context.Context) (*trail, error) {
	if len(r.Servers) > 0 {
		if err := r.letsFollow(r.Self, r.Audit != nil); err != nil {
			return nil, err
		}
	}
	// A server that is away, or has another policy in force than that of the file, could not be told from one that refuses the new one.
	if err := r.inForce(ctx, admin.Written{Version: r.Old.Version()}); err != nil {
		return nil, fmt.Errorf("the policy as it is, %s, is not in force everywhere:\n%w", r.Old.Version(), err)
	}
	if r.Audit == nil {
		return nil, nil //nolint:nilnil // nothing is to be watched
	}
	decisions, err := openTrail(ctx, r.Audit)
	if err != nil {
		return nil, fmt.Errorf("what the new policy denies could not be watched (--no-watch changes it all the same): %w", err)
	}
	return decisions, nil
}

// text is the new text or the old one.
func (r *Rollout) text(changed bool) string {
	if changed {
		return string(r.New.Source().Main())
	}
	return string(r.Old.Source().Main())
}

// original is the file that a copy was made of, wherever a link leads.
func (r *Rollout) original(kept string) string {
	return kept[:len(kept)-len(".before-")-len(r.Old.Version())]
}

func (r *Rollout) write(ctx context.Context, before, after string) (time.Time, error) {
	ctx, cancel := context.WithTimeout(ctx, writeBound)
	defer cancel()
	return policyfile.Replace(ctx, r.Path, before, after)
}

// isIn reports whether the file has the new text: a write that failed may have got as far as that.
func (r *Rollout) isIn() bool {
	now, err := os.ReadFile(r.Path)
	return err == nil && string(now) == r.text(true)
}

// rollBack puts the old policy back, also when ctx has ended.
func (r *Rollout) rollBack(ctx context.Context, o Outcome) (Outcome, error) {
	ctx, cancel := context.WithCancel(context.WithoutCancel(ctx))
	defer cancel()
	r.Say("Putting the old policy back: %v.\n", o.RolledBack)
	at, err := r.write(ctx, r.text(true), r.text(false))
	if err != nil {
		return o, fmt.Errorf("%w; the old policy was not put back, %w; it is kept in %s", o.RolledBack, err, o.Copy)
	}
	err = os.Remove(o.Copy)
	o.Copy = ""
	if r.Hurry != nil {
		released := make(chan struct{})
		defer close(released)
		go func() {
			select {
			case <-r.Hurry:
				cancel()
			case <-released:
			}
		}()
	}
	if waitErr := r.inForce(ctx, admin.Written{Version: r.Old.Version(), Restored: true}); waitErr != nil {
		return o, errors.Join(fmt.Errorf("%w; the old policy is back in %s, but not known to be in force everywhere:\n%w", o.RolledBack, r.Path, waitErr), err)
	}
	r.sayInForce("The old policy is back", r.Old.Version(), at)
	return o, err
}
