package faults_test

import (
	"context"
	"database/sql"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"syscall"
	"testing"
	"unsafe"

	"github.com/countersign-mesh/countersign/pkg/database/databasetest"
)

// FS_IOC_SHUTDOWN of the kernel and its way to do it: nothing is written any more, not even what the kernel has in memory.
const (
	ioctlShutdown     = 0x8004587d
	shutdownNoLogging = 2
)

// cut is the end of the power: every read, write and fsync fails from now on, and what was not on the disk never will be.
func (d disk) cut() error {
	f, err := os.Open(d.at)
	if err != nil {
		return err
	}
	flag := uint32(shutdownNoLogging)
	if _, _, errno := syscall.Syscall(syscall.SYS_IOCTL, f.Fd(), ioctlShutdown, uintptr(unsafe.Pointer(&flag))); errno != 0 {
		err = fmt.Errorf("shut the file system down: %w", errno)
	}
	return errors.Join(err, f.Close())
}

// restore is the power coming back. Nobody may have a file open.
func (d disk) restore() error {
	if err := syscall.Unmount(d.at, 0); err != nil {
		return fmt.Errorf("unmount: %w", err)
	}
	return d.mount()
}

// frozen cuts a disk while the processes that write to it stand still, none of them within a system call: the kernel does not cut between
// two steps of an fsync, and one that is caught in the middle may succeed for nothing.
func frozen(ctx context.Context, pids []int, d disk) error {
	for _, pid := range pids {
		if err := syscall.Kill(pid, syscall.SIGSTOP); err != nil && !errors.Is(err, syscall.ESRCH) { // a child may have ended
			return fmt.Errorf("stop process %d: %w", pid, err)
		}
	}
	ctx, cancel := context.WithTimeout(ctx, openTimeout)
	defer cancel()
	await(ctx, func() bool {
		for _, pid := range pids {
			if !still(pid) {
				return false
			}
		}
		return true
	})
	err := errors.Join(ctx.Err(), d.cut())
	for _, pid := range pids {
		_ = syscall.Kill(pid, syscall.SIGCONT) // as above
	}
	return err
}

// still reports whether every thread of a process has stopped, or ended: of a process whose parent stands still, nobody takes notice of that.
func still(pid int) bool {
	threads, err := filepath.Glob(fmt.Sprintf("/proc/%d/task/*/stat", pid))
	if err != nil {
		return false
	}
	for _, thread := range threads {
		text, err := os.ReadFile(thread)
		if _, state, _ := strings.Cut(string(text), ") "); err == nil && !strings.HasPrefix(state, "T") && !strings.HasPrefix(state, "Z") {
			return false
		}
	}
	return true
}

// ATTACKS 61, 64: a disk dies, and with it every read, write and fsync that comes; what was acknowledged was on it before. Or the power
// fails, and the process with it.
func TestTransfersSurviveADiskThatDies(t *testing.T) {
	t.Parallel()
	t.Run("sqlite", func(t *testing.T) {
		t.Parallel()
		d := newDisk(t, 32)
		t.Cleanup(func() { d.unmount(t) })
		p := newProcess(t, "sqlite:"+filepath.Join(d.at, "ledger.db"), "")
		power := false
		mustSurvive(t, atALoss(p.once), outage{
			times: scaled(6, 50),
			strike: func() error {
				pid := p.alive.cmd.Process.Pid
				// No thread of a process that was killed comes back from a system call. Of one that is stopped some still do, and say that what they wrote before the cut is
				// on the disk.
				if power = !power; power {
					return errors.Join(syscall.Kill(pid, syscall.SIGKILL), d.cut())
				}
				return frozen(t.Context(), []int{pid}, d)
			},
			mend: func() error {
				p.kill(t)
				if err := freed(t.Context(), d); err != nil {
					return err
				}
				p.start(t, 0)
				return nil
			},
		})
	})
	t.Run("postgres", func(t *testing.T) {
		t.Parallel()
		s := databasetest.StartServer(t)
		d := moveToDisk(t, s)
		dsn, err := s.Create(t.Context(), "books")
		if err != nil {
			t.Fatal(err)
		}
		mustSurvive(t, atALoss(direct(openStore(t, dsn))), outage{
			times: scaled(3, 20),
			strike: func() error {
				pids, err := postgresProcesses(d.at)
				if err != nil {
					return err
				}
				return frozen(t.Context(), pids, d)
			},
			mend: func() error {
				return errors.Join(killThoseIn(d.at), s.Stop(), freed(t.Context(), d), startPatiently(t.Context(), s))
			},
		})
	})
}

