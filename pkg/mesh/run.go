package mesh

import (
	"context"
	"errors"
	"fmt"
	"net"
	"os"
	"runtime/debug"
	"slices"
	"sync"
	"sync/atomic"

	"github.com/prometheus/client_golang/prometheus"
	"github.com/prometheus/client_golang/prometheus/collectors"

	"github.com/countersign-mesh/countersign/pkg/authz"
	"github.com/countersign-mesh/countersign/pkg/identity"
	"github.com/countersign-mesh/countersign/pkg/ops"
	"github.com/countersign-mesh/countersign/pkg/settings"
)

// gcPercent is how much garbage a process may have for what lives in it, in percent (runtime/debug.SetGCPercent).
const gcPercent = 50

// RunOption changes a default of Run and of Join.
type RunOption func(*runOptions)

type runOptions struct {
	identity []identity.Option
}

// WithIdentity changes how the process gets its identity, such as which one it takes when it has several (identity.WithID).
func WithIdentity(opts ...identity.Option) RunOption {
	return func(o *runOptions) { o.identity = append(o.identity, opts...) }
}

// Run is the life of a process: it listens, gets its identity, reads the policy, lets build make the process's parts and its one
// server, checks that policy and services fit each other, and serves. When ctx ends it turns not ready, drains within the
// bound of the flags, and undoes everything in reverse order. It returns nil after a clean stop; its error says what to do about
// it. A process whose build makes no server runs what build gave to Go and serves /livez, /readyz and /metrics.
func Run(ctx context.Context, flags Flags, build func(ctx context.Context, p *Process) error, opts ...RunOption) (err error) {
	var o runOptions
	for _, opt := range opts {
		opt(&o)
	}
	p := &Process{
		flags:   flags,
		Log:     settings.NewLogger(os.Stderr, flags.LogLevel, flags.LogFormat),
		Metrics: prometheus.NewRegistry(),
	}
	p.Metrics.MustRegister(collectors.NewGoCollector(), collectors.NewProcessCollector(collectors.ProcessCollectorOpts{}))
	p.ops = ops.New(p.Metrics)
	defer func() { err = errors.Join(err, p.close()) }()

	// Ports first: one that is taken is known at once, and callers that are early wait instead of being refused.
	if err := p.listen(ctx); err != nil {
		return err
	}
	serving := &atomic.Bool{}
	p.Ready("serving", func(context.Context) error {
		if !serving.Load() {
			return errors.New("not serving")
		}
		return nil
	})
	if err := p.join(ctx, o); err != nil {
		return err
	}
	if err := build(ctx, p); err != nil {
		return err
	}
	if p.server != nil {
		// Before the workers: a process that will not serve must not begin to act.
		if err := p.server.Fit(); err != nil {
			return err
		}
	}
	// Half of the heap is by now what reading migrations, contracts and the policy has left behind. The collector would come upon it only when
	// the process had grown to twice its size, which one that rests never does.
	debug.FreeOSMemory()
	if err := releaseProgram(); err != nil { // a process without /proc has more memory, and is as good otherwise
		p.Log.DebugContext(ctx, "the pages of the program that start-up has read are kept", "error", err)
	}
	// What is alive in a process of the mesh is some ten MiB, and the collector is done with that within milliseconds: to come twice as often costs little, and keeps
	// the garbage of one that rests to half of what lives. GOGC in the environment has the last word, as in every Go program.
	if os.Getenv("GOGC") == "" {
		debug.SetGCPercent(gcPercent)
	}
	return p.serve(ctx, serving)
}

// listen opens both listeners and starts to serve the ops endpoints.
func (p *Process) listen(ctx context.Context) error {
	server, err := ops.Listen(ctx, string(p.flags.OpsListen), p.ops, p.Log)
	if err != nil {
		return fmt.Errorf("--ops-listen: %w", err)
	}
	p.Defer(server.Close)
	var config net.ListenConfig
	p.listener, err = config.Listen(ctx, "tcp", string(p.flags.Listen))
	if err != nil {
		return fmt.Errorf("--listen: %w", err)
	}
	p.Defer(func() error {
		if err := p.listener.Close(); !errors.Is(err, net.ErrClosed) {
			return err
		}
		return nil
	})
	return nil
}

// join makes the process a member of the mesh.
func (p *Process) join(ctx context.Context, o runOptions) error {
	own := []identity.Option{
		identity.WithSocket(string(p.flags.WorkloadAPI)),
		identity.WithStartTimeout(p.flags.StartTimeout.Value()),
	}
	member, err := join(ctx, string(p.flags.Policy), p.Log, slices.Concat(own, o.identity))
	if err != nil {
		return err
	}
	p.Defer(member.Close)
	p.Identity, p.Policy, p.conns = member.Identity, member.Policy, member.conns
	p.ops.Note("policy", func() string { return policyNote(p.Policy.Status()) })
	p.Ready("identity", p.Identity.Ready)
	return p.Metrics.Register(newProcessMetrics(p.Identity, p.Policy, p.conns))
}

// policyNote is what /readyz says of the policy. A process whose file is not usable is ready: the last good policy decides. Why it is not, a
// port that anybody may ask does not tell: it would show lines of the file.
func policyNote(now authz.FileStatus) string {
	if now.Failure != nil {
		return fmt.Sprintf("ok (version %s stays in force: the file as it is now is not usable, see the log)", now.Version)
	}
	return fmt.Sprintf("ok (version %s)", now.Version)
}

// serve runs the server and the workers until ctx ends or one of them fails.
func (p *Process) serve(ctx context.Context, serving *atomic.Bool) error {
	ctx, stop := context.WithCancel(ctx)
	defer stop()
	// Workers outlive ctx: calls that drain may still need what they do, the audit queue above all.
	workCtx, stopWork := context.WithCancel(context.WithoutCancel(ctx))
	defer stopWork()
	failures := make(chan error, len(p.workers)+len(p.servers))
	var working, alsoServing sync.WaitGroup
	start := func(w worker, ctx context.Context, group *sync.WaitGroup) {
		group.Go(func() {
			err := w.run(ctx)
			told := ctx.Err() != nil && errors.Is(err, context.Canceled)
			if err != nil && !told {
				failures <- fmt.Errorf("%s: %w", w.name, err)
				stop()
			}
		})
	}
	for _, w := range p.workers {
		start(w, workCtx, &working)
	}
	for _, s := range p.servers {
		start(s, ctx, &alsoServing)
	}
	serving.Store(true)
	notServing := context.AfterFunc(ctx, func() { serving.Store(false) })
	defer notServing()
	errs := []error{p.serveServer(ctx)}
	stop() // a server that failed takes the others with it
	alsoServing.Wait()
	stopWork()
	working.Wait()
	close(failures)
	for err := range failures {
		errs = append(errs, err)
	}
	return errors.Join(errs...)
}

func (p *Process) serveServer(ctx context.Context) error {
	if p.server == nil {
		<-ctx.Done()
		return nil
	}
	p.Log.InfoContext(ctx, "serving", "spiffe_id", p.Identity.ID().String(), "address", p.listener.Addr().String(),
		"policy", p.Policy.Policy().Version())
	return p.server.Serve(ctx, p.listener)
}
