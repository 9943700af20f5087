package mesh

import (
	"bufio"
	"fmt"
	"io"
	"os"
	"strings"
	"syscall"
)

// releaseProgram gives back the pages of the program's code that reading migrations, contracts and the policy has gone through, most of it never again. They stay in
// the kernel's cache, and what is needed is mapped again when it is reached (madvise(2), MADV_DONTNEED).
//
// Nothing is lost of code that nobody has written into. Whoever looks into a process does: a breakpoint of a debugger's or a probe of a tracer's (uprobes) is a
// copy of the page that it is in. Code with such a page is left as it is.
func releaseProgram() error {
	program, err := os.Readlink("/proc/self/exe")
	if err != nil {
		return err
	}
	smaps, err := os.Open("/proc/self/smaps")
	if err != nil {
		return err
	}
	defer smaps.Close()
	mappings, err := untouched(smaps, program)
	if err != nil {
		return err
	}
	for _, m := range mappings {
		if _, _, errno := syscall.Syscall(syscall.SYS_MADVISE, m.begin, m.end-m.begin, syscall.MADV_DONTNEED); errno != 0 {
			return fmt.Errorf("madvise: %w", errno)
		}
	}
	return nil
}

// mapping is a part of the address space.
type mapping struct{ begin, end uintptr }

// untouched returns the mappings of a program's code that have no page of their own, from what proc_pid_smaps(5) describes.
func untouched(smaps io.Reader, program string) (code []mapping, err error) {
	var m mapping
	var isCode bool
	lines := bufio.NewScanner(smaps)
	for lines.Scan() {
		line := lines.Text()
		var begin, end uintptr
		var mode string
		switch n, _ := fmt.Sscanf(line, "%x-%x %s", &begin, &end, &mode); {
		case n == 3:
			m, isCode = mapping{begin, end}, mode == "r-xp" && strings.HasSuffix(line, " "+program)
		case isCode && strings.Join(strings.Fields(line), " ") == "Anonymous: 0 kB":
			code = append(code, m)
		}
	}
	return code, lines.Err()
}
