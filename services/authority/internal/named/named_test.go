package named

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"net"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"
)

// ATTACKS 67: a name has a socket because the registration file asks for it, not because somebody put a directory there.
func TestASocketIsServedForEachNameThatIsAskedForAndForNoOther(t *testing.T) {
	t.Parallel()
	r := newRoom(t, "payments", "ledger")
	r.mkdir("ledger") // as a volume is there before the authority starts; the other is made
	r.mkdir("burglar")
	stop := r.serve(sayWho)
	r.want("ledger")
	r.want("payments")
	if files, err := os.ReadDir(filepath.Join(r.dir, "burglar")); err != nil || len(files) != 0 {
		t.Errorf("where nothing was asked for there is %v, %v", files, err)
	}
	if err := stop(); err != nil {
		t.Error(err)
	}
	for _, name := range []string{"ledger", "payments"} {
		if _, err := os.Lstat(filepath.Join(r.dir, name, "api.sock")); !errors.Is(err, fs.ErrNotExist) {
			t.Errorf("the socket %s after the end: %v", name, err)
		}
	}
}

// ATTACKS 32, 67: each of these could give one container's callers the identity of another, or another authority. At start it is fatal,
// and whoever reads the error knows which name it is and what to do.
func TestOpenRefuses(t *testing.T) {
	t.Parallel()
	for name, test := range map[string]struct {
		prepare func(dir string) error
		want    string
	}{
		"a link to the directory of another": {func(dir string) error { return os.Symlink(dir+"/audit", dir+"/ledger") }, "symbolic link"},
		"a link to nowhere":                  {func(dir string) error { return os.Symlink(dir+"/none", dir+"/ledger") }, "symbolic link"},
		"a file":                             {func(dir string) error { return os.WriteFile(dir+"/ledger", nil, 0o600) }, "a file"},
		"a directory that its group may write to": {func(dir string) error {
			return errors.Join(os.Mkdir(dir+"/ledger", 0o700), os.Chmod(dir+"/ledger", 0o770))
		}, "chmod go-w"},
		"a directory above that all may write to": {func(dir string) error { return os.Chmod(dir, 0o777) }, "a directory above it"},
		"a link in the place of the socket": {func(dir string) error {
			return errors.Join(os.Mkdir(dir+"/ledger", 0o700), os.Symlink("../audit/api.sock", dir+"/ledger/api.sock"))
		}, "symbolic link"},
		"a directory of another user": {func(dir string) error {
			return errors.Join(os.Mkdir(dir+"/ledger", 0o755), os.Chown(dir+"/ledger", 65534, 65534))
		}, "does not belong"},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			r := newRoom(t, "audit", "ledger")
			if err := test.prepare(r.dir); errors.Is(err, fs.ErrPermission) {
				t.Skip("giving a directory away needs root")
			} else if err != nil {
				t.Fatal(err)
			}
			s, err := r.open()
			if err == nil {
				t.Fatal("it was opened", s.Close())
			}
			for _, want := range []string{test.want, "socket:ledger", "right would be a directory " + r.dir + "/ledger", fmt.Sprintf("(uid %d)", os.Geteuid())} {
				if !strings.Contains(err.Error(), want) {
					t.Errorf("%q does not say %q", err, want)
				}
			}
			if _, err := os.Lstat(r.dir + "/audit/api.sock"); !errors.Is(err, fs.ErrNotExist) {
				t.Errorf("the other socket is there still: %v", err)
			}
		})
	}
}

func TestANameThatIsAskedForLaterIsServedThen(t *testing.T) {
	t.Parallel()
	r := newRoom(t, "ledger")
	r.serve(sayWho)
	r.ask("ledger", "payments")
	eventually(t, "the new socket is served", func() bool { _, err := r.who("payments"); return err == nil })
	r.want("payments")
	r.want("ledger")
}

