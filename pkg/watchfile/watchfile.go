// Package watchfile follows the content of one file that people and programs change while it is in use.
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

// Look is what reading the file gave: its text, or why it could not be read.
type Look struct {
	Text string
	Err  error
}

func read(path string) Look {
	data, err := os.ReadFile(path)
	return Look{Text: string(data), Err: err}
}

func (l Look) equal(other Look) bool {
	if l.Err != nil && other.Err != nil {
		return l.Err.Error() == other.Err.Error()
	}
	return l.Err == nil && other.Err == nil && l.Text == other.Text
}

// Watch calls changed with each content of the file at path that differs from the one before, the first time from text, until
// ctx ends; it returns nil then. A change is reported within a second. It sees writes, renames into place, and a symlink that is turned
// to another target, as Kubernetes does with a ConfigMap. A file that goes away or cannot be read is a change too. changed is called
// from one goroutine; what it does holds up the watch.
func Watch(ctx context.Context, path, text string, log *slog.Logger, changed func(context.Context, Look)) error {
	// Without notifications, of which a user may have no more left, the file is polled all the same.
	events, errs, closeWatcher, err := notifications(path)
	if err != nil {
		log.WarnContext(ctx, "no notification of changes; the file is polled", "file", path, "interval", pollInterval, "error", err)
	}
	defer closeWatcher()
	poll := time.NewTicker(pollInterval)
	defer poll.Stop()
	last := Look{Text: text}
	for {
		select {
		case <-ctx.Done():
			return nil
		case <-events:
		case err := <-errs:
			log.WarnContext(ctx, "watching a directory failed; its file is still polled", "file", path, "error", err)
		case <-poll.C:
		}
		now := settled(ctx, path, last)
		if ctx.Err() == nil && !now.equal(last) {
			last = now
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

// settled reads the file until two looks, settleTime apart, give the same, or it is as it was last.
func settled(ctx context.Context, path string, last Look) Look {
	now := read(path)
	for range maxLooks {
		if now.equal(last) {
			return now
		}
		select {
		case <-ctx.Done():
			return now
		case <-time.After(settleTime):
		}
		next := read(path)
		if next.equal(now) {
			return next
		}
		now = next
	}
	return now
}
