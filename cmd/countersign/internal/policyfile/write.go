package policyfile

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"syscall"
	"time"
)

// lockInterval is how often a file that another process is changing is tried again; an edit takes milliseconds.
const lockInterval = 10 * time.Millisecond

// update replaces the text of the file at path by what change makes of it, and returns when. It follows symbolic links, so that the
// link stays and the file that it leads to is replaced: renaming over the link would cut the file off from whoever else reads it under
// its own name. (A ConfigMap of Kubernetes is mounted read-only, and fails.)
//
// Processes that come here at once take turns. What an editor saves meanwhile, which takes no turn, is noticed up to the last moment
// before the rename, and the change is made anew.
func update(ctx context.Context, path string, change func(text string) (string, error)) (time.Time, error) {
	path, err := filepath.EvalSymlinks(path)
	if err != nil {
		return time.Time{}, fmt.Errorf("find the policy file: %w", err)
	}
	if ctx.Err() != nil {
		return time.Time{}, fmt.Errorf("change %s: %w", path, context.Cause(ctx))
	}
	for {
		at, err := attempt(ctx, path, change)
		if !errors.Is(err, errChanged) {
			return at, err
		}
		if ctx.Err() != nil {
			return time.Time{}, fmt.Errorf("%w; it keeps changing: %w", err, context.Cause(ctx))
		}
	}
}

// errChanged means that the file was changed while a change of it was prepared.
var errChanged = errors.New("the policy file was changed by another program meanwhile")

func attempt(ctx context.Context, path string, change func(text string) (string, error)) (at time.Time, err error) {
	held, err := lock(ctx, path)
	if err != nil {
		return time.Time{}, err
	}
	defer func() { err = errors.Join(err, held.Close()) }() // gives the lock back
	before, err := os.ReadFile(path)
	if err != nil {
		return time.Time{}, fmt.Errorf("read the policy: %w", err)
	}
	after, err := change(string(before))
	if err != nil || after == string(before) {
		return time.Now(), err
	}
	info, err := held.Stat()
	if err != nil {
		return time.Time{}, fmt.Errorf("look at the policy: %w", err)
	}
	at, err = replace(path, info, after, func() error {
		if now, err := os.ReadFile(path); err != nil || !bytes.Equal(now, before) {
			return errors.Join(errChanged, err)
		}
		return nil
	})
	if err != nil && !errors.Is(err, errChanged) {
		return time.Time{}, fmt.Errorf("write the policy: %w", err)
	}
	return at, err
}

// lock takes the right to replace the file: flock(2) on the file itself, so that no lock file is left beside it, and the kernel gives the
// lock back when its holder dies. A lock is on what path named when it was opened. Whoever waited for it may hold that of a file that has been
// replaced meanwhile, and has to try again.
func lock(ctx context.Context, path string) (*os.File, error) {
	ticker := time.NewTicker(lockInterval)
	defer ticker.Stop()
	for {
		file, err := os.Open(path)
		if err != nil {
			return nil, fmt.Errorf("open the policy: %w", err)
		}
		err = syscall.Flock(int(file.Fd()), syscall.LOCK_EX|syscall.LOCK_NB)
		if err == nil {
			var current bool
			if current, err = names(path, file); current {
				return file, nil
			}
		} else if errors.Is(err, syscall.EWOULDBLOCK) || errors.Is(err, syscall.EINTR) {
			err = nil
		}
		if err = errors.Join(err, file.Close()); err != nil {
			return nil, fmt.Errorf("lock the policy: %w", err)
		}
		select {
		case <-ctx.Done():
			return nil, fmt.Errorf("lock the policy: another process is changing %s: %w", path, context.Cause(ctx))
		case <-ticker.C:
		}
	}
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

// replace puts a text in the place of a file, with the same mode and owner, and returns when. It is on the disk when replace returns.
// last is asked when all is ready; its error leaves everything as it was.
func replace(path string, old os.FileInfo, text string, last func() error) (at time.Time, err error) {
	file, err := os.CreateTemp(filepath.Dir(path), "."+filepath.Base(path)+"-*") // mode 0600
	if err != nil {
		return time.Time{}, err
	}
	_, err = file.WriteString(text)
	if err == nil {
		err = dress(file, old)
	}
	if err == nil {
		err = file.Sync()
	}
	if err = errors.Join(err, file.Close()); err == nil {
		err = last()
	}
	if err == nil {
		at = time.Now()
		err = os.Rename(file.Name(), path)
	}
	if err != nil {
		return time.Time{}, errors.Join(err, os.Remove(file.Name()))
	}
	if err := syncDirectory(filepath.Dir(path)); err != nil {
		return time.Time{}, fmt.Errorf("%s is changed, but may not be after a power failure: %w", path, err)
	}
	return at, nil
}

// dress gives a new file the owner and the mode of the old one. The owner comes first: changing it takes mode bits away.
func dress(file *os.File, old os.FileInfo) error {
	mine, err := file.Stat()
	if err != nil {
		return err
	}
	was, okWas := old.Sys().(*syscall.Stat_t)
	is, okIs := mine.Sys().(*syscall.Stat_t)
	if okWas && okIs && (was.Uid != is.Uid || was.Gid != is.Gid) {
		if err := file.Chown(int(was.Uid), int(was.Gid)); err != nil {
			return fmt.Errorf("keep the owner of the policy file: %w", err)
		}
	}
	return file.Chmod(old.Mode().Perm())
}

// syncDirectory makes a rename in a directory outlive a power failure.
func syncDirectory(path string) error {
	dir, err := os.Open(path)
	if err != nil {
		return err
	}
	return errors.Join(dir.Sync(), dir.Close())
}
