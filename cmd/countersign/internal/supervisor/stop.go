package supervisor

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"sync"
	"syscall"
	"time"

	"github.com/countersign-mesh/countersign/cmd/countersign/internal/rundir"
)

// stop ends every child, the highest tier first, within the bound for all of them together. Each tier may take an equal share of
// the time that is left, so that one that hangs leaves those below it the time to end by themselves.
func (m *Mesh) stop(ctx context.Context, hurry <-chan struct{}) error {
	ctx, cancel := context.WithTimeout(ctx, m.settings.StopTimeout)
	defer cancel()
	var group sync.WaitGroup
	defer group.Wait()
	group.Go(func() {
		select {
		case <-hurry:
			cancel()
		case <-ctx.Done():
		}
	})
	var errs []error
	deadline, _ := ctx.Deadline()
	for tier := m.highest(); tier >= 0; tier-- {
		share, done := context.WithTimeout(ctx, time.Until(deadline)/time.Duration(tier+1))
		errs = append(errs, stopTier(share, m.tier(tier)))
		done()
	}
	cancel()
	return errors.Join(errs...)
}

// drainTimeout is how long a service's calls in flight may take when the whole mesh has bound to stop in: less than the share of
// its tier, since cut calls have to return and the last decisions to reach the audit service before it is killed.
func drainTimeout(bound time.Duration) time.Duration {
	tiers := 1 // the authority's
	for _, s := range services() {
		tiers = max(tiers, s.tier+1)
	}
	return bound / time.Duration(tiers) * 2 / 5
}

func (m *Mesh) highest() int {
	highest := 0
	for _, p := range m.programs {
		highest = max(highest, p.Tier)
	}
	return highest
}

func (m *Mesh) tier(tier int) []*child {
	return slices.DeleteFunc(slices.Clone(m.children), func(c *child) bool { return c.program.Tier != tier })
}

func stopTier(ctx context.Context, children []*child) error {
	var errs []error
	for _, c := range children {
		errs = append(errs, c.signal(syscall.SIGTERM))
	}
	for _, c := range children {
		select {
		case <-c.done:
		case <-ctx.Done():
			errs = append(errs, c.signal(syscall.SIGKILL))
			<-c.done // nothing survives SIGKILL, and the wait for its output is bounded
		}
	}
	return errors.Join(errs...)
}

// Close gives up what Prepare took. Run does it too.
func (m *Mesh) Close() error {
	err := errors.Join(m.ports.release(), m.settings.Dir.Forget(m.record))
	if m.lock != nil {
		err = errors.Join(err, m.lock.Release())
		m.lock = nil
	}
	return err
}

// goneInterval is how often it is looked whether a process that is no child of ours has ended.
const goneInterval = 20 * time.Millisecond

// killGrace is how long programs that lost their supervisor get to end by themselves, and any process to go after SIGKILL.
const killGrace = 3 * time.Second

// Down stops the mesh in a directory, whoever started it, and cleans up after one whose supervisor was killed. It reports
// whether there was anything to stop.
func Down(ctx context.Context, dir rundir.Dir, timeout time.Duration) (bool, error) {
	r, err := dir.Read()
	if errors.Is(err, rundir.ErrNoMesh) {
		return false, nil
	}
	if err != nil {
		return false, err
	}
	if err := end(ctx, []rundir.Process{r.Supervisor}, timeout); err != nil {
		return true, err
	}
	lock, err := dir.Lock()
	if err != nil {
		return true, err
	}
	return true, errors.Join(sweep(ctx, dir), lock.Release())
}

// sweep cleans up after a mesh whose supervisor is no more. Who calls it holds the directory's lock.
func sweep(ctx context.Context, dir rundir.Dir) error {
	r, err := dir.Read()
	if errors.Is(err, rundir.ErrNoMesh) {
		return nil
	}
	if err != nil {
		return err
	}
	var left []rundir.Process
	for _, p := range r.Programs {
		left = append(left, p.Process)
	}
	return errors.Join(end(ctx, left, killGrace), dir.Forget(r))
}

// end asks processes to end, and kills those that still run after the grace.
func end(ctx context.Context, processes []rundir.Process, grace time.Duration) error {
	for _, step := range []struct {
		sig   syscall.Signal
		bound time.Duration
	}{{syscall.SIGTERM, grace}, {syscall.SIGKILL, killGrace}} {
		for _, p := range processes {
			if err := p.Signal(step.sig); err != nil {
				return err
			}
		}
		bounded, cancel := context.WithTimeout(ctx, step.bound)
		err := poll(bounded, goneInterval, func() bool { return !slices.ContainsFunc(processes, rundir.Process.Alive) })
		cancel()
		if err == nil {
			return nil
		}
		if ctx.Err() != nil {
			return context.Cause(ctx)
		}
	}
	return fmt.Errorf("processes %v do not end", processes)
}
