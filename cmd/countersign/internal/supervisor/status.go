package supervisor

import (
	"context"
	"sync"
	"time"

	"github.com/countersign-mesh/countersign/cmd/countersign/internal/rundir"
)

// State is how a program is.
type State string

// The states.
const (
	StateReady    State = "ready"
	StateNotReady State = "not ready"
	StateDead     State = "dead"
)

// Status is a snapshot of one program.
type Status struct {
	rundir.Program
	State State
	// Why says why it is not ready.
	Why error
	// SVIDExpires is zero when the program does not say.
	SVIDExpires time.Time
	// Resident is its resident memory in bytes, 0 when it is not known.
	Resident int64
}

// Inspect returns a snapshot of each program of a mesh, in the order of the record.
func Inspect(ctx context.Context, r rundir.Record) []Status {
	p := newProber()
	list := make([]Status, len(r.Programs))
	var group sync.WaitGroup
	for i, program := range r.Programs {
		group.Go(func() { list[i] = p.inspect(ctx, program) })
	}
	group.Wait()
	return list
}

func (p prober) inspect(ctx context.Context, program rundir.Program) Status {
	s := Status{Program: program, State: StateDead}
	if !program.Alive() {
		return s
	}
	s.State = StateReady
	if s.Why = p.ready(ctx, program.OpsAddress); s.Why != nil {
		s.State = StateNotReady
	}
	if program.SPIFFEID != "" {
		s.SVIDExpires, _ = p.svidExpiry(ctx, program.OpsAddress)
	}
	s.Resident, _ = program.ResidentMemory()
	return s
}
