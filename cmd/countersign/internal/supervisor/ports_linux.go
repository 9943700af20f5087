package supervisor

import (
	"fmt"
	"os"
	"path/filepath"
	"strings"
)

// holder says which process listens on a TCP port: the kernel lists the listening sockets with their inodes (proc_pid_net(5)), and
// the processes' descriptors name theirs. Another user's descriptors cannot be read; then it is not known.
func holder(port int) (string, bool) {
	inodes := make(map[string]bool)
	for _, table := range []string{"/proc/net/tcp", "/proc/net/tcp6"} {
		data, err := os.ReadFile(table)
		if err != nil {
			continue
		}
		for line := range strings.Lines(string(data)) {
			const localAddress, state, inode, listening = 1, 3, 9, "0A"
			f := strings.Fields(line)
			if len(f) > inode && f[state] == listening && strings.HasSuffix(f[localAddress], fmt.Sprintf(":%04X", port)) {
				inodes["socket:["+f[inode]+"]"] = true
			}
		}
	}
	descriptors, err := filepath.Glob("/proc/[0-9]*/fd/*")
	if err != nil || len(inodes) == 0 {
		return "", false
	}
	for _, descriptor := range descriptors {
		if target, err := os.Readlink(descriptor); err != nil || !inodes[target] {
			continue
		}
		pid := strings.Split(descriptor, "/")[2]
		name, err := os.ReadFile("/proc/" + pid + "/comm")
		if err != nil {
			continue
		}
		return fmt.Sprintf("process %s (%s)", pid, strings.TrimSpace(string(name))), true
	}
	return "", false
}
