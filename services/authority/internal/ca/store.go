//go:build unix

package ca

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"strings"
	"syscall"
	"time"

	"github.com/spiffe/go-spiffe/v2/spiffeid"
	"golang.org/x/sys/unix"
)

const (
	stateFile = "authority.json"
	// markerFile tells a directory that was used from one that never was, so that a state file that vanished is noticed.
	markerFile = "trust-domain"
	lockFile   = "lock"
	tempPrefix = stateFile + ".tmp-"
	// maxState bounds what is read: a state holds a handful of keys.
	maxState = 1 << 20
)

// store is the directory that keeps the state. It is the one thing here that touches the disk.
type store struct {
	dir  string
	td   spiffeid.TrustDomain
	lock *os.File
}

// openStore checks and locks a directory, and makes it when it is missing.
func openStore(dir string, td spiffeid.TrustDomain) (*store, error) {
	dir, err := filepath.Abs(dir)
	if err != nil {
		return nil, fmt.Errorf("find the state directory: %w", err)
	}
	if err := os.MkdirAll(dir, 0o700); err != nil {
		return nil, fmt.Errorf("make the state directory: %w", err)
	}
	if err := checkPrivate(dir, fs.ModeDir, 0o700); err != nil {
		return nil, fmt.Errorf("state directory: %w", err)
	}
	lock, err := os.OpenFile(filepath.Join(dir, lockFile), os.O_CREATE|os.O_RDWR|unix.O_NOFOLLOW, 0o600)
	if err != nil {
		return nil, fmt.Errorf("lock the state directory: %w", err)
	}
	if err := unix.Flock(int(lock.Fd()), unix.LOCK_EX|unix.LOCK_NB); err != nil {
		if errors.Is(err, unix.EWOULDBLOCK) {
			err = errors.New("another authority is using it")
		}
		return nil, errors.Join(fmt.Errorf("lock the state directory %s: %w", dir, err), lock.Close())
	}
	return &store{dir: dir, td: td, lock: lock}, nil
}

func (s *store) close() error {
	if err := s.lock.Close(); err != nil {
		return fmt.Errorf("unlock the state directory: %w", err)
	}
	return nil
}

func (s *store) path(name string) string { return filepath.Join(s.dir, name) }

// load returns the state; none when the directory was never used.
func (s *store) load() (rings, error) {
	if err := s.removeTemps(); err != nil {
		return rings{}, err
	}
	used, err := s.checkMarker()
	if err != nil {
		return rings{}, err
	}
	text, err := s.read(stateFile)
	switch {
	case errors.Is(err, fs.ErrNotExist) && !used:
		return rings{}, nil
	case errors.Is(err, fs.ErrNotExist):
		return rings{}, s.wayOut(errors.New("the file is gone, though the directory was used before"))
	case err != nil:
		return rings{}, err
	}
	state, err := decodeState(text, s.td)
	if err != nil {
		return rings{}, s.wayOut(err)
	}
	if !used { // the very first save was cut short between the state and the marker
		return state, s.mark()
	}
	return state, nil
}

// wayOut says what a person can do about a state that cannot be used.
func (s *store) wayOut(err error) error {
	return fmt.Errorf("signing authority's state %s: %w; restore the file from a backup, or, to found the trust domain anew with a root "+
		"that no running workload trusts, move the directory %s away and restart every workload", s.path(stateFile), err, s.dir)
}

// checkMarker reports whether the directory was used, and refuses another trust domain's.
func (s *store) checkMarker() (used bool, err error) {
	text, err := s.read(markerFile)
	if errors.Is(err, fs.ErrNotExist) {
		return false, nil
	}
	if err != nil {
		return false, err
	}
	if name := strings.TrimSpace(string(text)); name != s.td.Name() {
		return false, fmt.Errorf("the state directory %s belongs to the trust domain %q, not %q; give another --state-dir",
			s.dir, name, s.td.Name())
	}
	return true, nil
}

func (s *store) mark() error {
	if err := s.write(markerFile, []byte(s.td.Name()+"\n")); err != nil {
		return fmt.Errorf("mark the state directory as used: %w", err)
	}
	return nil
}

