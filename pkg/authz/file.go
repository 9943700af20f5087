package authz

import (
	"context"
	"fmt"
	"log/slog"
	"maps"
	"os"
	"sync"
	"sync/atomic"
	"time"

	"google.golang.org/grpc"

	"github.com/countersign-mesh/countersign/pkg/identity"
	"github.com/countersign-mesh/countersign/pkg/watchfile"
)

// File is a policy file that is watched. It holds the last good policy: a file that cannot be read, does not parse or does not
// cover the services of this process changes nothing. It is safe for concurrent use. The zero value is not usable; see Open.
type File struct {
	path    string
	log     *slog.Logger
	current atomic.Pointer[Policy]

	mu       sync.Mutex
	services map[string]grpc.ServiceInfo
	// failure is why the file as it is now is not in force; nil when it is.
	failure  error
	failures int
	loaded   time.Time
	changed  chan struct{}
}

// FileOption changes a default of Open.
type FileOption func(*File)

// WithFileLogger sets where reloads are logged; slog.Default by default.
func WithFileLogger(log *slog.Logger) FileOption { return func(f *File) { f.log = log } }

// Open reads the policy file at path. At this point a file that is wrong is an error. Watch keeps it up to date.
func Open(path string, opts ...FileOption) (*File, error) {
	f := &File{path: path, log: slog.Default(), changed: make(chan struct{})}
	for _, opt := range opts {
		opt(f)
	}
	data, err := os.ReadFile(path)
	if err != nil {
		return nil, fmt.Errorf("read the policy: %w", err)
	}
	policy, err := Parse(path, data)
	if err != nil {
		return nil, err
	}
	f.loaded = time.Now()
	f.current.Store(policy)
	return f, nil
}

// Policy returns the policy in force: one atomic load. Whoever decides takes it once, so that no decision sees two policies.
func (f *File) Policy() *Policy { return f.current.Load() }

// Revocations returns whom the policy in force revokes; see transport.Registry.Heed.
func (f *File) Revocations() *identity.Revocations { return f.Policy().Revocations() }

// Require makes the policy cover a server's services (see Policy.Covers): it fails when the policy in force does not, and from
// then on no policy comes into force that does not.
func (f *File) Require(services map[string]grpc.ServiceInfo) error {
	f.mu.Lock()
	defer f.mu.Unlock()
	if err := f.current.Load().Covers(services); err != nil {
		return err
	}
	if f.services == nil {
		f.services = make(map[string]grpc.ServiceInfo)
	}
	maps.Copy(f.services, services) // a process may have more than one server
	return nil
}

// FileStatus is a snapshot of a File.
type FileStatus struct {
	// Version is the version of the policy in force, Loaded when it came into force.
	Version string
	Loaded  time.Time
	// Failure is why the file as it is now is not in force; nil when it is. Failures counts all there were.
	Failure  error
	Failures int
}

// Status returns a snapshot.
func (f *File) Status() FileStatus {
	f.mu.Lock()
	defer f.mu.Unlock()
	return FileStatus{Version: f.Policy().Version(), Loaded: f.loaded, Failure: f.failure, Failures: f.failures}
}

// Changed returns a channel that is closed when the next policy comes into force.
func (f *File) Changed() <-chan struct{} {
	f.mu.Lock()
	defer f.mu.Unlock()
	return f.changed
}

// Watch keeps the policy up to date until ctx ends, and returns nil then. A change is in force within a second. It sees
// writes, renames into place, and a symlink that is turned to another target, as Kubernetes does with a ConfigMap.
func (f *File) Watch(ctx context.Context) error {
	return watchfile.Watch(ctx, f.path, f.Policy().text, f.log, f.refresh)
}

// refresh puts the file as it is now in force if it is good.
func (f *File) refresh(ctx context.Context, file watchfile.Look) {
	if file.Err != nil {
		f.reject(ctx, fmt.Errorf("read the policy: %w", file.Err))
		return
	}
	if file.Text == f.Policy().text {
		f.readmit(ctx)
		return
	}
	policy, err := Parse(f.path, []byte(file.Text))
	if err != nil {
		f.reject(ctx, err)
		return
	}
	f.install(ctx, policy)
}

// install puts policy in force if it covers the services of this process.
func (f *File) install(ctx context.Context, policy *Policy) {
	f.mu.Lock()
	err := policy.Covers(f.services)
	if err != nil {
		f.mu.Unlock()
		f.reject(ctx, err)
		return
	}
	old := f.current.Swap(policy)
	f.failure, f.loaded = nil, time.Now()
	close(f.changed)
	f.changed = make(chan struct{})
	f.mu.Unlock()
	f.log.InfoContext(ctx, "a new policy is in force", "file", f.path, "version", policy.Version(), "replaced", old.Version())
}

// reject keeps the policy in force and says why.
func (f *File) reject(ctx context.Context, err error) {
	f.mu.Lock()
	f.failure = err
	f.failures++
	f.mu.Unlock()
	f.log.ErrorContext(ctx, "the policy file is not usable; the last good policy stays in force",
		"file", f.path, "version", f.Policy().Version(), "error", err)
}

// readmit notes that the file is back as it is in force, after it was away or broken.
func (f *File) readmit(ctx context.Context) {
	f.mu.Lock()
	f.failure = nil
	f.mu.Unlock()
	f.log.InfoContext(ctx, "the policy file is back as it is in force", "file", f.path, "version", f.Policy().Version())
}
