// Package named serves the Workload API on a socket of its own for each name that the registration file asks for with a selector
// socket:NAME, at DIR/NAME/api.sock. Whoever connects there has that name (package attest). It is how an authority in a container tells
// other containers apart: each is given the one directory that is for it, as a volume, and sees no other.
//
// A name that the registration file does not ask for has no socket: a directory that somebody put beside the others opens nothing. One that
// the file asks for no longer keeps its socket until the authority stops. Nobody matches it then, and a workload behind it is told so
// (PERMISSION_DENIED, SPIFFE Workload Endpoint §6) and found in the log, where a socket that is gone would look like an authority that is.
package named

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"log/slog"
	"net"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"sync/atomic"
	"time"

	"github.com/countersign-mesh/countersign/services/authority/internal/attest"
	"github.com/countersign-mesh/countersign/services/authority/internal/registration"
	"github.com/countersign-mesh/countersign/services/authority/internal/socket"
)

// file is the socket's name in its directory: a container that has the directory at /run/spiffe finds the Workload API at
// unix:///run/spiffe/api.sock, whichever it is.
const file = "api.sock"

// retryInterval is how often a socket that cannot be opened is tried again: what is wrong with its directory may be mended without a change of the registration file.
const retryInterval = 10 * time.Second

// Sockets are the sockets of one authority. It is used by one goroutine, but for Note. The zero value is not usable; see Open.
type Sockets struct {
	dir     string
	entries *registration.File
	log     *slog.Logger
	retry   time.Duration
	// open has every socket that was opened, fresh those that are not served yet, missing those that cannot be opened.
	open           map[string]net.Listener
	fresh, missing []string
	// said is the last failure in the log, so that it is not there every retryInterval.
	said string
	note atomic.Pointer[string]
}

// Open opens a socket for each name that the entries ask for now. One that cannot be opened is an error, and none is open then: a
// container that is never given its identity is noticed late, and far from where the mistake is.
func Open(ctx context.Context, dir string, entries *registration.File, log *slog.Logger) (*Sockets, error) {
	s := &Sockets{dir: dir, entries: entries, log: log, retry: retryInterval, open: make(map[string]net.Listener)}
	if err := s.add(ctx); err != nil {
		return nil, errors.Join(err, s.Close())
	}
	return s, nil
}

// Len returns how many sockets are open.
func (s *Sockets) Len() int { return len(s.open) }

// Note is what /readyz says of the sockets: "ok" with how many are served, and which cannot be opened. It is safe for concurrent use.
//
// An authority that lacks one is ready: were it not, Compose would start nothing that depends on it, not even the operator's command that revokes an identity,
// and whom that socket is for is told by having none. The note is the warning before the next start, at which it is fatal.
func (s *Sockets) Note() string { return *s.note.Load() }

// Serve gives every socket to serve, also those that the registration file asks for later, until ctx ends or serve fails; it has closed
// them all and serve has returned for each when it returns. A socket that cannot be opened later is logged and noted, and tried again
// when the file changes and every few seconds; the others are served meanwhile.
func (s *Sockets) Serve(ctx context.Context, serve func(net.Listener) error) error {
	var serving sync.WaitGroup
	failed := make(chan error, 1)
	for {
		changed := s.entries.Changed() // before the entries are read, so that no change falls between
		again := s.addOrLog(ctx)
		for _, name := range s.fresh {
			l := s.open[name]
			serving.Go(func() {
				if err := serve(l); err != nil {
					select {
					case failed <- fmt.Errorf("serve the socket %q: %w", name, err):
					default: // another one failed before, which ends them all
					}
				}
			})
		}
		s.fresh = nil
		var err error
		select {
		case <-changed:
			continue
		case <-again:
			continue
		case <-ctx.Done():
		case err = <-failed:
		}
		err = errors.Join(err, s.Close())
		serving.Wait()
		return err
	}
}

// addOrLog opens what can be opened, and returns a channel on which it is time to try again; nil when nothing is missing.
func (s *Sockets) addOrLog(ctx context.Context) (again <-chan time.Time) {
	err := s.add(ctx)
	if err == nil {
		s.said = ""
		return nil
	}
	if text := err.Error(); text != s.said {
		s.said = text
		s.log.ErrorContext(ctx, "a socket that the registration file asks for cannot be opened; whoever it is for gets no identity; it is tried again",
			"every", s.retry, "error", err)
	}
	return time.After(s.retry)
}

// Close closes all sockets. Serve does that by itself.
func (s *Sockets) Close() error {
	var errs []error
	for _, l := range s.open {
		errs = append(errs, l.Close())
	}
	return errors.Join(errs...)
}

// add opens what is asked for and not open. It tries all, so that all that is wrong is said at once.
func (s *Sockets) add(ctx context.Context) error {
	var errs []error
	s.missing = nil
	for _, name := range s.entries.Current().Sockets() {
		if s.open[name] != nil {
			continue
		}
		l, err := s.listen(ctx, name)
		if err != nil {
			dir := filepath.Join(s.dir, name)
			errs = append(errs, fmt.Errorf(
				"the registration file asks for socket:%s: %w; right would be a directory %s, in a container a volume, that belongs to the authority's user (uid %d) and that nobody else may write to",
				name, err, dir, os.Geteuid()))
			s.missing = append(s.missing, "socket:"+name)
			continue
		}
		s.log.InfoContext(ctx, "the Workload API is served on a socket with a name", "name", name, "socket", "unix://"+l.Addr().String())
		s.open[name] = attest.Named(l, name)
		s.fresh = append(s.fresh, name)
	}
	note := s.describe()
	s.note.Store(&note)
	return errors.Join(errs...)
}

// describe makes the note. Why a socket cannot be opened is not in it: whoever reaches the port reads it, and paths are nobody's business there.
func (s *Sockets) describe() string {
	if len(s.missing) == 0 {
		return fmt.Sprintf("ok (%d served)", len(s.open))
	}
	return fmt.Sprintf("ok (%d served; cannot be opened: %s, see the log)", len(s.open), strings.Join(s.missing, ", "))
}

func (s *Sockets) listen(ctx context.Context, name string) (net.Listener, error) {
	dir := filepath.Join(s.dir, name)
	// A link would lead the callers of one name to the directory of another.
	info, err := os.Lstat(dir)
	switch {
	case errors.Is(err, fs.ErrNotExist): // it is made
	case err != nil:
		return nil, fmt.Errorf("look at its directory: %w", err)
	case !info.IsDir():
		return nil, fmt.Errorf("%s is not a directory but %s; links are not followed", dir, kind(info.Mode()))
	}
	return socket.Listen(ctx, filepath.Join(dir, file))
}

func kind(mode fs.FileMode) string {
	if mode&fs.ModeSymlink != 0 {
		return "a symbolic link"
	}
	return "a file"
}
