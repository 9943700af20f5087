package actor

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"log/slog"
	"net"
	"os"
	"path/filepath"
	"sync"
	"syscall"

	"github.com/countersign-mesh/countersign/cmd/countersign/internal/dial"
)

// maxSocketPath is what fits into sun_path on every system we run on: 104 bytes with the closing zero on macOS, 108 on Linux.
const maxSocketPath = 103

// ErrServed says that an actor is behind the socket already.
var ErrServed = errors.New("another process serves it already")

// Listen opens the socket at path, for this user alone: whoever connects acts with this process's identity. So its directory, which is made when it
// is missing, must belong to this user and let nobody else in. A socket that nobody serves any more is removed. The listener removes its own when
// it is closed.
func Listen(ctx context.Context, path string) (net.Listener, error) {
	listener, err := listen(ctx, path)
	if err != nil {
		return nil, fmt.Errorf("--listen: open the socket %s: %w", path, err)
	}
	return listener, nil
}

func listen(ctx context.Context, path string) (_ net.Listener, err error) {
	if len(path) > maxSocketPath {
		return nil, fmt.Errorf("its path has %d bytes; a unix socket's has at most %d", len(path), maxSocketPath)
	}
	name := filepath.Dir(path)
	if err := os.MkdirAll(name, 0o700); err != nil {
		return nil, fmt.Errorf("make its directory: %w", err)
	}
	dir, err := os.Open(name)
	if err != nil {
		return nil, fmt.Errorf("open its directory: %w", err)
	}
	defer func() { err = errors.Join(err, dir.Close()) }() // gives the lock back
	if err := private(dir); err != nil {
		return nil, err
	}
	// Two that start at once must not each take the other's socket for one that is left over.
	if err := syscall.Flock(int(dir.Fd()), syscall.LOCK_EX); err != nil {
		return nil, fmt.Errorf("lock its directory: %w", err)
	}
	if err := removeStale(ctx, path); err != nil {
		return nil, err
	}
	var config net.ListenConfig
	listener, err := config.Listen(ctx, "unix", path)
	if err != nil {
		return nil, err
	}
	if err := os.Chmod(path, 0o600); err != nil {
		return nil, errors.Join(err, listener.Close())
	}
	return listener, nil
}

// private fails when others than this user may use a directory.
func private(dir *os.File) error {
	info, err := dir.Stat()
	if err != nil {
		return fmt.Errorf("look at its directory: %w", err)
	}
	if owner, ok := info.Sys().(*syscall.Stat_t); !ok || int(owner.Uid) != os.Geteuid() {
		return fmt.Errorf("its directory %s does not belong to this user (uid %d)", dir.Name(), os.Geteuid())
	}
	if mode := info.Mode().Perm(); mode&0o077 != 0 {
		return fmt.Errorf("its directory %s has mode %#o, so that others could act with this process's identity; right would be: chmod 700 %[1]s", dir.Name(), mode)
	}
	return nil
}

// removeStale makes way: for a socket that nobody serves, and for nothing else.
func removeStale(ctx context.Context, path string) error {
	info, err := os.Lstat(path)
	if errors.Is(err, fs.ErrNotExist) {
		return nil
	}
	if err != nil {
		return fmt.Errorf("look at it: %w", err)
	}
	if info.Mode().Type() != fs.ModeSocket {
		return errors.New("there is something else than a socket; remove it or give another path")
	}
	var dialer net.Dialer
	conn, err := dialer.DialContext(ctx, "unix", path)
	if err == nil {
		return errors.Join(ErrServed, conn.Close())
	}
	if !errors.Is(err, syscall.ECONNREFUSED) {
		return fmt.Errorf("%w, it seems: %w", ErrServed, err)
	}
	if err := os.Remove(path); err != nil {
		return fmt.Errorf("remove the socket that nobody serves: %w", err)
	}
	return nil
}

// Open gets a connection an identity of its own, and says whom it is to call.
type Open func(context.Context) (*dial.Workload, []dial.Target, error)

// ServeAll makes an actor of each connection that the listener accepts, until ctx ends. It closes the listener, and returns once every actor has
// ended. What goes wrong with one is told to who connected, logged, and ends that one alone.
func ServeAll(ctx context.Context, listener net.Listener, open Open, log *slog.Logger) error {
	var actors sync.WaitGroup
	defer actors.Wait()
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	stop := context.AfterFunc(ctx, func() { _ = listener.Close() }) // which ends Accept; its error is no news
	defer stop()
	for {
		conn, err := listener.Accept()
		if ctx.Err() != nil {
			if err == nil {
				err = conn.Close()
			}
			return ignoreClosed(err)
		}
		if err != nil {
			return errors.Join(fmt.Errorf("accept a connection: %w", err), ignoreClosed(listener.Close()))
		}
		actors.Go(func() {
			if err := serveOne(ctx, conn, open); err != nil && ctx.Err() == nil {
				log.WarnContext(ctx, "an actor failed", "err", err)
			}
		})
	}
}

// serveOne is one actor.
func serveOne(ctx context.Context, conn net.Conn, open Open) (err error) {
	stop := context.AfterFunc(ctx, func() { _ = conn.Close() }) // which ends a wait for orders
	defer func() {
		stop()
		err = errors.Join(err, ignoreClosed(conn.Close()))
	}()
	w, to, err := open(ctx)
	if err != nil {
		return errors.Join(err, json.NewEncoder(conn).Encode(hello{Failure: err.Error()}))
	}
	return errors.Join(Serve(ctx, w, to, conn, conn), w.Close())
}

func ignoreClosed(err error) error {
	if errors.Is(err, net.ErrClosed) {
		return nil
	}
	return err
}
