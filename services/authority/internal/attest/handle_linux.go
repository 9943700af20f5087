package attest

import (
	"bytes"
	"errors"
	"fmt"
	"os"
	"strconv"
	"strings"
	"syscall"

	"golang.org/x/sys/unix"
)

// handle is a hold on one process that outlives its PID. All its files are opened once, at accept.
type handle struct {
	pid int
	uid uint32
	// pidfd is -1 where the kernel has none (before Linux 5.3).
	pidfd int
	// proc is the process's directory in /proc. It goes dead with the process: another one of the same PID has another.
	proc  int
	start string
	// exe is the executable, opened through the process. While it is open no other file can get its inode.
	exe         *os.File
	path        string
	pathProblem string
}

// openHandle takes a handle on the process that connected to a socket.
func openHandle(socket int) (*handle, error) {
	pid, uid, err := peerCredentials(socket)
	if err != nil {
		return nil, err
	}
	if pid <= 0 {
		return nil, errors.New("the kernel gives no PID for it: it is in a PID namespace that the authority does not see")
	}
	h := &handle{pid: pid, uid: uid, pidfd: -1, proc: -1}
	if err := h.open(socket); err != nil {
		return nil, errors.Join(fmt.Errorf("process %d: %w", h.pid, err), h.close())
	}
	return h, nil
}

// peerCredentials returns what the kernel noted when the process connected. The PID is 0 when it is in a PID namespace that this
// process does not see.
func peerCredentials(socket int) (pid int, uid uint32, err error) {
	cred, err := unix.GetsockoptUcred(socket, unix.SOL_SOCKET, unix.SO_PEERCRED)
	if err != nil {
		return 0, 0, fmt.Errorf("ask the kernel for the peer's credentials: %w", err)
	}
	return int(cred.Pid), cred.Uid, nil
}

func (h *handle) open(socket int) error {
	var err error
	if h.pidfd, err = openPidfd(socket, h.pid); err != nil {
		return err
	}
	h.proc, err = unix.Open("/proc/"+strconv.Itoa(h.pid), unix.O_RDONLY|unix.O_DIRECTORY|unix.O_CLOEXEC, 0)
	if err != nil {
		return gone(err)
	}
	// The pidfd's process is alive now, so its PID was not reused, so the directory is its own.
	if err := h.alive(); err != nil {
		return err
	}
	if h.start, err = h.startTime(); err != nil {
		return err
	}
	if err := h.openExecutable(); err != nil {
		return err
	}
	return h.check()
}

// openPidfd returns a pidfd for the peer: the kernel's own (SO_PEERPIDFD), or where there is none one for the PID.
func openPidfd(socket, pid int) (int, error) {
	fd, err := unix.GetsockoptInt(socket, unix.SOL_SOCKET, unix.SO_PEERPIDFD)
	if err == nil {
		return fd, nil
	}
	if !errors.Is(err, unix.ENOPROTOOPT) {
		return -1, errExited // ESRCH or EINVAL, by version: the process was reaped
	}
	fd, err = unix.PidfdOpen(pid, 0)
	switch {
	case err == nil:
		return fd, nil
	case errors.Is(err, unix.ENOSYS):
		return -1, nil
	default:
		return -1, gone(err)
	}
}

// errExited is why a process that is no more has no identity.
var errExited = errors.New("it has exited")

// gone tells a process that has exited from a failure.
func gone(err error) error {
	if errors.Is(err, unix.ESRCH) || errors.Is(err, unix.ENOENT) {
		return errExited
	}
	if errors.Is(err, unix.EACCES) || errors.Is(err, unix.EPERM) {
		return fmt.Errorf("%w: the authority must run as root, or as the user of all its workloads", err)
	}
	return err
}

func (h *handle) openExecutable() error {
	fd, err := unix.Openat(h.proc, "exe", unix.O_RDONLY|unix.O_CLOEXEC, 0)
	if err != nil {
		return fmt.Errorf("open its executable: %w", gone(err))
	}
	h.exe = os.NewFile(uintptr(fd), "exe of process "+strconv.Itoa(h.pid))
	buffer := make([]byte, unix.PathMax)
	n, err := unix.Readlinkat(h.proc, "exe", buffer)
	if err != nil {
		return fmt.Errorf("find its executable: %w", gone(err))
	}
	path := string(buffer[:n])
	if n == len(buffer) || !strings.HasPrefix(path, "/") {
		return fmt.Errorf("its executable %q has no path that can be told", path)
	}
	if strings.HasSuffix(path, " (deleted)") {
		return fmt.Errorf("its executable %q was removed or replaced after it was started; restart it", path)
	}
	if h.pathProblem = samePath(path, h.exe); h.pathProblem == "" {
		h.path = path
	}
	return nil
}