// One mistake in the file does not take an identity from those who have one.
func TestASocketThatCannotBeOpenedLaterIsLoggedAndTheRestIsServed(t *testing.T) {
	t.Parallel()
	r := newRoom(t, "ledger")
	if err := os.Symlink(r.dir+"/ledger", r.dir+"/payments"); err != nil {
		t.Fatal(err)
	}
	r.serve(sayWho)
	r.ask("ledger", "payments", "risk")
	eventually(t, "the third is served", func() bool { _, err := r.who("risk"); return err == nil })
	if log := r.logged.String(); !strings.Contains(log, "level=ERROR") || !strings.Contains(log, "socket:payments") {
		t.Errorf("the log says\n%s", log)
	}
	r.want("ledger")
	r.want("risk")
	if err := os.Remove(r.dir + "/payments"); err != nil {
		t.Fatal(err)
	}
	r.ask("ledger", "payments", "risk", "audit")
	eventually(t, "it is tried again", func() bool { _, err := r.who("payments"); return err == nil })
	r.want("payments")
}

func TestASocketThatCannotBeOpenedIsNotedAndTriedAgainByItself(t *testing.T) {
	t.Parallel()
	r := newRoom(t, "ledger")
	r.retry = 10 * time.Millisecond
	stop := r.serve(sayWho)
	noted := func(want string) {
		t.Helper()
		eventually(t, "the note is "+want, func() bool { return r.noted() == want })
	}
	noted("ok (1 served)")
	if err := os.WriteFile(r.dir+"/payments", nil, 0o600); err != nil {
		t.Fatal(err)
	}
	r.ask("ledger", "payments", "risk")
	noted("ok (2 served; cannot be opened: socket:payments, see the log)")
	r.want("ledger")
	r.want("risk")
	if err := os.Remove(r.dir + "/payments"); err != nil {
		t.Fatal(err)
	}
	noted("ok (3 served)")
	r.want("payments")
	if err := stop(); err != nil {
		t.Error(err)
	}
}

// It is tried over and over, and said once.
func TestAFailureThatStaysIsLoggedOnce(t *testing.T) {
	t.Parallel()
	r := newRoom(t, "ledger")
	s, err := r.open()
	if err != nil {
		t.Fatal(err)
	}
	s.retry = time.Millisecond
	watchCtx, cancel := context.WithCancel(t.Context())
	watched := make(chan error, 1)
	go func() { watched <- r.entries.Watch(watchCtx) }()
	if err := os.WriteFile(r.dir+"/payments", nil, 0o600); err != nil {
		t.Fatal(err)
	}
	changed := r.entries.Changed()
	r.ask("ledger", "payments")
	<-changed
	for range 3 {
		if again := s.addOrLog(t.Context()); again == nil {
			t.Fatal("it is not to be tried again")
		} else {
			<-again
		}
	}
	if n := strings.Count(r.logged.String(), "level=ERROR"); n != 1 {
		t.Errorf("%d errors in the log\n%s", n, r.logged)
	}
	cancel()
	if err := errors.Join(<-watched, s.Close()); err != nil {
		t.Error(err)
	}
}

func TestANameThatIsAskedForNoLongerKeepsItsSocket(t *testing.T) {
	t.Parallel()
	r := newRoom(t, "ledger", "payments")
	r.serve(sayWho)
	changed := r.entries.Changed()
	r.ask("payments")
	<-changed
	r.want("ledger") // who gets nothing, as nobody matches; the test of the whole authority shows that
	r.ask("payments", "ledger", "risk")
	eventually(t, "a new one is served", func() bool { _, err := r.who("risk"); return err == nil })
	r.want("ledger")
}

// An authority that serves some of its sockets and not others would look well from outside.
func TestASocketThatFailsEndsThemAll(t *testing.T) {
	t.Parallel()
	r := newRoom(t, "ledger", "payments")
	s, err := r.open()
	if err != nil {
		t.Fatal(err)
	}
	broken := errors.New("broken")
	err = s.Serve(t.Context(), func(l net.Listener) error {
		if strings.Contains(l.Addr().String(), "payments") {
			return broken
		}
		return sayWho(l)
	})
	if !errors.Is(err, broken) || !strings.Contains(err.Error(), `"payments"`) {
		t.Errorf("Serve: %v", err)
	}
	if _, err := r.who("ledger"); err == nil {
		t.Error("the other is served still")
	}
}
