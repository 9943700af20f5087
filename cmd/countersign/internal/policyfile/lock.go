package policyfile

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"syscall"
	"time"
)

const (
	// lockInterval is how often a file that another process is changing is tried again; an edit takes milliseconds.
	lockInterval = 10 * time.Millisecond
	// lockBound is how long the lock of one file is waited for. Whoever may read a file may lock it, flock(2) asks for no more, and every service reads its
	// policy: the very workload that is to be revoked can hold the lock for as long as it likes. So the lock only keeps writers in turn. The
	// change is then made without it; what guards the text of others is that it is compared right before the rename. Two that both go
	// on without the lock, within microseconds, are the case that is left: the servers then never report the version of the one that lost.
	lockBound = time.Second
	// staleAge is how old the temporary file of a writer that was killed has to be to be removed. A writer that lives is done with its own long
	// before, one that goes on without the lock too.
	staleAge = time.Minute
)

// turn is that of one writer, however often it makes its change anew. The zero value waits for nothing yet.
type turn struct {
	// file is the one whose lock is waited for, or held.
	file  *os.File
	until time.Time
}

// take takes the right to replace the file at path: flock(2) on the file itself, so that no lock file is left beside it, and the kernel gives the
// lock back when its holder dies. A lock is on what path named when it was opened. Whoever waited for it may hold that of a file that has been
// replaced meanwhile, and has to try again. When the wait is over, locked is false.
func (t *turn) take(ctx context.Context, path string) (locked bool, err error) {
	ticker := time.NewTicker(lockInterval)
	defer ticker.Stop()
	for {
		if err := t.open(path); err != nil {
			return false, fmt.Errorf("open the policy: %w", err)
		}
		locked, err := tryLock(path, t.file)
		if err != nil {
			return false, fmt.Errorf("lock the policy: %w", err)
		}
		if locked || !time.Now().Before(t.until) {
			return locked, nil
		}
		select {
		case <-ctx.Done():
			return false, fmt.Errorf("lock the policy: another process is changing %s: %w", path, context.Cause(ctx))
		case <-ticker.C:
		}
	}
}

// open opens the file at path. If it is not the one that is waited for, the wait begins anew: a writer had the lock and has replaced the file, which
// whoever may only read it cannot. Many writers, or slow ones, are not what lockBound is there for. The file that is waited for stays open, and
// while it is, no other has its number.
func (t *turn) open(path string) error {
	file, err := os.Open(path)
	if err != nil {
		return err
	}
	if t.file != nil {
		same, err := names(path, t.file)
		if err != nil || same {
			return errors.Join(err, file.Close())
		}
		if err := t.file.Close(); err != nil {
			return errors.Join(err, file.Close())
		}
	}
	t.file, t.until = file, time.Now().Add(lockBound)
	return nil
}

// end gives the lock back.
func (t *turn) end() error {
	if t.file == nil {
		return nil
	}
	return t.file.Close()
}

// tryLock reports whether it got the lock of the file that path names now.
func tryLock(path string, file *os.File) (bool, error) {
	err := syscall.Flock(int(file.Fd()), syscall.LOCK_EX|syscall.LOCK_NB)
	if errors.Is(err, syscall.EWOULDBLOCK) || errors.Is(err, syscall.EINTR) {
		return false, nil
	}
	if err != nil {
		return false, err
	}
	return names(path, file)
}

// names reports whether path still names an open file.
func names(path string, file *os.File) (bool, error) {
	opened, err := file.Stat()
	if err != nil {
		return false, err
	}
	now, err := os.Stat(path)
	if err != nil {
		return false, err
	}
	return os.SameFile(opened, now), nil
}

// temporary returns what the names of the temporary files of path begin with. Nobody else names a file like that; what follows is digits.
func temporary(path string) string { return "." + filepath.Base(path) + ".countersign-" }

// sweep removes what writers left beside path that were killed before they could rename it. That is housekeeping: what cannot be removed
// does not keep a revocation from being written.
func sweep(path string, now time.Time) {
	entries, err := os.ReadDir(filepath.Dir(path))
	if err != nil {
		return
	}
	for _, entry := range entries {
		digits, ours := strings.CutPrefix(entry.Name(), temporary(path))
		if !ours || digits == "" || strings.Trim(digits, "0123456789") != "" || !entry.Type().IsRegular() {
			continue
		}
		if info, err := entry.Info(); err == nil && now.Sub(info.ModTime()) > staleAge {
			_ = os.Remove(filepath.Join(filepath.Dir(path), entry.Name()))
		}
	}
}
