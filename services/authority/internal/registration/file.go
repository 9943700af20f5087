package registration

import (
	"context"
	"fmt"
	"log/slog"
	"os"
	"sync"

	"github.com/spiffe/go-spiffe/v2/spiffeid"

	"github.com/countersign-mesh/countersign/pkg/watchfile"
)

// File is a registration file that is watched. It holds the last good content: a file that cannot be read or does not parse
// changes nothing and is logged. It is safe for concurrent use. The zero value is not usable; see Open.
type File struct {
	path string
	td   spiffeid.TrustDomain
	log  *slog.Logger
	// opened is the text that Open judged.
	opened string

	mu      sync.Mutex
	current *Registry
	changed chan struct{}
}

// Open reads the registration file at path. At this point a file that is wrong is an error. Watch keeps it up to date.
func Open(path string, td spiffeid.TrustDomain, log *slog.Logger) (*File, error) {
	data, err := os.ReadFile(path)
	if err != nil {
		return nil, fmt.Errorf("read the registration file: %w", err)
	}
	registry, err := Parse(path, data, td)
	if err != nil {
		return nil, err
	}
	return &File{path: path, td: td, log: log, opened: string(data), current: registry, changed: make(chan struct{})}, nil
}

// Current returns the entries in force.
func (f *File) Current() *Registry {
	f.mu.Lock()
	defer f.mu.Unlock()
	return f.current
}

// Changed returns a channel that is closed when other entries come into force. Call it before Current.
func (f *File) Changed() <-chan struct{} {
	f.mu.Lock()
	defer f.mu.Unlock()
	return f.changed
}

// Watch keeps the entries up to date until ctx ends, and returns nil then.
func (f *File) Watch(ctx context.Context) error {
	return watchfile.Watch(ctx, watchfile.File(f.path), f.opened, f.log, f.refresh)
}

// refresh puts the file's entries in force if they are good.
func (f *File) refresh(ctx context.Context, file watchfile.Look[string]) {
	registry, err := f.judge(file)
	if err != nil {
		f.log.ErrorContext(ctx, "the registration file is not usable; the last good entries stay in force",
			"file", f.path, "entries", f.Current().Len(), "error", err)
		return
	}
	f.mu.Lock()
	f.current = registry
	close(f.changed)
	f.changed = make(chan struct{})
	f.mu.Unlock()
	f.log.InfoContext(ctx, "new registration entries are in force", "file", f.path, "entries", registry.Len())
}

func (f *File) judge(file watchfile.Look[string]) (*Registry, error) {
	if file.Err != nil {
		return nil, fmt.Errorf("read the registration file: %w", file.Err)
	}
	return Parse(f.path, []byte(file.Value), f.td)
}