// save writes the state so that a crash at any moment leaves either the one before or this one.
func (s *store) save(r rings, now time.Time) error {
	text, err := encodeState(s.td, r, now)
	if err != nil {
		return err
	}
	if err := s.write(stateFile, text); err != nil {
		return fmt.Errorf("save the signing authority's state: %w", err)
	}
	if _, err := os.Lstat(s.path(markerFile)); errors.Is(err, fs.ErrNotExist) {
		return s.mark()
	}
	return nil
}

// read reads a private file whole.
func (s *store) read(name string) ([]byte, error) {
	path := s.path(name)
	if err := checkPrivate(path, 0, 0o600); err != nil {
		return nil, fmt.Errorf("state directory: %w", err)
	}
	info, err := os.Stat(path)
	if err == nil && info.Size() > maxState {
		err = fmt.Errorf("%s has %d bytes; no state is that large", path, info.Size())
	}
	if err != nil {
		return nil, fmt.Errorf("read the signing authority's state: %w", err)
	}
	text, err := os.ReadFile(path)
	if err != nil {
		return nil, fmt.Errorf("read the signing authority's state: %w", err)
	}
	return text, nil
}

// write replaces a file: a new one beside it, synced, renamed over it, and the directory synced.
func (s *store) write(name string, text []byte) (err error) {
	temp, err := os.CreateTemp(s.dir, tempPrefix+"*") // with mode 0600
	if err != nil {
		return err
	}
	defer func() {
		if err == nil {
			return
		}
		if rerr := os.Remove(temp.Name()); !errors.Is(rerr, fs.ErrNotExist) {
			err = errors.Join(err, rerr)
		}
	}()
	_, err = temp.Write(text)
	err = errors.Join(err, temp.Sync(), temp.Close())
	if err != nil {
		return err
	}
	if err := os.Rename(temp.Name(), s.path(name)); err != nil {
		return err
	}
	// When this fails the new file may be in place all the same. Nothing was published or signed with it yet, and the next
	// save replaces it.
	return s.syncDir()
}

func (s *store) syncDir() error {
	dir, err := os.Open(s.dir)
	if err != nil {
		return err
	}
	return errors.Join(dir.Sync(), dir.Close())
}

// removeTemps removes what a crash while writing left: there is a key in it.
func (s *store) removeTemps() error {
	temps, err := filepath.Glob(filepath.Join(globQuote(s.dir), tempPrefix+"*"))
	if err != nil {
		return fmt.Errorf("look for unfinished state files: %w", err)
	}
	for _, temp := range temps {
		if err := os.Remove(temp); err != nil {
			return fmt.Errorf("remove an unfinished state file: %w", err)
		}
	}
	return nil
}

// globQuote escapes what a pattern would take for itself.
func globQuote(path string) string {
	return strings.NewReplacer(`\`, `\\`, `*`, `\*`, `?`, `\?`, `[`, `\[`).Replace(path)
}

// checkPrivate refuses a file or directory that is a symlink, someone else's, or open to others. It returns fs.ErrNotExist as it is.
func checkPrivate(path string, kind, mode fs.FileMode) error {
	info, err := os.Lstat(path)
	if err != nil {
		return err
	}
	if info.Mode().Type() != kind {
		return fmt.Errorf("%s is a %s where a %s is needed", path, describe(info.Mode()), describe(kind))
	}
	stat, ok := info.Sys().(*syscall.Stat_t)
	if !ok || int(stat.Uid) != os.Geteuid() {
		return fmt.Errorf("%s does not belong to the user that runs the authority (uid %d)", path, os.Geteuid())
	}
	if open := info.Mode().Perm() &^ mode; open != 0 {
		return fmt.Errorf("%s has mode %04o and holds signing keys; right would be: chmod %04o %s", path, info.Mode().Perm(), mode, path)
	}
	return nil
}

func describe(mode fs.FileMode) string {
	switch mode.Type() {
	case 0:
		return "regular file"
	case fs.ModeDir:
		return "directory"
	case fs.ModeSymlink:
		return "symbolic link"
	default:
		return "special file"
	}
}
