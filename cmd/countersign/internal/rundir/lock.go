package rundir

import (
	"errors"
	"fmt"
	"os"
	"syscall"
)

// ErrLocked means that another countersign runs a mesh in this directory.
var ErrLocked = errors.New("the run directory is in use")

// Lock holds the right to run a mesh in a directory.
type Lock struct{ file *os.File }

// Lock takes the directory, or fails with ErrLocked. It is flock(2) on a file that stays: the kernel gives the lock back when
// its holder dies, however it dies, and the file is opened close-on-exec, so that no child keeps it.
func (d Dir) Lock() (*Lock, error) {
	file, err := os.OpenFile(d.lock(), os.O_CREATE|os.O_RDWR, 0o600)
	if err != nil {
		return nil, fmt.Errorf("lock the run directory: %w", err)
	}
	err = syscall.Flock(int(file.Fd()), syscall.LOCK_EX|syscall.LOCK_NB)
	if err == nil {
		return &Lock{file: file}, nil
	}
	err = errors.Join(err, file.Close())
	if errors.Is(err, syscall.EWOULDBLOCK) {
		return nil, fmt.Errorf("%w: %s", ErrLocked, d)
	}
	return nil, fmt.Errorf("lock the run directory: %w", err)
}

// Release gives the directory back.
func (l *Lock) Release() error {
	if err := l.file.Close(); err != nil {
		return fmt.Errorf("unlock the run directory: %w", err)
	}
	return nil
}
