//go:build unix

package socket

import (
	"errors"
	"io/fs"
	"net"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"

	"go.uber.org/goleak"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

// room returns a short private directory.
func room(t *testing.T) string {
	t.Helper()
	dir, err := os.MkdirTemp("/tmp", "socket") //nolint:usetesting // a socket's path must be short
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = os.RemoveAll(dir) })
	resolved, err := filepath.EvalSymlinks(dir)
	if err != nil {
		t.Fatal(err)
	}
	return resolved
}

func mustListen(t *testing.T, path string) net.Listener {
	t.Helper()
	l, err := Listen(t.Context(), path)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = l.Close() })
	return l
}

func TestASocketIsOpenToAllAndGoesAway(t *testing.T) {
	t.Parallel()
	path := filepath.Join(room(t), "new", "api.sock")
	l := mustListen(t, path)
	info, err := os.Lstat(path)
	if err != nil {
		t.Fatal(err)
	}
	if info.Mode() != fs.ModeSocket|0o777 {
		t.Errorf("mode %s", info.Mode())
	}
	conn, err := net.Dial("unix", path)
	if err != nil {
		t.Fatal(err)
	}
	if err := conn.Close(); err != nil {
		t.Fatal(err)
	}
	if err := l.Close(); err != nil {
		t.Fatal(err)
	}
	if err := l.Close(); err != nil {
		t.Errorf("closing twice: %v", err)
	}
	if _, err := os.Lstat(path); !errors.Is(err, fs.ErrNotExist) {
		t.Errorf("after the end: %v", err)
	}
}

// ATTACKS 32: each of these could give the workloads another authority than the one that is started.
func TestListenRefuses(t *testing.T) {
	t.Parallel()
	for name, test := range map[string]struct {
		prepare func(t *testing.T, dir string) (path string)
		want    string
	}{
		"a directory that its group may write to": {func(t *testing.T, dir string) string {
			t.Helper()
			chmod(t, dir, 0o775)
			return dir + "/s"
		}, "chmod go-w"},
		"a sticky directory that all may write to": {func(t *testing.T, dir string) string {
			t.Helper()
			chmod(t, dir, 0o777|fs.ModeSticky)
			return dir + "/s"
		}, "chmod go-w"},
		"a directory above that all may write to": {func(t *testing.T, dir string) string {
			t.Helper()
			if err := os.Mkdir(dir+"/d", 0o700); err != nil {
				t.Fatal(err)
			}
			chmod(t, dir, 0o777)
			return dir + "/d/s"
		}, "a directory above it"},
		"a symbolic link": {func(t *testing.T, dir string) string {
			t.Helper()
			if err := os.Symlink(dir+"/other", dir+"/s"); err != nil {
				t.Fatal(err)
			}
			return dir + "/s"
		}, "symbolic link"},
		"a symbolic link to a socket that nobody serves": {func(t *testing.T, dir string) string {
			t.Helper()
			stale(t, dir+"/other")
			if err := os.Symlink(dir+"/other", dir+"/s"); err != nil {
				t.Fatal(err)
			}
			return dir + "/s"
		}, "symbolic link"},
		"a regular file": {func(t *testing.T, dir string) string {
			t.Helper()
			if err := os.WriteFile(dir+"/s", []byte("precious"), 0o600); err != nil {
				t.Fatal(err)
			}
			return dir + "/s"
		}, "no socket"},
		"an address":         {func(_ *testing.T, dir string) string { return "unix://" + dir + "/s" }, "the path alone"},
		"a TCP address":      {func(*testing.T, string) string { return "tcp://127.0.0.1:80" }, "the path alone"}, // ATTACKS 25
		"an abstract socket": {func(*testing.T, string) string { return "@s" }, "no permissions"},
		"a directory":        {func(_ *testing.T, dir string) string { return dir + "/" }, "names no file"},
		"nothing":            {func(*testing.T, string) string { return "" }, "names no file"},
		"a path too long": {func(_ *testing.T, dir string) string {
			return dir + "/" + strings.Repeat("x", 120)
		}, "this system takes"},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			path := test.prepare(t, room(t))
			l, err := Listen(t.Context(), path)
			if err == nil {
				_ = l.Close()
				t.Fatal("it was opened")
			}
			if !strings.Contains(err.Error(), test.want) {
				t.Errorf("%q does not say %q", err, test.want)
			}
		})
	}
}

