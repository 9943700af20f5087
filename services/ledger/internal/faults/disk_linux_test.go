package faults_test

import (
	"context"
	"database/sql"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"syscall"
	"testing"

	"github.com/countersign-mesh/countersign/pkg/database/databasetest"
)

// disk is a small file system of the test's own.
type disk struct {
	at    string // where it is mounted
	image string // the file that it is in; empty for memory
}

// needRoot skips the test where file systems cannot be mounted. In CI they can.
func needRoot(t *testing.T) {
	t.Helper()
	switch {
	case os.Geteuid() == 0:
	case os.Getenv("CI") != "":
		t.Fatal("only root may mount the file system that this test fills or breaks; run the tests as root")
	default:
		t.Skip("SKIP: only root may mount the file system that this test fills or breaks")
	}
}

// newMemoryDisk mounts a file system of so many MiB that is full soon. Whoever a database server runs as may write to it.
func newMemoryDisk(t *testing.T, mib int) disk {
	t.Helper()
	needRoot(t)
	d := disk{at: t.TempDir()}
	if err := syscall.Mount("tmpfs", d.at, "tmpfs", 0, fmt.Sprintf("size=%dm,mode=1777", mib)); err != nil {
		t.Fatal("mount a file system in memory:", err)
	}
	t.Cleanup(func() { d.unmount(t) })
	return d
}

// newDisk makes and mounts a file system of so many MiB whose power can be cut. It is for the caller to unmount.
func newDisk(t *testing.T, mib int) disk {
	t.Helper()
	needRoot(t)
	d := disk{at: t.TempDir(), image: filepath.Join(t.TempDir(), "disk")}
	f, err := os.Create(d.image)
	if err == nil {
		err = errors.Join(f.Truncate(int64(mib)<<20), f.Close())
	}
	if err != nil {
		t.Fatal(err)
	}
	if out, err := exec.Command("mkfs.ext4", "-q", "-F", d.image).CombinedOutput(); err != nil {
		t.Fatalf("mkfs.ext4: %v: %s", err, out)
	}
	if err := d.mount(); err != nil {
		t.Fatal(err)
	}
	return d
}

func (d disk) mount() error {
	if out, err := exec.Command("mount", "-o", "loop", d.image, d.at).CombinedOutput(); err != nil {
		return fmt.Errorf("mount: %w: %s", err, out)
	}
	return nil
}

func (d disk) unmount(t *testing.T) {
	t.Helper()
	if err := syscall.Unmount(d.at, 0); err != nil {
		t.Error("unmount:", err)
	}
}

// fill leaves no room.
func (d disk) fill() error {
	f, err := os.Create(filepath.Join(d.at, "ballast"))
	if err != nil {
		return err
	}
	chunk := make([]byte, 64<<10)
	for len(chunk) > 0 {
		if _, err = f.Write(chunk); errors.Is(err, syscall.ENOSPC) {
			chunk = chunk[:len(chunk)/2]
		} else if err != nil {
			break
		}
	}
	if errors.Is(err, syscall.ENOSPC) {
		err = nil
	}
	return errors.Join(err, f.Close())
}

// free makes room again.
func (d disk) free() error { return os.Remove(filepath.Join(d.at, "ballast")) }

// ATTACKS 64: disk full in the middle of transfers.
func TestTransfersSurviveAFullDisk(t *testing.T) {
	t.Parallel()
	eachWay(t, func(t *testing.T, open openFunc) {
		t.Run("sqlite", func(t *testing.T) {
			t.Parallel()
			d := newMemoryDisk(t, 8)
			mustSurvive(t, open(t, openStore(t, "sqlite:"+filepath.Join(d.at, "ledger.db"))), outage{d.fill, d.free, scaled(3, 20)})
		})
		t.Run("postgres", func(t *testing.T) {
			t.Parallel()
			s := databasetest.StartServer(t)
			d := newMemoryDisk(t, 32)
			dsn, err := onDisk(t.Context(), s, d)
			if err != nil {
				t.Fatal(err)
			}
			mustSurvive(t, open(t, openStore(t, dsn)), outage{d.fill, d.free, scaled(3, 20)})
			if err := s.Stop(); err != nil { // before its disk is taken away
				t.Error(err)
			}
		})
	})
}

// onDisk makes a database with its tables on a disk of their own, apart from the server's log.
func onDisk(ctx context.Context, s *databasetest.Server, d disk) (dsn string, err error) {
	admin, err := sql.Open("pgx", s.DSN("postgres"))
	if err != nil {
		return "", err
	}
	defer func() { err = errors.Join(err, admin.Close()) }()
	folder := filepath.Join(d.at, "tables")
	if err := errors.Join(os.Mkdir(folder, 0o700), own(ctx, admin, folder)); err != nil {
		return "", err
	}
	for _, statement := range []string{"CREATE TABLESPACE small LOCATION '" + folder + "'", "CREATE DATABASE books TABLESPACE small"} {
		if _, err := admin.ExecContext(ctx, statement); err != nil {
			return "", err
		}
	}
	return s.DSN("books"), reach(d.at)
}

// own gives a folder to whom the server runs as, and lets that user reach it.
func own(ctx context.Context, admin *sql.DB, folder string) error {
	data, err := dataFolder(ctx, admin)
	if err != nil {
		return err
	}
	var info syscall.Stat_t
	if err := syscall.Stat(data, &info); err != nil {
		return err
	}
	return errors.Join(os.Chown(folder, int(info.Uid), int(info.Gid)), reach(filepath.Dir(folder)))
}

// reach lets everybody go through the folders above and into at.
func reach(at string) error {
	for ; at != filepath.Dir(at); at = filepath.Dir(at) {
		info, err := os.Stat(at)
		if err != nil {
			return err
		}
		if info.Mode().Perm()&0o001 == 0 {
			if err := os.Chmod(at, info.Mode().Perm()|0o011); err != nil {
				return err
			}
		}
	}
	return nil
}

func dataFolder(ctx context.Context, admin *sql.DB) (path string, err error) {
	err = admin.QueryRowContext(ctx, "SHOW data_directory").Scan(&path)
	return path, err
}
