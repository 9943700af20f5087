package rundir

import (
	"errors"
	"fmt"
	"syscall"
)

// Process names one process for good: a process ID alone is given to another process sooner or later, and then a signal would
// hit a stranger.
type Process struct {
	PID int `json:"pid"`
	// StartTime is when the kernel started it, in the kernel's own unit.
	StartTime int64 `json:"start_time"`
}

// Identify returns the process that has this ID now.
func Identify(pid int) (Process, error) {
	start, err := startTime(pid)
	if err != nil {
		return Process{}, fmt.Errorf("find the start time of process %d: %w", pid, err)
	}
	return Process{PID: pid, StartTime: start}, nil
}

// Alive reports whether the process still runs. One that has ended and was not waited for yet does not.
func (p Process) Alive() bool {
	if p.PID <= 0 {
		return false
	}
	start, err := startTime(p.PID)
	return err == nil && start == p.StartTime
}

// Signal sends a signal if the process still runs; otherwise it does nothing.
func (p Process) Signal(sig syscall.Signal) error {
	if !p.Alive() {
		return nil
	}
	if err := syscall.Kill(p.PID, sig); err != nil && !errors.Is(err, syscall.ESRCH) {
		return fmt.Errorf("send %v to process %d: %w", sig, p.PID, err)
	}
	return nil
}
