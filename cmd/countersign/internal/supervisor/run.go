package supervisor

import (
	"context"
	"errors"
	"fmt"
	"net"
	"sync"
	"time"

	"github.com/countersign-mesh/countersign/cmd/countersign/internal/rundir"
)

const (
	readyInterval  = 20 * time.Millisecond
	socketInterval = 5 * time.Millisecond
)

// ErrInterrupted means that the mesh was told to stop before it was ready.
var ErrInterrupted = errors.New("stopped before the mesh was ready")

// Mesh is a mesh that was prepared: everything is decided, nothing runs yet. Prepare makes one, Run runs it, once.
type Mesh struct {
	begin    time.Time
	settings Settings
	record   rundir.Record
	programs []Program
	ports    *reservation
	lock     *rundir.Lock

	mu       sync.Mutex
	children []*child
}

// Issuer says who serves the Workload API.
func (m *Mesh) Issuer() string { return m.record.Issuer }

// Events is who looks on. The functions are called one at a time; while one does not return, the
// mesh goes on, and lines are dropped and counted.
type Events struct {
	// Line is called with each line that a program writes.
	Line func(program, line string)
	// Ready is called once, when all are ready.
	Ready func([]Status)
}

// Run starts the mesh, and stops it when ctx ends: with SIGTERM, and what is left after a bound, or when hurry is closed, with
// SIGKILL. It returns nil when the mesh was told to stop, and why when it could not start or a program ended by itself; in
// either case nothing runs any more and the record is gone.
func (m *Mesh) Run(ctx context.Context, hurry <-chan struct{}, events Events) (err error) {
	spawn, show := newSpawner(), newFeed(events.Line)
	var watchers sync.WaitGroup
	defer func() {
		err = errors.Join(err, m.stop(context.WithoutCancel(ctx), hurry)) // it runs after the end of ctx
		watchers.Wait()                                                   // a watcher ends with its child
		for _, c := range m.children {
			<-c.closed
			err = errors.Join(err, c.logErr)
		}
		err = errors.Join(err, m.Close())
		spawn.close()
		show.close()
	}()
	// alive ends when the mesh is told to stop or a program ends by itself, whatever comes first; the latter is its cause.
	alive, crashed := context.WithCancelCause(ctx)
	defer crashed(nil)
	readyAfter, err := m.startAll(alive, func(p Program, said string) error {
		c, err := m.start(alive, spawn, p, said, show.add)
		if err == nil {
			watchers.Go(func() { <-c.done; crashed(c.crash()) })
		}
		return err
	})
	if err == nil {
		err = m.tellReady(alive, readyAfter, show, events)
	}
	if err != nil {
		return err
	}
	<-alive.Done()
	if crash, ok := errors.AsType[*CrashError](context.Cause(alive)); ok {
		return crash
	}
	return nil
}

// startAll starts the programs and waits until each is ready. It returns how long each took.
func (m *Mesh) startAll(ctx context.Context, start func(p Program, said string) error) ([]time.Duration, error) {
	bounded, cancel := context.WithTimeoutCause(ctx, m.settings.StartTimeout, errTimeout)
	defer cancel()
	readyAfter, err := m.startTiers(bounded, start)
	if ctx.Err() == nil {
		return readyAfter, err
	}
	// What failed because the mesh is going down is not worth telling, only why it goes down.
	if crash, ok := errors.AsType[*CrashError](context.Cause(ctx)); ok {
		return nil, crash
	}
	return nil, ErrInterrupted
}

// startTiers starts who serves the Workload API, and as soon as that accepts connections the services, all at once: each waits by itself for
// its SVID and for whom it calls. Ports are held for as long as can be: what has to be done before a start may take seconds, in which somebody
// else could take them.
func (m *Mesh) startTiers(ctx context.Context, start func(p Program, said string) error) ([]time.Duration, error) {
	for _, p := range m.programs {
		if p.Tier != 0 {
			continue
		}
		said := ""
		if p.Before != nil {
			var err error
			if said, err = p.Before(ctx); err != nil {
				return nil, fmt.Errorf("before %s starts: %w", p.Name, err)
			}
		}
		if err := m.ports.releaseFor(p); err != nil {
			return nil, err
		}
		if err := start(p, said); err != nil {
			return nil, err
		}
	}
	if err := m.awaitSocket(ctx); err != nil {
		return nil, err
	}
	if err := m.ports.release(); err != nil { // all: a service that called one of them would wait where nobody answers
		return nil, err
	}
	for _, p := range m.programs {
		if p.Tier != 0 {
			if err := start(p, ""); err != nil {
				return nil, err
			}
		}
	}
	return m.awaitReady(ctx)
}

var errTimeout = errors.New("the time for the start is over")

func (m *Mesh) awaitSocket(ctx context.Context) error {
	socket := m.record.Socket()
	if socket == "" {
		return nil
	}
	var last error
	err := poll(ctx, socketInterval, func() bool {
		var conn net.Conn
		if conn, last = (&net.Dialer{}).DialContext(ctx, "unix", socket); last != nil {
			return false
		}
		last = conn.Close()
		return true
	})
	if errors.Is(err, errTimeout) {
		return fmt.Errorf("the Workload API does not accept connections at %s after %v: %w", socket, m.settings.StartTimeout, last)
	}
	return err
}

// awaitReady waits until every program is ready, and returns how long each took. Where time runs out it says of each program that
// is not ready why.
func (m *Mesh) awaitReady(ctx context.Context) ([]time.Duration, error) {
	p := newProber()
	took, errs := make([]time.Duration, len(m.programs)), make([]error, len(m.programs))
	var group sync.WaitGroup
	for i, program := range m.programs {
		group.Go(func() {
			reason := errors.New("it was not asked")
			err := poll(ctx, readyInterval, func() bool {
				err := p.ready(ctx, program.OpsAddress)
				if err != nil && ctx.Err() == nil {
					reason = err // the failure that the end of ctx makes must not hide the one before
				}
				return err == nil
			})
			took[i] = time.Since(m.begin)
			if err != nil {
				errs[i] = fmt.Errorf("%s is not ready after %v: %w", program.Name, m.settings.StartTimeout, reason)
			}
		})
	}
	group.Wait()
	return took, errors.Join(errs...)
}

// start starts one program and records it at once, so that it can be found however this process ends.
func (m *Mesh) start(ctx context.Context, spawn *spawner, p Program, said string, line func(program, line string)) (*child, error) {
	c, err := startChild(ctx, spawn, p, said, m.settings.Dir, line)
	if err != nil {
		return nil, err
	}
	m.mu.Lock()
	defer m.mu.Unlock()
	m.children = append(m.children, c)
	recorded := p.recorded(m.settings.Dir)
	recorded.Process, recorded.Started = c.process, c.started
	m.record.Programs = append(m.record.Programs, recorded)
	return c, m.settings.Dir.Write(m.record)
}

// tellReady records that all are ready, and tells who looks on.
func (m *Mesh) tellReady(ctx context.Context, readyAfter []time.Duration, show *feed, events Events) error {
	m.record.Ready = true
	for i := range m.record.Programs {
		m.record.Programs[i].ReadyAfter = readyAfter[i]
	}
	if err := m.settings.Dir.Write(m.record); err != nil {
		return err
	}
	list := Inspect(ctx, m.record)
	show.put(ctx.Done(), func() { events.Ready(list) })
	return nil
}
