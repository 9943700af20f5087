//go:build unix

// Package socket opens the unix socket of a Workload API where nobody else can take its place.
//
// Everybody may connect (the socket has mode 0777, as SPIRE's has): who a caller is, attestation says. Who may reach the socket at all
// is for the permissions of its directory, and so is who could put another in its place, which is the greater danger, since a
// workload believes whoever answers there. The directory must therefore belong to the user that runs the authority, and nobody else
// may write there, not even with the sticky bit: that keeps others from removing a socket, not from being there first. Of the
// directories above, one that everybody may write to must be sticky, as /tmp is.
package socket

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"net"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"syscall"
	"time"

	"golang.org/x/sys/unix"
)

const (
	// dirMode is for a directory that is made here, socketMode for the socket.
	dirMode    = 0o755
	socketMode = 0o777
	// answerTimeout is how long a socket that is there already has to show that somebody serves it.
	answerTimeout = time.Second
)

// ErrServed says that another process serves the socket.
var ErrServed = errors.New("another process is serving it already")

// Listen opens the socket at path. It makes the directory when it is missing, and removes a socket that nobody serves any more. The
// listener removes the socket when it is closed.
func Listen(ctx context.Context, path string) (net.Listener, error) {
	l, err := listen(ctx, path)
	if err != nil {
		return nil, fmt.Errorf("open the socket %s: %w", path, err)
	}
	return l, nil
}

func listen(ctx context.Context, path string) (net.Listener, error) {
	path, err := checkPath(path)
	if err != nil {
		return nil, err
	}
	dir := filepath.Dir(path)
	if err := os.MkdirAll(dir, dirMode); err != nil {
		return nil, fmt.Errorf("make its directory: %w", err)
	}
	// Two that start at once must not each take the other's socket for a stale one.
	unlock, err := lockDir(dir)
	if err != nil {
		return nil, err
	}
	defer unlock()
	if err := checkDir(dir); err != nil {
		return nil, err
	}
	if err := removeStale(ctx, path); err != nil {
		return nil, err
	}
	return bind(ctx, path)
}

// checkPath refuses what the kernel would cut off or take for something else.
func checkPath(path string) (string, error) {
	switch {
	case strings.HasPrefix(path, "unix:"), strings.HasPrefix(path, "tcp:"):
		return "", errors.New("this is an address; right would be the path alone, such as /run/countersign/api.sock")
	case strings.HasPrefix(path, "@"), strings.ContainsRune(path, 0):
		return "", errors.New("a socket outside the file system has no permissions; right would be a path")
	case path == "" || strings.HasSuffix(path, "/"):
		return "", errors.New("it names no file; right would be a path such as /run/countersign/api.sock")
	}
	abs, err := filepath.Abs(path)
	if err != nil {
		return "", fmt.Errorf("find it: %w", err)
	}
	if longest := len(unix.RawSockaddrUnix{}.Path) - 1; len(abs) > longest {
		return "", fmt.Errorf("its path has %d bytes; this system takes %d", len(abs), longest)
	}
	return abs, nil
}

// lockDir locks a directory for as long as it takes to open a socket in it.
func lockDir(dir string) (unlock func(), err error) {
	file, err := os.Open(dir)
	if err != nil {
		return nil, fmt.Errorf("open its directory: %w", err)
	}
	if err := unix.Flock(int(file.Fd()), unix.LOCK_EX); err != nil {
		return nil, errors.Join(fmt.Errorf("lock its directory: %w", err), file.Close())
	}
	return func() { _ = file.Close() }, nil // it was only read
}

// checkDir holds the rules of the package comment.
func checkDir(dir string) error {
	resolved, err := filepath.EvalSymlinks(dir)
	if err != nil {
		return fmt.Errorf("find its directory: %w", err)
	}
	info, err := os.Lstat(resolved)
	if err != nil {
		return fmt.Errorf("look at its directory: %w", err)
	}
	if stat, ok := info.Sys().(*syscall.Stat_t); !ok || int(stat.Uid) != os.Geteuid() {
		return fmt.Errorf("its directory %s does not belong to the user that runs the authority (uid %d)", resolved, os.Geteuid())
	}
	if info.Mode().Perm()&0o022 != 0 {
		return fmt.Errorf("its directory %s has mode %04o, so that others could put a socket of theirs in its place; right would be: chmod go-w %s",
			resolved, info.Mode().Perm(), resolved)
	}
	for parent := filepath.Dir(resolved); ; parent = filepath.Dir(parent) {
		info, err := os.Lstat(parent)
		if err != nil {
			return fmt.Errorf("look at a directory above it: %w", err)
		}
		if info.Mode().Perm()&0o002 != 0 && info.Mode()&fs.ModeSticky == 0 {
			return fmt.Errorf("everybody may rename what is in %s, a directory above it; right would be: chmod o-w %s", parent, parent)
		}
		if parent == filepath.Dir(parent) {
			return nil
		}
	}
}

// removeStale makes way: for a socket of this user that nobody serves, and for nothing else.
func removeStale(ctx context.Context, path string) error {
	info, err := os.Lstat(path)
	switch {
	case errors.Is(err, fs.ErrNotExist):
		return nil
	case err != nil:
		return fmt.Errorf("look at it: %w", err)
	case info.Mode()&fs.ModeSymlink != 0:
		return errors.New("there is a symbolic link; it is not followed, remove it")
	case info.Mode().Type() != fs.ModeSocket:
		return errors.New("there is a file that is no socket; remove it or give another path")
	}
	dialer := net.Dialer{Timeout: answerTimeout}
	conn, err := dialer.DialContext(ctx, "unix", path)
	switch {
	case err == nil:
		return errors.Join(ErrServed, conn.Close())
	case errors.Is(err, syscall.ECONNREFUSED):
	case errors.Is(err, fs.ErrNotExist):
		return nil
	default:
		return fmt.Errorf("%w, it seems: %w", ErrServed, err)
	}
	if err := os.Remove(path); err != nil && !errors.Is(err, fs.ErrNotExist) {
		return fmt.Errorf("remove the socket that nobody serves: %w", err)
	}
	return nil
}

func bind(ctx context.Context, path string) (net.Listener, error) {
	var config net.ListenConfig
	opened, err := config.Listen(ctx, "unix", path)
	if err != nil {
		return nil, err
	}
	l, ok := opened.(*net.UnixListener)
	if !ok {
		return nil, errors.Join(fmt.Errorf("the system gave a %T", opened), opened.Close())
	}
	l.SetUnlinkOnClose(false) // by name alone; see listener.Close
	info, err := os.Lstat(path)
	if err == nil {
		err = os.Chmod(path, socketMode)
	}
	if err != nil {
		return nil, errors.Join(err, l.Close(), os.Remove(path))
	}
	return &listener{UnixListener: l, path: path, made: info}, nil
}

// listener removes its socket when it is closed.
type listener struct {
	*net.UnixListener
	path string
	made fs.FileInfo
	once sync.Once
	err  error
}

// Close implements net.Listener. It is the socket that was made here that goes, not one that stands in its place by now.
func (l *listener) Close() error {
	l.once.Do(func() {
		if info, err := os.Lstat(l.path); err == nil && os.SameFile(info, l.made) {
			l.err = os.Remove(l.path)
		}
		l.err = errors.Join(l.err, l.UnixListener.Close())
	})
	return l.err
}
