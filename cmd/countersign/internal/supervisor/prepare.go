package supervisor

import (
	"context"
	"errors"
	"fmt"
	"os"
	"time"

	"github.com/countersign-mesh/countersign/cmd/countersign/internal/edge"
	"github.com/countersign-mesh/countersign/cmd/countersign/internal/registration"
	"github.com/countersign-mesh/countersign/cmd/countersign/internal/rundir"
)

// Prepare decides all that can be decided before the first program starts: it takes the run directory, cleans up after an
// earlier mesh that was killed, looks for the programs and files, takes the ports and writes the registration entries.
func Prepare(ctx context.Context, s Settings) (*Mesh, error) {
	begin := time.Now()
	s, err := s.resolve(ctx)
	if err != nil {
		return nil, err
	}
	entries, err := registration.Read(s.Registration)
	if err != nil {
		return nil, err
	}
	if err := s.Dir.Create(); err != nil {
		return nil, err
	}
	lock, err := take(s.Dir)
	if err != nil {
		return nil, err
	}
	if err := sweep(ctx, s.Dir); err != nil {
		return nil, errors.Join(err, lock.Release())
	}
	m := &Mesh{begin: begin, settings: s, lock: lock, ports: &reservation{}}
	err = m.occupy(ctx, entries.GetTrustDomain())
	if err == nil {
		err = registration.Pin(entries, s.Bin, os.Getuid())
	}
	if err == nil {
		err = registration.Write(s.Dir.Registration(), entries, s.Registration)
	}
	if err != nil {
		return nil, errors.Join(err, m.Close())
	}
	return m, nil
}

// take locks the directory. When it is in use the error says by whom, if that is known already.
func take(dir rundir.Dir) (*rundir.Lock, error) {
	lock, err := dir.Lock()
	if !errors.Is(err, rundir.ErrLocked) {
		return lock, err
	}
	by := ""
	if r, readErr := dir.Read(); readErr == nil {
		by = fmt.Sprintf(" by process %d", r.Supervisor.PID)
	}
	return nil, fmt.Errorf("%w%s; stop that mesh with countersign down, or run a second one with another --run-dir and --base-port", err, by)
}

// occupy records this process as the supervisor and takes socket and ports.
func (m *Mesh) occupy(ctx context.Context, trustDomain string) error {
	s := m.settings
	self, err := rundir.Identify(os.Getpid())
	if err != nil {
		return err
	}
	m.record = rundir.Record{
		TrustDomain: trustDomain, Bin: s.Bin, Policy: s.Policy, Registration: s.Dir.Registration(),
		SVIDTTL: s.SVIDTTL, Supervisor: self, Issuer: s.issuer().String(),
	}
	socket, private, err := s.Dir.Socket()
	if err != nil {
		return err
	}
	m.record.WorkloadAPI, m.record.SocketDir, m.record.ServerSocket = "unix://"+socket, private, s.issuer().serverSocket(socket)
	if err := s.Dir.Write(m.record); err != nil {
		return err
	}
	if m.ports, err = reserve(ctx, s.BasePort, offsets(s.issuer())); err != nil {
		m.ports = &reservation{}
		return err
	}
	m.record.Edge = doors(s.Dir, m.ports.ports)
	m.programs = programs(s, trustDomain, socket, m.ports.ports)
	_, _, err = edge.Dir(s.Dir.Edge()).Init(time.Now())
	return err
}
