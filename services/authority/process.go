package main

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"sync"
	"sync/atomic"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	"github.com/prometheus/client_golang/prometheus/collectors"

	"github.com/countersign-mesh/countersign/pkg/ops"
	"github.com/countersign-mesh/countersign/services/authority/internal/workload"
)

// stopTimeout is how long calls may take after SIGTERM; streams end at once.
const stopTimeout = 5 * time.Second

// worker runs until its context ends.
type worker func(ctx context.Context) error

// process is what runs around the Workload API: the ops endpoints and the workers. The authority gives identities and has none, so
// it is no process of package mesh.
type process struct {
	log     *slog.Logger
	metrics *prometheus.Registry
	ops     *ops.Handler
	server  *ops.Server
	serving atomic.Bool
}

// newProcess serves the ops endpoints at an address, not ready at first.
func newProcess(ctx context.Context, address string, log *slog.Logger) (*process, error) {
	metrics := prometheus.NewRegistry()
	if err := errors.Join(
		metrics.Register(collectors.NewGoCollector()),
		metrics.Register(collectors.NewProcessCollector(collectors.ProcessCollectorOpts{})),
	); err != nil {
		return nil, fmt.Errorf("register the process's metrics: %w", err)
	}
	p := &process{log: log, metrics: metrics, ops: ops.New(metrics)}
	p.ready("serving", func(context.Context) error {
		if !p.serving.Load() {
			return errors.New("not serving")
		}
		return nil
	})
	server, err := ops.Listen(ctx, address, p.ops, log)
	if err != nil {
		return nil, fmt.Errorf("--ops-listen: %w", err)
	}
	p.server = server
	return p, nil
}

// ready adds a check to /readyz.
func (p *process) ready(name string, check ops.Check) { p.ops.Add(name, check) }

// note adds what /readyz says of a part that readiness does not hang on.
func (p *process) note(name string, note func() string) { p.ops.Note(name, note) }

func (p *process) closeOps() {
	if err := p.server.Close(); err != nil {
		p.log.Error("close the ops listener", "error", err)
	}
}

// serve runs the workers, those that serve with the server among them, until ctx ends or one of them fails, and ends them all: the server
// first.
func (p *process) serve(ctx context.Context, server *workload.Server, workers map[string]worker) error {
	ctx, stop := context.WithCancel(ctx)
	defer stop()
	workCtx, stopWork := context.WithCancel(context.WithoutCancel(ctx))
	defer stopWork()
	failures := make(chan error, len(workers))
	var working sync.WaitGroup
	for name, run := range workers {
		working.Go(func() {
			if err := run(workCtx); err != nil {
				failures <- fmt.Errorf("%s: %w", name, err)
				stop()
			}
		})
	}
	p.serving.Store(true)
	<-ctx.Done()
	p.serving.Store(false)
	p.log.InfoContext(workCtx, "stopping")
	server.Stop(stopTimeout)
	stopWork()
	working.Wait()
	close(failures)
	var errs []error
	for err := range failures {
		errs = append(errs, err)
	}
	return errors.Join(errs...)
}