// postgresProcesses returns the processes of a server, the one that starts the others first.
func postgresProcesses(data string) ([]int, error) {
	text, err := os.ReadFile(filepath.Join(data, "postmaster.pid"))
	if err != nil {
		return nil, err
	}
	line, _, _ := strings.Cut(string(text), "\n")
	postmaster, err := strconv.Atoi(line)
	if err != nil {
		return nil, fmt.Errorf("read postmaster.pid: %w", err)
	}
	pids := []int{postmaster}
	children, err := os.ReadFile(fmt.Sprintf("/proc/%d/task/%[1]d/children", postmaster))
	for field := range strings.FieldsSeq(string(children)) {
		if pid, err := strconv.Atoi(field); err == nil {
			pids = append(pids, pid)
		}
	}
	return pids, err
}

// killThoseIn kills the processes whose working directory is a server's data, as it is of all processes of PostgreSQL. Most often they have ended by themselves,
// but one that waits for a lock of another that is gone does so for ever, unless the first of them has lived to end it.
func killThoseIn(data string) error {
	links, err := filepath.Glob("/proc/[0-9]*/cwd")
	if err != nil {
		return err
	}
	for _, link := range links {
		if at, err := os.Readlink(link); err != nil || at != data {
			continue // it may have ended meanwhile
		}
		pid, err := strconv.Atoi(filepath.Base(filepath.Dir(link)))
		if err != nil {
			return err
		}
		_ = syscall.Kill(pid, syscall.SIGKILL) // as above
	}
	return nil
}

// atALoss calls books whose disk may read as anything at all, so that they find it damaged: the caller is told INTERNAL, after which the
// outcome is unknown.
func atALoss(once caller) caller {
	return func(ctx context.Context, o op) (answer, error) {
		a, err := once(ctx, o)
		if a.Code == failed {
			a.Code = unknown
		}
		return a, err
	}
}

// moveToDisk moves a server's data to a disk that can die.
func moveToDisk(t *testing.T, s *databasetest.Server) disk {
	t.Helper()
	admin, err := sql.Open("pgx", s.DSN("postgres"))
	if err != nil {
		t.Fatal(err)
	}
	data, err := dataFolder(t.Context(), admin)
	if err := errors.Join(err, admin.Close(), s.Stop()); err != nil {
		t.Fatal(err)
	}
	d := newDisk(t, 192)
	out, err := exec.Command("cp", "-a", data+"/.", d.at).CombinedOutput()
	d.unmount(t)
	if err != nil {
		t.Fatalf("cp: %v: %s", err, out)
	}
	d.at = data
	if err := d.mount(); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := s.Stop(); err != nil {
			t.Error(err)
		}
		d.unmount(t)
	})
	if err := s.Start(t.Context()); err != nil {
		t.Fatal(err)
	}
	return d
}

// freed restores a disk as soon as what was killed has closed its files, with what the first of them may have started before it was. A process that another test is
// starting at the moment has a copy of them too, until it executes its program.
func freed(ctx context.Context, d disk) error {
	ctx, cancel := context.WithTimeout(ctx, openTimeout)
	defer cancel()
	err := d.restore()
	await(ctx, func() bool {
		if errors.Is(err, syscall.EBUSY) {
			err = errors.Join(killThoseIn(d.at), d.restore())
		}
		return !errors.Is(err, syscall.EBUSY)
	})
	return err
}
