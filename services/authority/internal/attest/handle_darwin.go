package attest

import (
	"bytes"
	"errors"
	"fmt"
	"os"
	"syscall"
	"unsafe"

	"golang.org/x/sys/unix"
)

// handle is what macOS gives to hold a process by: its PID and when it started.
type handle struct {
	pid         int
	uid         uint32
	start       unix.Timeval
	exe         *os.File
	exePath     string
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
		return nil, errors.New("the kernel gives no PID for it")
	}
	h := &handle{pid: pid, uid: uid}
	if err := h.open(); err != nil {
		return nil, errors.Join(fmt.Errorf("process %d: %w", pid, err), h.close())
	}
	return h, nil
}

// peerCredentials returns what the kernel noted when the process connected.
func peerCredentials(socket int) (pid int, uid uint32, err error) {
	cred, err := unix.GetsockoptXucred(socket, unix.SOL_LOCAL, unix.LOCAL_PEERCRED)
	if err != nil {
		return 0, 0, fmt.Errorf("ask the kernel for the peer's credentials: %w", err)
	}
	if pid, err = unix.GetsockoptInt(socket, unix.SOL_LOCAL, unix.LOCAL_PEERPID); err != nil {
		return 0, 0, fmt.Errorf("ask the kernel for the peer's PID: %w", err)
	}
	return pid, cred.Uid, nil
}

func (h *handle) open() error {
	info, err := h.info()
	if err != nil {
		return err
	}
	h.start = info.Proc.P_starttime
	if h.exePath, err = executablePath(h.pid); err != nil {
		return err
	}
	if h.exe, err = os.Open(h.exePath); err != nil {
		return fmt.Errorf("open its executable: %w", err)
	}
	if h.pathProblem = samePath(h.exePath, h.exe); h.pathProblem == "" {
		h.path = h.exePath
	}
	return h.check()
}

// check makes sure that the process is alive, is the one that it was, runs what it ran, and has the uid that it connected with.
func (h *handle) check() error {
	info, err := h.info()
	if err != nil {
		return err
	}
	if info.Proc.P_starttime != h.start {
		return errors.New("its PID belongs to another process now")
	}
	if info.Eproc.Ucred.Uid != h.uid {
		return errors.New("it runs as another user than when it connected")
	}
	path, err := executablePath(h.pid)
	if err != nil {
		return err
	}
	if path != h.exePath {
		return errors.New("it runs another program than when it connected")
	}
	return nil
}

func (h *handle) info() (*unix.KinfoProc, error) {
	info, err := unix.SysctlKinfoProc("kern.proc.pid", h.pid)
	if err != nil || int(info.Proc.P_pid) != h.pid {
		return nil, errors.New("it has exited")
	}
	const zombie = 5 // SZOMB of sys/proc.h
	if info.Proc.P_stat == zombie {
		return nil, errors.New("it has exited")
	}
	return info, nil
}

func (h *handle) close() error {
	if h.exe == nil {
		return nil
	}
	err := h.exe.Close()
	h.exe = nil
	return err
}

// executablePath is proc_pidpath of libproc: the path of the file that the process runs, as the kernel knows it. The arguments
// that kern.procargs2 gives are in the memory of the process, which can write there what it likes.
func executablePath(pid int) (string, error) {
	const callPidInfo, pidPathInfo, maxPath = 2, 11, 4096
	var buffer [maxPath]byte
	_, _, errno := unix.Syscall6(
		unix.SYS_PROC_INFO, //nolint:staticcheck // libproc's wrapper can be had with cgo only
		callPidInfo, uintptr(pid), pidPathInfo, 0,
		uintptr(unsafe.Pointer(&buffer[0])), maxPath) //nolint:gosec // the kernel fills the buffer
	if errno != 0 {
		return "", fmt.Errorf("find its executable: %w", errno)
	}
	path, _, ok := bytes.Cut(buffer[:], []byte{0})
	if !ok || len(path) == 0 || path[0] != '/' {
		return "", errors.New("its executable has no path that can be told")
	}
	return string(path), nil
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
		device: uint64(stat.Dev), inode: stat.Ino, size: stat.Size, //nolint:gosec // a device number is compared only
		modified: stat.Mtimespec.Nano(), changed: stat.Ctimespec.Nano(),
	}, nil
}
