// Package attest says which process is at the other end of a unix socket: what the kernel knows of it, and nothing that it says
// itself (SPIFFE Workload Endpoint §5).
//
// A connection belongs to the process that made it, as that process was when the connection was accepted. Its handle on the
// process is taken at that moment and kept for the life of the connection, so that neither the reuse of a PID nor an exec of another
// program gives anyone else the identity: Caller.Process looks again each time it is asked.
//
// On Linux the handle is a pidfd that the kernel made for the connection itself (SO_PEERPIDFD, Linux 6.5), and directory and
// executable as open files under /proc. Older kernels give a PID only; between connect and accept it could then be reused. The
// executable is read through the process, so that a file that was swapped at its path does not count. A path counts only
// if the file at that path is, as this process sees it, the one that runs: a process can mount anything over any path in a mount
// namespace of its own.
//
// On macOS the handle is PID and start time, and the executable is read at the path that the kernel gives for it.
//
// A socket with a name (Named) is another way to tell callers apart, for containers: they share one user and one kernel, and of their
// processes the authority, in a container of its own, sees neither PID nor executable. What it can rely on is which socket was put into
// which container. Who comes over such a socket is known by the socket's name and the uid, and nothing else is looked at: not the PID,
// which is 0 across PID namespaces, and not the executable. The identity is that of everybody who can reach the socket, so each belongs
// into one container only.
//
// What attestation by the process cannot tell: whoever may run a program as a user can also take that program over, with ptrace for
// one, and has its identity. A selector for the uid keeps other users out, and file permissions on the program do.
package attest

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"os"
	"strconv"
	"sync"

	"google.golang.org/grpc/credentials"
	"google.golang.org/grpc/peer"
)

// ErrNoProcess says that a caller cannot be attested; the error that wraps it says why.
var ErrNoProcess = errors.New("cannot attest the calling process")

var errConnClosed = fmt.Errorf("%w: the connection is closed", ErrNoProcess)

// Process is what is known of a process.
type Process struct {
	// PID is 0 for a process that came over a socket with a name from a PID namespace that the authority does not see.
	PID int
	UID uint32
	// Socket is the name of the socket that it came over, if that has one; then nothing below is known.
	Socket string
	// Path is the executable's path; empty when that path cannot be believed, and PathProblem says why.
	Path        string
	PathProblem string
	// SHA256 is the sum of the executable in lower-case hexadecimal; empty when it was not asked for.
	SHA256 string
}

// Selectors returns what is known in the terms of SPIRE's unix workload attestor; of a process that came over a socket with a name that
// name, as socket:NAME, and the uid.
func (p Process) Selectors() []string {
	selectors := []string{"unix:uid:" + strconv.FormatUint(uint64(p.UID), 10)}
	if p.Socket != "" {
		return append(selectors, "socket:"+p.Socket)
	}
	if p.Path != "" {
		selectors = append(selectors, "unix:path:"+p.Path)
	}
	if p.SHA256 != "" {
		selectors = append(selectors, "unix:sha256:"+p.SHA256)
	}
	return selectors
}

// Attestor takes handles on callers. It is safe for concurrent use. The zero value is not usable; see New.
type Attestor struct {
	sums   *sums
	limits *limits
}

// Option changes a default of New.
type Option func(*options)

type options struct{ log *slog.Logger }

// WithLogger sets where refused connections are logged; slog.Default by default.
func WithLogger(log *slog.Logger) Option { return func(o *options) { o.log = log } }

// New returns an Attestor.
func New(opts ...Option) *Attestor {
	o := options{log: slog.Default()}
	for _, opt := range opts {
		opt(&o)
	}
	return &Attestor{sums: newSums(), limits: newLimits(o.log)}
}

// Credentials returns what a gRPC server on a unix socket needs so that FromContext finds the caller. There is no encryption: the
// kernel is all that is between the two ends.
func (a *Attestor) Credentials() credentials.TransportCredentials { return transport{attestor: a} }

// Attest takes a handle on the process that made a connection. It never fails: a caller that cannot be attested gets its error
// from Process, so that each of its calls can be answered.
func (a *Attestor) Attest(conn net.Conn) *Caller {
	c := &Caller{sums: a.sums}
	if named, ok := conn.(*namedConn); ok {
		c.socket = named.name
		c.named, c.err = named.process()
		return c
	}
	c.handle, c.err = take(conn)
	return c
}

// take takes a handle on the process that made a connection.
func take(conn net.Conn) (h *handle, err error) {
	err = control(conn, func(socket int) (err error) {
		h, err = openHandle(socket)
		return err
	})
	return h, err
}

