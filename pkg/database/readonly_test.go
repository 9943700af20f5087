package database_test

import (
	"bytes"
	"errors"
	"io/fs"
	"os"
	osexec "os/exec"
	"path/filepath"
	"strings"
	"syscall"
	"testing"

	"github.com/countersign-mesh/countersign/pkg/database"
)

func TestReadOnlyShowsWhatIsThereAndLeavesIt(t *testing.T) {
	t.Parallel()
	path := filepath.Join(t.TempDir(), "a?b#.db")
	db := open(t, path, schema(first))
	exec(t, db, "INSERT INTO notes (text) VALUES ('one')")
	if err := db.Close(); err != nil {
		t.Fatal(err)
	}
	before, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	readOnly, err := database.OpenReadOnly(t.Context(), "sqlite:"+path)
	if err != nil {
		t.Fatal(err)
	}
	if got := text[string](t, readOnly, "SELECT text FROM notes"); got != "one" {
		t.Errorf("read %q", got)
	}
	for _, statement := range []string{"INSERT INTO notes (text) VALUES ('two')", "DROP TABLE notes", "PRAGMA user_version = 7"} {
		if _, err := readOnly.ExecContext(t.Context(), statement); err == nil || !strings.Contains(err.Error(), "readonly") {
			t.Errorf("%s: %v, want a refusal", statement, err)
		}
	}
	if err := readOnly.Close(); err != nil {
		t.Fatal(err)
	}
	after, err := os.ReadFile(path)
	if err != nil || !bytes.Equal(before, after) {
		t.Errorf("the file was changed, or cannot be read: %v", err)
	}
}

// What was written last is in the -wal file, and the program that writes goes on.
func TestReadOnlySeesWhatARunningProgramWrites(t *testing.T) {
	t.Parallel()
	path := filepath.Join(t.TempDir(), "notes.db")
	db := open(t, path, schema(first))
	exec(t, db, "INSERT INTO notes (text) VALUES ('one')")
	readOnly, err := database.OpenReadOnly(t.Context(), "sqlite:"+path)
	if err != nil {
		t.Fatal(err)
	}
	defer readOnly.Close()
	exec(t, db, "INSERT INTO notes (text) VALUES ('two')")
	if got := text[int64](t, readOnly, "SELECT count(*) FROM notes"); got != 2 {
		t.Errorf("%d notes are seen, want 2", got)
	}
}

func TestReadOnlyWorksWhereNothingCanBeWritten(t *testing.T) {
	t.Parallel()
	if os.Geteuid() == 0 { // for whom nothing is read-only
		asNobody(t)
		return
	}
	dir := t.TempDir()
	path := filepath.Join(dir, "notes.db")
	db := open(t, path, schema(first))
	exec(t, db, "INSERT INTO notes (text) VALUES ('one')")
	if err := db.Close(); err != nil {
		t.Fatal(err)
	}
	if err := os.Chmod(dir, 0o500); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = os.Chmod(dir, 0o700) }) // for the directory to be removed
	readOnly, err := database.OpenReadOnly(t.Context(), "sqlite:"+path)
	if err != nil {
		t.Fatal(err)
	}
	defer readOnly.Close()
	if got := text[string](t, readOnly, "SELECT text FROM notes"); got != "one" {
		t.Errorf("read %q", got)
	}
}

// asNobody runs the test again, as a user who may do nothing in particular.
func asNobody(t *testing.T) {
	t.Helper()
	dir, err := os.MkdirTemp("", "nobody") //nolint:usetesting // that of the test is closed to others, and go test's own is too
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := os.RemoveAll(dir); err != nil {
			t.Error(err)
		}
	})
	binary, err := os.ReadFile(os.Args[0])
	if err != nil {
		t.Fatal(err)
	}
	program := filepath.Join(dir, "database.test")
	const nobody = 65534
	if err := errors.Join(os.WriteFile(program, binary, 0o755), os.Chown(dir, nobody, nobody)); err != nil {
		t.Fatal(err)
	}
	again := osexec.CommandContext(t.Context(), program, "-test.v", "-test.run=^"+t.Name()+"$")
	again.Dir, again.Env = dir, append(os.Environ(), "TMPDIR="+dir)
	again.SysProcAttr = &syscall.SysProcAttr{Credential: &syscall.Credential{Uid: nobody, Gid: nobody}}
	if out, err := again.CombinedOutput(); err != nil || !strings.Contains(string(out), "--- PASS: "+t.Name()) {
		t.Errorf("as another user: %v\n%s", err, out)
	}
}

func TestReadOnlySaysWhatIsWrongWithAFile(t *testing.T) {
	t.Parallel()
	dir := t.TempDir()
	garbage := filepath.Join(dir, "garbage.db")
	if err := os.WriteFile(garbage, bytes.Repeat([]byte("no database "), 1000), 0o600); err != nil {
		t.Fatal(err)
	}
	missing := filepath.Join(dir, "missing.db")
	if _, err := database.OpenReadOnly(t.Context(), "sqlite:"+missing); !errors.Is(err, fs.ErrNotExist) || !strings.Contains(err.Error(), missing) {
		t.Errorf("a file that is not there: %v", err)
	}
	if _, err := os.Stat(missing); !errors.Is(err, fs.ErrNotExist) {
		t.Errorf("it was made: %v", err)
	}
	if _, err := database.OpenReadOnly(t.Context(), "sqlite:"+dir); err == nil || !strings.Contains(err.Error(), "is not a regular file") {
		t.Errorf("a directory: %v", err)
	}
	if _, err := database.OpenReadOnly(t.Context(), "sqlite:"+garbage); !errors.Is(err, database.ErrDamaged) {
		t.Errorf("garbage: %v, want ErrDamaged", err)
	}
}
