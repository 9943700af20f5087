package main

import (
	"context"
	"errors"
	"fmt"
	"time"

	"github.com/countersign-mesh/countersign/cmd/countersign/internal/console"
	"github.com/countersign-mesh/countersign/cmd/countersign/internal/rundir"
	"github.com/countersign-mesh/countersign/cmd/countersign/internal/supervisor"
)

type downCommand struct {
	Timeout time.Duration `default:"40s" placeholder:"DURATION" help:"How long the mesh may take to stop before it is killed (${default})."`
}

func (c *downCommand) Run(ctx context.Context, s *session) error {
	if err := s.ownMesh(); err != nil {
		return err
	}
	was, err := supervisor.Down(ctx, s.dir, c.Timeout)
	if err != nil {
		return err
	}
	if !was {
		s.out.Printf("No mesh was running in %s.\n", s.dir)
		return nil
	}
	s.out.Printf("The mesh is down; nothing is left running.\n")
	return nil
}

type statusCommand struct{ workload }

func (c *statusCommand) Run(ctx context.Context, s *session) error {
	if s.mesh.File != "" {
		return c.ofFile(ctx, s)
	}
	record, err := s.dir.Running()
	if errors.Is(err, rundir.ErrNoMesh) {
		return &codeError{code: codeNotRunning, error: err}
	}
	if err != nil {
		return err
	}
	list := supervisor.Inspect(ctx, record)
	var rows [][]console.Cell
	ready := 0
	for _, st := range list {
		tone := map[supervisor.State]console.Tone{supervisor.StateReady: console.Good, supervisor.StateNotReady: console.Wary, supervisor.StateDead: console.Bad}[st.State]
		rows = append(rows, []console.Cell{
			{Text: st.Name, Tone: console.Strong},
			{Text: string(st.State), Tone: tone},
			{Text: or(st.SPIFFEID)},
			{Text: local(st)},
			{Text: expiresIn(st)},
			{Text: memory(st)},
			{Text: console.Span(time.Since(st.Started))},
		})
		if st.State == supervisor.StateReady {
			ready++
		}
	}
	s.out.Table([]string{"service", "state", "SPIFFE ID", "address", "SVID expires in", "memory", "up"}, rows)
	for _, st := range list {
		if st.Why != nil {
			s.out.Printf("\n%s: %v\n", st.Name, st.Why)
		}
	}
	if ready < len(list) || !record.Ready {
		return fmt.Errorf("%d of %d programs are ready; their logs are in %s", ready, len(list), s.dir.Logs())
	}
	return nil
}

func memory(st supervisor.Status) string {
	if st.Resident == 0 {
		return none
	}
	return console.Mebibytes(st.Resident)
}
