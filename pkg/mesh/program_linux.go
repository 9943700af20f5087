package mesh

import (
	"fmt"
	"os"
	"strings"
	"syscall"
)

// releaseProgram gives back the pages of the program's code that reading migrations, contracts and the policy has gone through, most of it never again. They stay in
// the kernel's cache, and what is needed is mapped again when it is reached. Code is never written, so that nothing is lost (madvise(2), MADV_DONTNEED);
// but for a debugger's breakpoints, and so a process that is traced keeps all.
func releaseProgram() error {
	status, err := os.ReadFile("/proc/self/status")
	if err != nil || !strings.Contains(string(status), "\nTracerPid:\t0\n") {
		return err
	}
	program, err := os.Readlink("/proc/self/exe")
	if err != nil {
		return err
	}
	maps, err := os.ReadFile("/proc/self/maps")
	if err != nil {
		return err
	}
	for line := range strings.Lines(string(maps)) {
		var begin, end uintptr
		var mode string
		if _, err := fmt.Sscanf(line, "%x-%x %s", &begin, &end, &mode); err != nil || mode != "r-xp" || !strings.HasSuffix(line, " "+program+"\n") {
			continue
		}
		if _, _, errno := syscall.Syscall(syscall.SYS_MADVISE, begin, end-begin, syscall.MADV_DONTNEED); errno != 0 {
			return fmt.Errorf("madvise: %w", errno)
		}
	}
	return nil
}
