package rundir

import (
	"errors"
	"fmt"
	"os"
	"strconv"
	"strings"
)

// errEnded means that a process has ended.
var errEnded = errors.New("it has ended")

// startTime reads field 22 of /proc/PID/stat (proc_pid_stat(5)), in clock ticks since boot. Field 2 is the program's name in
// parentheses and may itself hold spaces and parentheses, so the fields are counted from the last one.
func startTime(pid int) (int64, error) {
	data, err := os.ReadFile(fmt.Sprintf("/proc/%d/stat", pid))
	if err != nil {
		return 0, err
	}
	_, rest, ok := cutLast(string(data), ")")
	fields := strings.Fields(rest)
	if !ok || len(fields) < 20 {
		return 0, fmt.Errorf("/proc/%d/stat has an unknown form", pid)
	}
	if state := fields[0]; state == "Z" || state == "X" {
		return 0, errEnded
	}
	return strconv.ParseInt(fields[19], 10, 64)
}

func cutLast(s, sep string) (before, after string, found bool) {
	if i := strings.LastIndex(s, sep); i >= 0 {
		return s[:i], s[i+len(sep):], true
	}
	return s, "", false
}

// ResidentMemory returns the process's resident memory in bytes (VmRSS of proc_pid_status(5)), and false when it is not known.
func (p Process) ResidentMemory() (int64, bool) {
	if !p.Alive() {
		return 0, false
	}
	data, err := os.ReadFile(fmt.Sprintf("/proc/%d/status", p.PID))
	if err != nil {
		return 0, false
	}
	for line := range strings.Lines(string(data)) {
		if value, ok := strings.CutPrefix(line, "VmRSS:"); ok {
			kib, err := strconv.ParseInt(strings.TrimSpace(strings.TrimSuffix(strings.TrimSpace(value), "kB")), 10, 64)
			return kib * 1024, err == nil
		}
	}
	return 0, false
}
