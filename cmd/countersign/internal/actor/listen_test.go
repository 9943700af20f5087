package actor_test

import (
	"errors"
	"net"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/countersign-mesh/countersign/cmd/countersign/internal/actor"
)

// directory makes a directory with a mode, whose path leaves room for a socket.
func directory(t *testing.T, mode os.FileMode) string {
	t.Helper()
	dir, err := os.MkdirTemp("", "cs-") //nolint:usetesting // see above
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := os.RemoveAll(dir); err != nil {
			t.Error(err)
		}
	})
	if err := os.Chmod(dir, mode); err != nil {
		t.Fatal(err)
	}
	return dir
}

// refused fails unless the socket is not opened, for that reason.
func refused(t *testing.T, path, want string) {
	t.Helper()
	listener, err := actor.Listen(t.Context(), path)
	if err == nil {
		t.Errorf("%s was opened: %v", path, listener.Close())
	} else if !strings.Contains(err.Error(), want) {
		t.Errorf("the error is %v, want %q in it", err, want)
	}
}

// Whoever connects acts with another's identity.
func TestNobodyElseGetsToAnActorsSocket(t *testing.T) {
	t.Parallel()
	dir := directory(t, 0o700)
	path := filepath.Join(dir, "phone", actor.SocketName)
	listener, err := actor.Listen(t.Context(), path)
	if err != nil {
		t.Fatal(err)
	}
	for path, want := range map[string]os.FileMode{path: 0o600, filepath.Dir(path): 0o700} {
		if info, err := os.Stat(path); err != nil || info.Mode().Perm() != want {
			t.Errorf("%s has mode %v, %v; want %v", path, info.Mode().Perm(), err, want)
		}
	}
	refused(t, path, actor.ErrServed.Error())
	if err := listener.Close(); err != nil {
		t.Error(err)
	}
	for _, mode := range []os.FileMode{0o755, 0o710, 0o702} {
		refused(t, filepath.Join(directory(t, mode), actor.SocketName), "right would be: chmod 700")
	}
	if os.Geteuid() == 0 {
		foreign := directory(t, 0o700)
		if err := os.Chown(foreign, 65532, 65532); err != nil {
			t.Fatal(err)
		}
		refused(t, filepath.Join(foreign, actor.SocketName), "does not belong to this user")
	}
}

func TestASocketMakesWayOnlyWhenNobodyServesIt(t *testing.T) {
	t.Parallel()
	dir := directory(t, 0o700)
	stale := filepath.Join(dir, "stale")
	left, err := net.ListenUnix("unix", &net.UnixAddr{Name: stale})
	if err != nil {
		t.Fatal(err)
	}
	left.SetUnlinkOnClose(false)
	if err := left.Close(); err != nil {
		t.Fatal(err)
	}
	listener, err := actor.Listen(t.Context(), stale)
	if err != nil {
		t.Fatal(err)
	}
	if err := listener.Close(); err != nil {
		t.Error(err)
	}

	file, link := filepath.Join(dir, "file"), filepath.Join(dir, "link")
	if err := errors.Join(os.WriteFile(file, nil, 0o600), os.Symlink(stale, link)); err != nil {
		t.Fatal(err)
	}
	refused(t, file, "something else than a socket")
	refused(t, link, "something else than a socket")
	refused(t, filepath.Join(dir, strings.Repeat("x", 100)), "at most 103")
}
