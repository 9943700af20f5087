package rundir

import (
	"errors"

	"golang.org/x/sys/unix"
)

// errEnded means that a process has ended.
var errEnded = errors.New("it has ended")

// zombie is SZOMB of sys/proc.h: ended, not waited for.
const zombie = 5

// startTime asks sysctl kern.proc.pid, in microseconds since the epoch.
func startTime(pid int) (int64, error) {
	info, err := unix.SysctlKinfoProc("kern.proc.pid", pid)
	if err != nil {
		return 0, err
	}
	if info.Proc.P_pid != int32(pid) || info.Proc.P_stat == zombie {
		return 0, errEnded
	}
	t := info.Proc.P_starttime
	return t.Sec*1_000_000 + int64(t.Usec), nil
}

// ResidentMemory returns false: macOS tells it only to C programs.
func (p Process) ResidentMemory() (int64, bool) { return 0, false }
