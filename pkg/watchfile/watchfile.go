// Package watchfile follows the content of a file, or of several that belong together, that people and programs change while it is in use.
package watchfile

import (
	"context"
	"log/slog"
	"os"
	"path/filepath"
	"time"

	"github.com/fsnotify/fsnotify"
)

const (
	// pollInterval is how often the file is looked at without being told of a change. It bounds how long a change can go
	// unseen where the file system tells nothing: network file systems, and symlinks that lead out of the directory.
	pollInterval = 500 * time.Millisecond
	// settleTime is how long the content must stay as it is before it is reported, so that a writer that does not rename into
	// place is not caught with the file half written.
	settleTime = 50 * time.Millisecond
	// maxLooks bounds how often a file that keeps changing is read before its content is reported as it is: a writer that never
	// rests must not keep a change out for good.
	maxLooks = 10
)

// Content is what is watched, where it is more than the text of one file. T is what reading it gives.
type Content[T any] struct {
	// Path is the file that leads to all of it. Changes in its directory are noticed at once, those elsewhere by looking.
	Path string
	// Read reads it.
	Read func() (T, error)
	// Equal reports whether two readings are the same.
	Equal func(a, b T) bool
}

// Look is what reading gave, or why it could not be read.
type Look[T any] struct {
	Value T
	Err   error
}

func (c Content[T]) look() Look[T] {
	value, err := c.Read()
	return Look[T]{value, err}
}

func (c Content[T]) equal(a, b Look[T]) bool {
	if a.Err != nil && b.Err != nil {
		return a.Err.Error() == b.Err.Error()
	}
	return a.Err == nil && b.Err == nil && c.Equal(a.Value, b.Value)
}

// File is the text of one file.
func File(path string) Content[string] {
	return Content[string]{
		Path: path,
		Read: func() (string, error) {
			text, err := os.ReadFile(path)
			return string(text), err
		},
		Equal: func(a, b string) bool { return a == b },
	}
}

// Watch calls changed with each content that differs from the one before, the first time from last, until ctx ends; it returns nil then. A change
// is reported within a second. It sees writes, renames into place, and a symlink that is turned to another target, as Kubernetes does
// with a ConfigMap. What goes away or cannot be read is a change too. changed is called from one goroutine; what it does holds up the watch.
func Watch[T any](ctx context.Context, content Content[T], last T, log *slog.Logger, changed func(context.Context, Look[T])) error {
	// Without notifications, of which a user may have no more left, the file is polled all the same.
	events, errs, closeWatcher, err := notifications(content.Path)
	if err != nil {
		log.WarnContext(ctx, "no notification of changes; the file is polled", "file", content.Path, "interval", pollInterval, "error", err)
	}
	defer closeWatcher()
	poll := time.NewTicker(pollInterval)
	defer poll.Stop()
	known := Look[T]{Value: last}
	for {
		select {
		case <-ctx.Done():
			return nil
		case <-events:
		case err := <-errs:
			log.WarnContext(ctx, "watching a directory failed; its file is still polled", "file", content.Path, "error", err)
		case <-poll.C:
		}
		now := content.settled(ctx, known)
		if ctx.Err() == nil && !content.equal(now, known) {
			known = now
			changed(ctx, now)
		}
	}
}

// notifications tells of changes in the directory of path. The directory, not the file: a rename into place would leave a watch on
// the file that was replaced.
func notifications(path string) (events chan fsnotify.Event, errs chan error, done func(), err error) {
	watcher, err := fsnotify.NewWatcher()
	if err != nil {
		return nil, nil, func() {}, err
	}
	if err := watcher.Add(filepath.Dir(path)); err != nil {
		_ = watcher.Close() // it fails only when it was closed before
		return nil, nil, func() {}, err
	}
	return watcher.Events, watcher.Errors, func() { _ = watcher.Close() }, nil
}

// settled reads until two looks, settleTime apart, give the same, or it is as it was known.
func (c Content[T]) settled(ctx context.Context, known Look[T]) Look[T] {
	now := c.look()
	for range maxLooks {
		if c.equal(now, known) {
			return now
		}
		select {
		case <-ctx.Done():
			return now
		case <-time.After(settleTime):
		}
		next := c.look()
		if c.equal(next, now) {
			return next
		}
		now = next
	}
	return now
}
