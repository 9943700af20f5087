package rules

import (
	"context"
	"fmt"
	"log/slog"
	"os"
	"sync"
	"sync/atomic"
	"time"

	"github.com/countersign-mesh/countersign/pkg/watchfile"
	"github.com/countersign-mesh/countersign/services/risk/internal/risk"
)

// File is a rules file that is watched. It holds the last good rules: a file that cannot be read or is wrong changes nothing. It is safe for
// concurrent use. The zero value is not usable; see Open.
type File struct {
	path    string
	current atomic.Pointer[held]

	mu sync.Mutex
	// failure is why the file as it is now is not in force; nil when it is.
	failure  error
	failures int
}

// held is rules with the text that they were read from.
type held struct {
	rules  risk.Rules
	text   string
	loaded time.Time
}

// Open reads the rules in the file at path. At this point a file that is wrong is an error. Watch keeps them up to date.
func Open(path string) (*File, error) {
	text, err := os.ReadFile(path)
	if err != nil {
		return nil, fmt.Errorf("read rules: %w", err)
	}
	first, err := Parse(path, text)
	if err != nil {
		return nil, err
	}
	f := &File{path: path}
	f.current.Store(&held{first, string(text), time.Now()})
	return f, nil
}

// Rules returns the rules in force: one atomic load. Whoever assesses takes them once, so that no assessment is under two versions.
func (f *File) Rules() risk.Rules { return f.current.Load().rules }

// Status is a snapshot of a File.
type Status struct {
	// Version is the version of the rules in force, Loaded when they came into force.
	Version string
	Loaded  time.Time
	// Failure is why the file as it is now is not in force; nil when it is. Failures counts all there were.
	Failure  error
	Failures int
}

// Status returns a snapshot.
func (f *File) Status() Status {
	f.mu.Lock()
	defer f.mu.Unlock()
	now := f.current.Load()
	return Status{Version: now.rules.Version, Loaded: now.loaded, Failure: f.failure, Failures: f.failures}
}

// Watch keeps the rules up to date until ctx ends, and returns nil then. A change is in force within a second. It sees what package
// watchfile sees. What changes, and what does not and why, goes to log.
func (f *File) Watch(ctx context.Context, log *slog.Logger) error {
	return watchfile.Watch(ctx, watchfile.File(f.path), f.current.Load().text, log, func(ctx context.Context, now watchfile.Look[string]) {
		f.refresh(ctx, log, now)
	})
}

// refresh puts the rules of the file as it is now in force if they are good.
func (f *File) refresh(ctx context.Context, log *slog.Logger, now watchfile.Look[string]) {
	old := f.current.Load()
	next, err := risk.Rules{}, now.Err
	if err == nil {
		next, err = Parse(f.path, []byte(now.Value))
	}
	if err != nil {
		log.ErrorContext(ctx, "the rules file is not usable; the last good rules stay in force",
			"file", f.path, "version", old.rules.Version, "error", err)
		// After the log, so that whoever sees the failure finds it there.
		f.mu.Lock()
		defer f.mu.Unlock()
		f.failure = err
		f.failures++
		return
	}
	f.mu.Lock()
	f.failure = nil
	if now.Value != old.text {
		f.current.Store(&held{next, now.Value, time.Now()})
	}
	f.mu.Unlock()
	if now.Value == old.text { // it was away or broken
		log.InfoContext(ctx, "the rules file is back as it is in force", "file", f.path, "version", old.rules.Version)
		return
	}
	log.InfoContext(ctx, "new rules are in force", "file", f.path, "version", next.Version, "replaced", old.rules.Version)
}
