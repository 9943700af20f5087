// Package authz asks the policy on every call and every message of a stream.
//
// File keeps the latest good policy of a file in force, and Guard asks it. Package policy is what they ask.
package authz

import (
	"context"
	"errors"
	"log/slog"
	"maps"
	"sync"
	"sync/atomic"
	"time"

	"google.golang.org/grpc"

	"github.com/countersign-mesh/countersign/pkg/identity"
	"github.com/countersign-mesh/countersign/pkg/policy"
	"github.com/countersign-mesh/countersign/pkg/watchfile"
)

// File is a policy file that is watched, with the files that it includes. It holds the last good policy: a file that cannot be read, does not parse or does not
// cover the services of this process changes nothing. It is safe for concurrent use. The zero value is not usable; see Open.
type File struct {
	path    string
	log     *slog.Logger
	current atomic.Pointer[policy.Policy]

	mu       sync.Mutex
	services map[string][]string
	// userless are those of them whose server verifies no users' tokens.
	userless map[string][]string
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
	loaded, err := policy.Load(path)
	if err != nil {
		return nil, err
	}
	f.loaded = time.Now()
	f.current.Store(loaded)
	return f, nil
}

// Policy returns the policy in force: one atomic load. Whoever decides takes it once, so that no decision sees two policies.
func (f *File) Policy() *policy.Policy { return f.current.Load() }

// Revocations returns whom the policy in force revokes; see transport.Registry.Heed.
func (f *File) Revocations() *identity.Revocations { return f.Policy().Revocations() }

// Require makes the policy cover a server's services (see policy.Policy.Covers), and have no rule with a user for them unless the server verifies users' tokens: it fails
// when the policy in force is not so, and from then on no policy comes into force that is not.
func (f *File) Require(services map[string]grpc.ServiceInfo, users bool) error {
	served := methodsOf(services)
	var userless map[string][]string
	if !users {
		userless = served
	}
	f.mu.Lock()
	defer f.mu.Unlock()
	if err := fits(f.current.Load(), served, userless); err != nil {
		return err
	}
	if f.services == nil {
		f.services, f.userless = make(map[string][]string), make(map[string][]string)
	}
	maps.Copy(f.services, served) // a process may have more than one server
	maps.Copy(f.userless, userless)
	return nil
}

// fits reports where a policy does not fit the services of a process.
func fits(p *policy.Policy, services, userless map[string][]string) error {
	return errors.Join(p.Covers(services), p.WithoutUsers(userless))
}

// methodsOf returns the names of the methods of each service.
func methodsOf(services map[string]grpc.ServiceInfo) map[string][]string {
	served := make(map[string][]string, len(services))
	for name, info := range services {
		methods := []string{} // a service without methods is one
		for _, m := range info.Methods {
			methods = append(methods, m.Name)
		}
		served[name] = methods
	}
	return served
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
	inForce := f.Policy().Source()
	latest := inForce // of all looks, so that a look that finds nothing new parses nothing
	read := func() (policy.Source, error) {
		now, err := latest.Again()
		if err == nil {
			latest = now
		}
		return now, err
	}
	return watchfile.Watch(ctx, watchfile.Content[policy.Source]{Path: f.path, Read: read, Equal: policy.Source.Equal}, inForce, f.log, f.refresh)
}

// refresh puts the file as it is now in force if it is good.
func (f *File) refresh(ctx context.Context, now watchfile.Look[policy.Source]) {
	if now.Err != nil {
		f.reject(ctx, now.Err)
		return
	}
	if now.Value.Equal(f.Policy().Source()) {
		f.readmit(ctx)
		return
	}
	next, err := policy.Compile(now.Value)
	if err != nil {
		f.reject(ctx, err)
		return
	}
	f.install(ctx, next)
}

// install puts a policy in force if it covers the services of this process.
func (f *File) install(ctx context.Context, next *policy.Policy) {
	f.mu.Lock()
	err := fits(next, f.services, f.userless)
	if err != nil {
		f.mu.Unlock()
		f.reject(ctx, err)
		return
	}
	old := f.current.Swap(next)
	f.failure, f.loaded = nil, time.Now()
	close(f.changed)
	f.changed = make(chan struct{})
	f.mu.Unlock()
	f.log.InfoContext(ctx, "a new policy is in force", "file", f.path, "version", next.Version(), "replaced", old.Version())
}

// reject keeps the policy in force and says why.
func (f *File) reject(ctx context.Context, err error) {
	f.log.ErrorContext(ctx, "the policy file is not usable; the last good policy stays in force",
		"file", f.path, "version", f.Policy().Version(), "error", err)
	// After the log, so that whoever sees the failure finds it there.
	f.mu.Lock()
	defer f.mu.Unlock()
	f.failure = err
	f.failures++
}

// readmit notes that the file is back as it is in force, after it was away or broken.
func (f *File) readmit(ctx context.Context) {
	f.mu.Lock()
	f.failure = nil
	f.mu.Unlock()
	f.log.InfoContext(ctx, "the policy file is back as it is in force", "file", f.path, "version", f.Policy().Version())
}
