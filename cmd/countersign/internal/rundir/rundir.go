// Package rundir is the directory that a running mesh keeps its traces in: who was started under which process ID, where it
// listens, its databases and its logs. Every command of the CLI finds the mesh through it.
package rundir

import (
	"errors"
	"fmt"
	"os"
	"path/filepath"
)

// maxSocketPath is what fits into sun_path on every system we run on: 104 bytes with the closing zero on macOS, 108 on Linux.
const maxSocketPath = 103

// Dir is a run directory, as an absolute path. The zero value is not usable; see At.
type Dir struct{ path string }

// At returns the run directory at path. Nothing is created yet.
func At(path string) (Dir, error) {
	abs, err := filepath.Abs(path)
	if err != nil {
		return Dir{}, fmt.Errorf("find the run directory: %w", err)
	}
	return Dir{path: abs}, nil
}

// String returns the directory's path.
func (d Dir) String() string { return d.path }

// Data is where the services' databases live. They survive restarts.
func (d Dir) Data() string { return filepath.Join(d.path, "data") }

// Authority is where the authority keeps its signing key.
func (d Dir) Authority() string { return filepath.Join(d.path, "authority") }

// Logs is where the logs are.
func (d Dir) Logs() string { return filepath.Join(d.path, "logs") }

// Log is the log file of one program.
func (d Dir) Log(program string) string { return filepath.Join(d.Logs(), program+".log") }

// SPIRE is where SPIRE's server and agent keep their state when they are in the authority's place.
func (d Dir) SPIRE() string { return filepath.Join(d.path, "spire") }

// Edge is where the certificate of the edge is, and its key.
func (d Dir) Edge() string { return filepath.Join(d.path, "edge") }

// Customers is where the devices of customers are that the CLI plays.
func (d Dir) Customers() string { return filepath.Join(d.path, "customers") }

// Registration is the file of registration entries that the authority reads.
func (d Dir) Registration() string { return filepath.Join(d.path, "registration.yaml") }

func (d Dir) record() string { return filepath.Join(d.path, "mesh.json") }
func (d Dir) lock() string   { return filepath.Join(d.path, "lock") }

// ErrNotPrivate means that others than its owner may use a directory that was there before.
var ErrNotPrivate = errors.New("the run directory is open to others")

// Create makes the directory and those beneath it. All are for their owner alone: the authority's key is in there. A directory
// that was there keeps its mode, which is its owner's to say, and is refused when that lets others in.
func (d Dir) Create() error {
	if err := os.MkdirAll(d.path, 0o700); err != nil {
		return fmt.Errorf("create the run directory: %w", err)
	}
	info, err := os.Stat(d.path)
	if err != nil {
		return fmt.Errorf("look at the run directory: %w", err)
	}
	if mode := info.Mode().Perm(); mode&0o077 != 0 {
		return fmt.Errorf("--run-dir: %w: %s has mode %#o, and keys and databases go there; name one that is not there yet, or make this one private with: chmod 700 %s",
			ErrNotPrivate, d, mode, d)
	}
	for _, path := range []string{d.Data(), d.Logs(), d.Authority()} {
		if err := os.MkdirAll(path, 0o700); err != nil {
			return fmt.Errorf("create the run directory: %w", err)
		}
	}
	return nil
}

// Socket returns a path for the Workload API's socket: in the run directory if it fits there, else in a private directory
// of its own in the system's place for temporary files, which is returned too and is to be removed with RemoveSocket.
func (d Dir) Socket() (path, private string, err error) {
	// Room is left for the name of a SPIRE server's socket beside it.
	const longest = maxSocketPath - len("server") + len("api")
	path = filepath.Join(d.path, "api", "api.sock")
	if len(path) <= longest {
		if err := os.MkdirAll(filepath.Dir(path), 0o700); err != nil {
			return "", "", fmt.Errorf("make a directory for the Workload API's socket: %w", err)
		}
		return path, "", nil
	}
	for _, parent := range []string{os.TempDir(), "/tmp"} {
		private, err = os.MkdirTemp(parent, "countersign-") // mode 0700
		if err != nil {
			return "", "", fmt.Errorf("make a directory for the Workload API's socket: %w", err)
		}
		if path = filepath.Join(private, "api.sock"); len(path) <= longest {
			return path, private, nil
		}
		if err := os.Remove(private); err != nil {
			return "", "", fmt.Errorf("make a directory for the Workload API's socket: %w", err)
		}
	}
	return "", "", fmt.Errorf("no place is left for the Workload API's socket: a unix socket's path has at most %d bytes, and both %s and %s are longer",
		maxSocketPath, d.path, os.TempDir())
}
