package databasetest

import (
	"errors"
	"os"
	"os/exec"
	"os/user"
	"path/filepath"
	"slices"
	"strconv"
	"syscall"
)

// ErrMissing is returned on a machine without PostgreSQL.
var ErrMissing = errors.New("there is no PostgreSQL here (initdb is neither on PATH nor in /usr/lib/postgresql): " +
	"run `make postgres`, or install Debian's package postgresql")

// binaries returns the folder of initdb and postgres: that on PATH, or the newest one that Debian's packages have installed.
func binaries() (string, error) {
	if initdb, err := exec.LookPath("initdb"); err == nil {
		initdb, err = filepath.EvalSymlinks(initdb) // next to it are the others
		return filepath.Dir(initdb), err
	}
	found, err := filepath.Glob("/usr/lib/postgresql/*/bin/initdb")
	if err != nil || len(found) == 0 {
		return "", ErrMissing
	}
	version := func(path string) int {
		n, _ := strconv.Atoi(filepath.Base(filepath.Dir(filepath.Dir(path)))) // 0, the oldest, when it is no number
		return n
	}
	return filepath.Dir(slices.MaxFunc(found, func(a, b string) int { return version(a) - version(b) })), nil
}

// command returns a program of PostgreSQL, which refuses to be run by root. It is in a process group of its own: what a terminal sends to
// that of the tests is not for it.
func (s *Server) command(name string, args ...string) *exec.Cmd {
	cmd := exec.Command(name, args...) //nolint:gosec,noctx // G204: a program of PostgreSQL; Stop ends it
	cmd.Dir = s.folder
	cmd.Env = append(os.Environ(), "LC_ALL=C", "FOLDER="+s.folder)
	cmd.SysProcAttr = &syscall.SysProcAttr{Setpgid: true}
	if credential, err := unprivileged(); err == nil && credential != nil {
		cmd.SysProcAttr.Credential = credential
	}
	return cmd
}

// makeFolder makes the folder of a server, and gives it to whom the server runs as. A test's own is no place for it: those above are closed to
// others, and it stays when the process is killed.
func makeFolder() (string, error) {
	credential, err := unprivileged()
	if err != nil {
		return "", err
	}
	parent := os.TempDir()
	if credential != nil && !open(parent) {
		parent = "/tmp" // such as when TMPDIR is in the home of root
	}
	folder, err := os.MkdirTemp(parent, "countersign-postgres-")
	if err != nil || credential == nil {
		return folder, err
	}
	if err := os.Chown(folder, int(credential.Uid), int(credential.Gid)); err != nil {
		return "", errors.Join(err, os.Remove(folder))
	}
	return folder, nil
}

// open reports whether everybody may enter a folder.
func open(folder string) bool {
	for at := filepath.Clean(folder); ; at = filepath.Dir(at) {
		info, err := os.Stat(at)
		if err != nil || info.Mode().Perm()&0o001 == 0 {
			return false
		}
		if at == filepath.Dir(at) {
			return true
		}
	}
}

// unprivileged returns whom to run as instead of root, nil for everybody else.
func unprivileged() (*syscall.Credential, error) {
	if os.Getuid() != 0 {
		return nil, nil //nolint:nilnil // nothing to change
	}
	for _, name := range []string{"postgres", "nobody"} {
		u, err := user.Lookup(name)
		if err != nil {
			continue
		}
		uid, errUID := strconv.ParseUint(u.Uid, 10, 32)
		gid, errGID := strconv.ParseUint(u.Gid, 10, 32)
		if err := errors.Join(errUID, errGID); err != nil {
			return nil, err
		}
		return &syscall.Credential{Uid: uint32(uid), Gid: uint32(gid), NoSetGroups: true}, nil
	}
	return nil, errors.New("PostgreSQL refuses to be run by root, and there is neither a user postgres nor a user nobody")
}