func TestADirectoryOfAnotherUserIsRefused(t *testing.T) {
	t.Parallel()
	if os.Getuid() != 0 {
		t.Skip("giving a directory away needs root")
	}
	dir := room(t)
	if err := os.Chown(dir, 65534, 65534); err != nil {
		t.Fatal(err)
	}
	if _, err := Listen(t.Context(), dir+"/s"); err == nil || !strings.Contains(err.Error(), "does not belong") {
		t.Errorf("%v", err)
	}
}

func TestALiveSocketIsLeftAlone(t *testing.T) {
	t.Parallel()
	path := room(t) + "/s"
	mustListen(t, path)
	if _, err := Listen(t.Context(), path); !errors.Is(err, ErrServed) {
		t.Errorf("%v, want ErrServed", err)
	}
	conn, err := net.Dial("unix", path)
	if err != nil {
		t.Fatalf("the first does not serve any more: %v", err)
	}
	_ = conn.Close()
}

func TestAStaleSocketIsReplaced(t *testing.T) {
	t.Parallel()
	path := room(t) + "/s"
	stale(t, path)
	mustListen(t, path)
}

func TestOfManyThatStartAtOnceOneServes(t *testing.T) {
	t.Parallel()
	path := room(t) + "/s"
	stale(t, path)
	var wg sync.WaitGroup
	results := make(chan error, 8)
	for range cap(results) {
		wg.Go(func() {
			l, err := Listen(t.Context(), path)
			if err == nil {
				t.Cleanup(func() { _ = l.Close() })
			}
			results <- err
		})
	}
	wg.Wait()
	close(results)
	served := 0
	for err := range results {
		switch {
		case err == nil:
			served++
		case !errors.Is(err, ErrServed):
			t.Error(err)
		}
	}
	if served != 1 {
		t.Errorf("%d serve", served)
	}
}

// Between the look at a stale socket and its removal another could have begun to serve there.
func TestListenWaitsForWhoeverOpensASocketInTheSameDirectory(t *testing.T) {
	t.Parallel()
	dir := room(t)
	unlock, err := lockDir(dir)
	if err != nil {
		t.Fatal(err)
	}
	done := make(chan error, 1)
	go func() {
		l, err := Listen(t.Context(), dir+"/s")
		if err == nil {
			err = l.Close()
		}
		done <- err
	}()
	select {
	case err := <-done:
		t.Errorf("it did not wait: %v", err)
		return
	case <-time.After(200 * time.Millisecond):
	}
	unlock()
	if err := <-done; err != nil {
		t.Error(err)
	}
}

func TestClosingLeavesAnothersSocket(t *testing.T) {
	t.Parallel()
	path := room(t) + "/s"
	l := mustListen(t, path)
	if err := os.Rename(path, path+".moved"); err != nil {
		t.Fatal(err)
	}
	mustListen(t, path)
	if err := l.Close(); err != nil {
		t.Fatal(err)
	}
	if _, err := os.Lstat(path); err != nil {
		t.Errorf("the second's socket: %v", err)
	}
}

// stale leaves a socket that nobody serves, as after a kill.
func stale(t *testing.T, path string) {
	t.Helper()
	l, err := net.ListenUnix("unix", &net.UnixAddr{Name: path, Net: "unix"})
	if err != nil {
		t.Fatal(err)
	}
	l.SetUnlinkOnClose(false)
	if err := l.Close(); err != nil {
		t.Fatal(err)
	}
}

func chmod(t *testing.T, path string, mode fs.FileMode) {
	t.Helper()
	if err := os.Chmod(path, mode); err != nil {
		t.Fatal(err)
	}
}
