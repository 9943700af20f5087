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

// written says how an update went.
type written struct {
	// at is when the new text took the place of the old one.
	at time.Time
	// unlocked says that the lock was not to be had; see lockBound.
	unlocked bool
}

// update replaces the text of the file at path by what change makes of it. It follows symbolic links, so that the link stays and the file
// that it leads to is replaced: renaming over the link would cut the file off from whoever else reads it under its own name. (A ConfigMap
// of Kubernetes is mounted read-only, and fails.)
//
// Processes that come here at once take turns. What an editor saves meanwhile, which takes no turn, is noticed up to the last moment
// before the rename, and so is a link that is turned: the change is made anew.
func update(ctx context.Context, path string, change func(text string) (string, error)) (done written, err error) {
	if ctx.Err() != nil {
		return written{}, fmt.Errorf("change %s: %w", path, context.Cause(ctx))
	}
	var mine turn
	defer func() { err = errors.Join(err, mine.end()) }()
	for {
		done, err := attempt(ctx, path, &mine, change)
		if !errors.Is(err, errChanged) {
			return done, err
		}
		if ctx.Err() != nil {
			return written{}, fmt.Errorf("%w; it keeps changing: %w", err, context.Cause(ctx))
		}
	}
}

// errChanged means that the file was changed while a change of it was prepared.
var errChanged = errors.New("the policy file was changed by another program meanwhile")

func attempt(ctx context.Context, link string, mine *turn, change func(text string) (string, error)) (written, error) {
	path, err := filepath.EvalSymlinks(link)
	if err != nil {
		return written{}, fmt.Errorf("find the policy file: %w", err)
	}
	locked, err := mine.take(ctx, path)
	if err != nil {
		return written{}, err
	}
	before, err := os.ReadFile(path)
	if err != nil {
		return written{}, fmt.Errorf("read the policy: %w", err)
	}
	after, err := change(string(before))
	if err != nil || after == string(before) {
		return written{at: time.Now(), unlocked: !locked}, err
	}
	info, err := os.Stat(path) // without the lock, file may be one that was replaced
	if err != nil {
		return written{}, fmt.Errorf("look at the policy: %w", err)
	}
	if locked {
		sweep(path, time.Now())
	}
	at, err := replace(path, info, after, func() error { return unchanged(link, path, before) })
	if err != nil && !errors.Is(err, errChanged) {
		return written{}, fmt.Errorf("write the policy: %w", err)
	}
	return written{at: at, unlocked: !locked}, err
}

// unchanged fails when a link leads elsewhere than to path by now, or the text there is another.
func unchanged(link, path string, text []byte) error {
	target, err := filepath.EvalSymlinks(link)
	if err != nil || target != path {
		return errors.Join(errChanged, err)
	}
	if now, err := os.ReadFile(path); err != nil || !bytes.Equal(now, text) {
		return errors.Join(errChanged, err)
	}
	return nil
}

// replace puts a text in the place of a file, with the same mode and owner, and returns when. It is on the disk when replace returns.
// last is asked when all is ready; its error leaves everything as it was.
func replace(path string, old os.FileInfo, text string, last func() error) (at time.Time, err error) {
	file, err := os.CreateTemp(filepath.Dir(path), temporary(path)+"*") // mode 0600
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