// control gets at the socket below conn.
func control(conn net.Conn, ask func(socket int) error) error {
	unixConn, ok := conn.(*net.UnixConn)
	if !ok {
		return fmt.Errorf("%w: it came over %T, not over a unix socket", ErrNoProcess, conn)
	}
	raw, err := unixConn.SyscallConn()
	if err != nil {
		return fmt.Errorf("%w: %w", ErrNoProcess, err)
	}
	var askErr error
	if err := raw.Control(func(fd uintptr) { askErr = ask(int(fd)) }); err != nil {
		return fmt.Errorf("%w: %w", ErrNoProcess, err)
	}
	if askErr != nil {
		return fmt.Errorf("%w: %w", ErrNoProcess, askErr)
	}
	return nil
}

// Caller is the process at the other end of one connection. It is safe for concurrent use.
type Caller struct {
	sums *sums
	err  error
	// socket is the name of the socket that it came over, if that has one.
	socket string

	mu sync.Mutex
	// Of the process there is a handle, or, over a socket with a name, all that is to be known of it.
	handle *handle
	named  *Process
	sum    string
}

// AuthType implements credentials.AuthInfo.
func (*Caller) AuthType() string { return "unix-peer" }

// party is whom a connection counts for.
func (c *Caller) party() party {
	switch {
	case c.socket != "":
		return party{socket: c.socket}
	case c.handle == nil:
		return party{uid: unknownUser}
	}
	return party{uid: int64(c.handle.uid)}
}

// Process returns what is known of the process, without the sum of its executable, after making sure that it is alive and still runs
// what it ran when the connection was accepted. Who came over a socket with a name has that for as long as the connection is open.
func (c *Caller) Process() (Process, error) {
	if c.err != nil {
		return Process{}, c.err
	}
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.named != nil {
		return *c.named, nil
	}
	if c.handle == nil {
		return Process{}, errConnClosed
	}
	if err := c.handle.check(); err != nil {
		return Process{}, fmt.Errorf("%w: process %d: %w", ErrNoProcess, c.handle.pid, err)
	}
	return Process{
		PID: c.handle.pid, UID: c.handle.uid, Path: c.handle.path, PathProblem: c.handle.pathProblem, SHA256: c.sum,
	}, nil
}

// Measured is Process with the sum of the executable. To read it can take long and costs the whole machine: whoever can do without it
// asks Process. Of who came over a socket with a name the executable is not looked at. It ends with ctx.
func (c *Caller) Measured(ctx context.Context) (Process, error) {
	if c.err != nil {
		return Process{}, c.err
	}
	if err := c.measure(ctx); err != nil {
		return Process{}, err
	}
	return c.Process() // last, so that it holds for all that was read before
}

// measure reads the executable, once. Close need not wait for it: a read of a closed file fails.
func (c *Caller) measure(ctx context.Context) error {
	c.mu.Lock()
	handle, known := c.handle, c.sum != ""
	if known || handle == nil {
		c.mu.Unlock()
		return nil
	}
	pid, exe := handle.pid, handle.exe
	c.mu.Unlock()
	sum, err := c.sums.of(ctx, exe)
	switch {
	case ctx.Err() != nil:
		return ctx.Err()
	case err != nil:
		return fmt.Errorf("%w: process %d: %w", ErrNoProcess, pid, err)
	}
	c.mu.Lock()
	defer c.mu.Unlock()
	c.sum = sum
	return nil
}

// Close gives the handle back.
func (c *Caller) Close() error {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.named = nil
	if c.handle == nil {
		return nil
	}
	err := c.handle.close()
	c.handle = nil
	return err
}

// FromContext returns the caller of the gRPC call that ctx belongs to.
func FromContext(ctx context.Context) (*Caller, error) {
	p, ok := peer.FromContext(ctx)
	if !ok {
		return nil, fmt.Errorf("%w: the call has no peer", ErrNoProcess)
	}
	caller, ok := p.AuthInfo.(*Caller)
	if !ok {
		return nil, fmt.Errorf("%w: the connection was not accepted by an attestor", ErrNoProcess)
	}
	return caller, nil
}

// samePath reports why the file at path, as this process sees it, is not the one that is open as exe; "" when it is.
func samePath(path string, exe *os.File) string {
	running, err := exe.Stat()
	if err != nil {
		return err.Error()
	}
	here, err := os.Stat(path)
	if err != nil {
		return "the authority does not see its executable at the path that the process sees: " + err.Error()
	}
	if !os.SameFile(running, here) {
		return "the file at " + path + " is, where the authority looks, not the one that the process runs"
	}
	return ""
}
