package databasetest

import (
	"bufio"
	"database/sql"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
	"time"
)

func query(t *testing.T, dsn, statement string) string {
	t.Helper()
	db, err := sql.Open("pgx", dsn)
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = db.Close() }()
	var value string
	if err := db.QueryRowContext(t.Context(), statement).Scan(&value); err != nil {
		t.Fatalf("%s: %v", statement, err)
	}
	return value
}

func TestAServerHasTheSettingsThatTheTestAsksFor(t *testing.T) {
	t.Parallel()
	s := StartServer(t, "fsync=off", "max_connections=33")
	for setting, want := range map[string]string{"fsync": "off", "max_connections": "33"} {
		if got := query(t, s.DSN("postgres"), "SHOW "+setting); got != want {
			t.Errorf("%s is %s, want %s", setting, got, want)
		}
	}
}

// Each start is on the same port, and waits for what is left of the server from before.
func TestAServerIsKilledAndStartedOftenAndStaysWhereItWas(t *testing.T) {
	t.Parallel()
	s := StartServer(t)
	dsn := s.DSN("postgres")
	for range 5 {
		if err := s.Kill(); err != nil {
			t.Fatal(err)
		}
		if err := s.Start(t.Context()); err != nil {
			t.Fatal(err)
		}
		if got := query(t, dsn, "SELECT 'alive'"); got != "alive" {
			t.Errorf("it answers %q", got)
		}
	}
}

func TestAServerTakesAnotherPortWhenItsOwnIsTaken(t *testing.T) {
	t.Parallel()
	taken := StartServer(t)
	s, err := newServer(nil)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := s.Close(); err != nil {
			t.Error(err)
		}
	})
	s.port = taken.port
	if err := s.Start(t.Context()); err != nil {
		t.Fatal(err)
	}
	if s.port == taken.port {
		t.Error("two servers are on one port")
	}
}

func TestAServerThatCannotStartSaysWhy(t *testing.T) {
	t.Parallel()
	s := StartServer(t)
	if err := s.Stop(); err != nil {
		t.Fatal(err)
	}
	s.settings = []string{"max_connections=many"}
	if err := s.Start(t.Context()); err == nil || !strings.Contains(err.Error(), "max_connections") {
		t.Errorf("Start = %v, want what PostgreSQL says", err)
	}
}

func TestAServerThatWasKilledLeavesNothing(t *testing.T) {
	t.Parallel()
	need(t)
	s, err := New(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	if err := errors.Join(s.Kill(), s.Close()); err != nil {
		t.Fatal(err)
	}
	if _, err := os.Stat(s.folder); !errors.Is(err, fs.ErrNotExist) {
		t.Errorf("%s is there still: %v", s.folder, err)
	}
}

// A process that was killed, or whose tests took too long, cannot clean up.
func TestNothingOutlivesAProcessThatWasKilled(t *testing.T) {
	t.Parallel()
	need(t)
	if os.Getenv("DATABASETEST_CHILD") != "" {
		s := StartServer(t)
		lines, err := s.pidFile()
		if err != nil {
			t.Fatal(err)
		}
		fmt.Println("server", s.folder, lines[0])
		select {} // to be killed
	}
	program, err := os.Executable()
	if err != nil {
		t.Fatal(err)
	}
	child := exec.CommandContext(t.Context(), program, "-test.run=^"+t.Name()+"$")
	child.Env = append(os.Environ(), "DATABASETEST_CHILD=1")
	out, err := child.StdoutPipe()
	if err != nil {
		t.Fatal(err)
	}
	if err := child.Start(); err != nil {
		t.Fatal(err)
	}
	var folder string
	var postmaster int
	for lines := bufio.NewScanner(out); lines.Scan(); {
		if n, _ := fmt.Sscanf(lines.Text(), "server %s %d", &folder, &postmaster); n == 2 {
			break
		}
	}
	if err := child.Process.Kill(); err != nil {
		t.Fatal(err)
	}
	_ = child.Wait()
	if postmaster == 0 {
		t.Fatal("the child has not started a server")
	}
	eventually(t, "the server ends", func() bool { return errors.Is(syscall.Kill(postmaster, 0), syscall.ESRCH) })
	eventually(t, "its folder is removed", func() bool {
		_, err := os.Stat(folder)
		return errors.Is(err, fs.ErrNotExist)
	})
}

func eventually(t *testing.T, what string, holds func() bool) {
	t.Helper()
	tick := time.NewTicker(10 * time.Millisecond)
	defer tick.Stop()
	for deadline := time.Now().Add(time.Minute); !holds(); <-tick.C {
		if time.Now().After(deadline) {
			t.Fatalf("not within a minute: %s", what)
		}
	}
}

// Most machines run tests as somebody else than root, and some as root.
func TestServersStartForRootAndForOthers(t *testing.T) {
	t.Parallel()
	need(t)
	if os.Getuid() != 0 {
		StartServer(t)
		return
	}
	dir, err := os.MkdirTemp("/tmp", "nobody") //nolint:usetesting // the test's own folder is closed to others
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := os.RemoveAll(dir); err != nil {
			t.Error(err)
		}
	})
	const nobody = 65534
	binary, err := os.ReadFile(os.Args[0])
	program := filepath.Join(dir, "databasetest.test")
	if err := errors.Join(err, os.WriteFile(program, binary, 0o755), os.Chown(dir, nobody, nobody)); err != nil {
		t.Fatal(err)
	}
	again := exec.CommandContext(t.Context(), program, "-test.v", "-test.run=^"+t.Name()+"$")
	again.Dir, again.Env = dir, append(os.Environ(), "TMPDIR="+dir)
	again.SysProcAttr = &syscall.SysProcAttr{Credential: &syscall.Credential{Uid: nobody, Gid: nobody}}
	if out, err := again.CombinedOutput(); err != nil || !strings.Contains(string(out), "--- PASS: "+t.Name()) {
		t.Errorf("as another user: %v\n%s", err, out)
	}
}

// TestTheFolderOfAServerIsOneThatItCanEnter is not parallel: the environment is the process's.
func TestTheFolderOfAServerIsOneThatItCanEnter(t *testing.T) {
	closed := t.TempDir()
	if err := os.Chmod(closed, 0o700); err != nil {
		t.Fatal(err)
	}
	t.Setenv("TMPDIR", closed)
	StartServer(t)
}
