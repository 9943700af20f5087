//go:build !linux

package supervisor

import "syscall"

// childAttributes puts a child into a process group of its own, so that the terminal's Ctrl-C reaches the supervisor alone,
// which stops the children in order. A child cannot ask to die with its parent here: after kill -9 of the supervisor,
// countersign down or the next countersign up finds the children in the record and ends them.
func childAttributes() *syscall.SysProcAttr { return &syscall.SysProcAttr{Setpgid: true} }
