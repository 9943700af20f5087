package supervisor

import (
	"os/exec"
	"runtime"
)

// spawner starts every child from one operating-system thread that lives as long as the mesh does.
//
// On Linux a child asks to be killed when its parent dies (PR_SET_PDEATHSIG), so that even kill -9 of the supervisor leaves no
// orphan. The kernel takes for the parent the thread that forked, not the process: a thread that the Go runtime ends,
// because a goroutine returned that was still locked to it, would take the children that it started with it. Nobody else
// ever runs on this thread, and its goroutine is told to end only after every child has been waited for. That the parent
// dies between fork and prctl is seen to by package syscall, which compares the parent's ID afterwards.
type spawner struct {
	requests chan spawnRequest
	done     chan struct{}
}

type spawnRequest struct {
	cmd    *exec.Cmd
	answer chan error
}

func newSpawner() *spawner {
	s := &spawner{requests: make(chan spawnRequest), done: make(chan struct{})}
	go s.run()
	return s
}

func (s *spawner) run() {
	defer close(s.done)
	runtime.LockOSThread()
	defer runtime.UnlockOSThread()
	for r := range s.requests {
		r.answer <- r.cmd.Start()
	}
}

// start starts cmd as a child that dies with this process.
func (s *spawner) start(cmd *exec.Cmd) error {
	cmd.SysProcAttr = childAttributes()
	answer := make(chan error)
	s.requests <- spawnRequest{cmd: cmd, answer: answer}
	return <-answer
}

// close ends the thread. Every child must have ended.
func (s *spawner) close() {
	close(s.requests)
	<-s.done
}