// check makes sure that the process is alive, is the one that it was, runs what it ran, and has the uid that it connected with.
func (h *handle) check() error {
	if err := h.alive(); err != nil {
		return err
	}
	start, err := h.startTime()
	if err != nil {
		return err
	}
	if start != h.start {
		return errors.New("its PID belongs to another process now")
	}
	if err := h.sameExecutable(); err != nil {
		return err
	}
	return h.sameUser()
}

// alive asks the pidfd: it is readable when the process has ended.
func (h *handle) alive() error {
	if h.pidfd < 0 {
		return nil
	}
	for {
		fds := []unix.PollFd{{Fd: int32(h.pidfd), Events: unix.POLLIN}} //nolint:gosec // a file descriptor is a C int
		n, err := unix.Poll(fds, 0)
		switch {
		case errors.Is(err, unix.EINTR):
			continue
		case err != nil:
			return fmt.Errorf("ask whether it is alive: %w", err)
		case n > 0:
			return errExited
		}
		return nil
	}
}

// startTime is field 22 of stat (proc_pid_stat(5)). The second field, the name, may hold spaces and parentheses.
func (h *handle) startTime() (string, error) {
	text, err := h.read("stat")
	if err != nil {
		return "", err
	}
	fields := bytes.Fields(text[bytes.LastIndexByte(text, ')')+1:])
	const third, state, start = 3, 3, 22
	if len(fields) <= start-third {
		return "", errors.New("its stat file cannot be read")
	}
	if s := string(fields[state-third]); s == "Z" || s == "X" {
		return "", errExited
	}
	return string(fields[start-third]), nil
}

func (h *handle) sameExecutable() error {
	var now, then unix.Stat_t
	if err := unix.Fstatat(h.proc, "exe", &now, 0); err != nil {
		return fmt.Errorf("find its executable: %w", gone(err))
	}
	if err := unix.Fstat(int(h.exe.Fd()), &then); err != nil {
		return fmt.Errorf("find its executable: %w", err)
	}
	if now.Dev != then.Dev || now.Ino != then.Ino {
		return errors.New("it runs another program than when it connected")
	}
	return nil
}

// sameUser compares the effective uid now with the one that the kernel noted at connect.
func (h *handle) sameUser() error {
	text, err := h.read("status")
	if err != nil {
		return err
	}
	for line := range strings.Lines(string(text)) {
		if uids, ok := strings.CutPrefix(line, "Uid:"); ok {
			fields := strings.Fields(uids)
			if len(fields) > 1 && fields[1] == strconv.FormatUint(uint64(h.uid), 10) {
				return nil
			}
			return errors.New("it runs as another user than when it connected")
		}
	}
	return errors.New("its status file cannot be read")
}

// read reads a small file of the process's directory.
func (h *handle) read(name string) ([]byte, error) {
	fd, err := unix.Openat(h.proc, name, unix.O_RDONLY|unix.O_CLOEXEC, 0)
	if err != nil {
		return nil, fmt.Errorf("read its %s: %w", name, gone(err))
	}
	defer func() { _ = unix.Close(fd) }() // it was only read
	buffer := make([]byte, 16<<10)
	n := 0
	for n < len(buffer) {
		m, err := unix.Read(fd, buffer[n:])
		switch {
		case errors.Is(err, unix.EINTR):
			continue
		case err != nil:
			return nil, fmt.Errorf("read its %s: %w", name, gone(err))
		case m == 0:
			return buffer[:n], nil
		}
		n += m
	}
	return buffer, nil
}

func (h *handle) close() error {
	var errs []error
	for _, fd := range []int{h.pidfd, h.proc} {
		if fd >= 0 {
			errs = append(errs, unix.Close(fd))
		}
	}
	if h.exe != nil {
		errs = append(errs, h.exe.Close())
	}
	h.pidfd, h.proc, h.exe = -1, -1, nil
	return errors.Join(errs...)
}

// identify reads what a file's sum is remembered by.
func identify(file *os.File) (fileID, error) {
	info, err := file.Stat()
	if err != nil {
		return fileID{}, fmt.Errorf("look at its executable: %w", err)
	}
	stat, ok := info.Sys().(*syscall.Stat_t)
	if !ok {
		return fileID{}, errors.New("look at its executable: the system tells nothing")
	}
	return fileID{
		device: stat.Dev, inode: stat.Ino, size: stat.Size, modified: stat.Mtim.Nano(), changed: stat.Ctim.Nano(),
	}, nil
}
