package supervisor

import "syscall"

// childAttributes puts a child into a process group of its own, so that the terminal's Ctrl-C reaches the supervisor alone,
// which stops the children in order; and has the kernel kill it when the supervisor dies.
func childAttributes() *syscall.SysProcAttr {
	return &syscall.SysProcAttr{Setpgid: true, Pdeathsig: syscall.SIGKILL}
}
