package databasetest

import (
	"bytes"
	"context"
	"database/sql"
	_ "embed"
	"errors"
	"fmt"
	"io"
	"math/rand/v2"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"syscall"
	"time"

	_ "github.com/jackc/pgx/v5/stdlib" // the driver "pgx"
)

const (
	// startTimeout bounds how long a server may take to start, after a crash above all, and stopTimeout how long to stop.
	startTimeout = 60 * time.Second
	stopTimeout  = 30 * time.Second
	// retryInterval is how often it is looked whether the server is ready, or could start now.
	retryInterval = 20 * time.Millisecond
)

// Server is a PostgreSQL server on a port of the loopback interface, with its data in a folder of its own. When the process ends, however it
// does, the server ends too and the folder is removed. It is not safe for concurrent use. Tests get one from StartServer; for a program that
// is none New makes one.
type Server struct {
	programs string // the folder of initdb and postgres
	folder   string
	settings []string
	port     int
	killed   bool

	cmd    *exec.Cmd      // nil while the server does not run
	life   io.WriteCloser // see supervise.sh
	exited chan struct{}  // closed when it has ended
	exit   error          // how it has ended; to be read after that
}

// New makes a server and starts it. The caller closes it. Each setting is one of postgresql.conf, such as fsync=off. The error wraps
// ErrMissing on a machine without PostgreSQL.
func New(ctx context.Context, settings ...string) (*Server, error) {
	s, err := newServer(settings)
	if err != nil {
		return nil, err
	}
	if err := s.Start(ctx); err != nil {
		return nil, errors.Join(err, s.remove())
	}
	return s, nil
}

// Close stops the server, if it runs, and removes its data.
func (s *Server) Close() error { return errors.Join(s.Stop(), s.remove()) }

// newServer makes a server's data. The server does not run yet.
func newServer(settings []string) (_ *Server, err error) {
	programs, err := binaries()
	if err != nil {
		return nil, err
	}
	folder, err := makeFolder()
	if err != nil {
		return nil, err
	}
	s := &Server{programs: programs, folder: folder, settings: settings, port: randomPort()}
	initdb := s.command(filepath.Join(programs, "initdb"), "--pgdata="+s.data(), "--auth=trust", "--username=postgres",
		"--encoding=UTF8", "--locale=C", "--no-sync", "--no-instructions")
	if out, err := initdb.CombinedOutput(); err != nil {
		return nil, errors.Join(fmt.Errorf("initdb: %w: %s", err, out), s.remove())
	}
	return s, nil
}

func (s *Server) data() string { return filepath.Join(s.folder, "data") }

// DSN returns the DSN of a database on the server.
func (s *Server) DSN(database string) string {
	return fmt.Sprintf("postgres://postgres@127.0.0.1:%d/%s?sslmode=disable", s.port, database)
}

// Create makes an empty database and returns its DSN.
func (s *Server) Create(ctx context.Context, name string) (string, error) {
	db, err := sql.Open("pgx", s.DSN("postgres"))
	if err != nil {
		return "", err
	}
	_, err = db.ExecContext(ctx, `CREATE DATABASE "`+name+`"`)
	return s.DSN(name), errors.Join(err, db.Close())
}

// Start starts the server and waits until it answers.
func (s *Server) Start(ctx context.Context) error {
	if s.cmd != nil {
		return errors.New("the server runs already")
	}
	ctx, cancel := context.WithTimeout(ctx, startTimeout)
	defer cancel()
	tick := time.NewTicker(retryInterval)
	defer tick.Stop()
	for {
		err := s.launch()
		if err == nil {
			err = s.ready(ctx)
		}
		if err == nil {
			s.killed = false
			return nil
		}
		if err := errors.Join(err, s.Stop()); ctx.Err() != nil || !s.passing() {
			return err
		}
		<-tick.C
	}
}

// passing reports whether what kept the server from starting may have passed when it is tried again: another process has the port, or what
// is left of the server that was killed has not ended yet.
func (s *Server) passing() bool {
	log := s.log()
	if bytes.Contains(log, []byte("could not bind")) && !s.killed {
		s.port = randomPort() // nobody knows the old one yet
		return true
	}
	return bytes.Contains(log, []byte("could not bind")) || bytes.Contains(log, []byte("is still in use"))
}

//go:embed supervise.sh
var supervise string

// launch starts the processes.
func (s *Server) launch() error {
	read, write, err := os.Pipe()
	if err != nil {
		return err
	}
	args := []string{"-c", supervise, "sh", filepath.Join(s.programs, "postgres"), "-D", s.data(), "-p", strconv.Itoa(s.port)}
	for _, setting := range append([]string{
		"listen_addresses=127.0.0.1", "unix_socket_directories=", "max_connections=200", "shared_buffers=64MB", "logging_collector=off",
		"dynamic_shared_memory_type=mmap", // in the folder, so that a killed server leaves nothing elsewhere
	}, s.settings...) {
		args = append(args, "-c", setting)
	}
	cmd := s.command("/bin/sh", args...)
	log, err := os.OpenFile(s.logPath(), os.O_CREATE|os.O_TRUNC|os.O_WRONLY, 0o600)
	if err != nil {
		return errors.Join(err, read.Close(), write.Close())
	}
	cmd.Stdin, cmd.Stdout, cmd.Stderr = read, log, log
	if err := errors.Join(cmd.Start(), read.Close(), log.Close()); err != nil {
		return errors.Join(err, write.Close())
	}
	s.cmd, s.life, s.exited = cmd, write, make(chan struct{})
	go func() {
		defer close(s.exited)
		s.exit = cmd.Wait()
	}()
	return nil
}

// ready waits until the server answers.
func (s *Server) ready(ctx context.Context) error {
	db, err := sql.Open("pgx", s.DSN("postgres"))
	if err != nil {
		return err
	}
	defer func() { _ = db.Close() }() // nothing was written
	tick := time.NewTicker(retryInterval)
	defer tick.Stop()
	for {
		// Another process may have the port, and another server on it: this one knows its own folder.
		var data string
		if err := db.QueryRowContext(ctx, "SHOW data_directory").Scan(&data); err == nil && data == s.data() {
			return nil
		}
		select {
		case <-s.exited:
			return fmt.Errorf("PostgreSQL did not start: %w\n%s", s.exit, s.log())
		case <-ctx.Done():
			return fmt.Errorf("PostgreSQL does not answer: %w\n%s", context.Cause(ctx), s.log())
		case <-tick.C:
		}
	}
}

func (s *Server) logPath() string { return filepath.Join(s.folder, "log") }

// log returns the end of what the server has written since it was started last.
func (s *Server) log() []byte {
	text, err := os.ReadFile(s.logPath())
	if err != nil {
		return []byte(err.Error())
	}
	lines := bytes.Split(bytes.TrimSpace(text), []byte("\n"))
	return bytes.Join(lines[max(0, len(lines)-20):], []byte("\n"))
}

// Stop stops the server, if it runs: connections are cut, and what was committed is kept.
func (s *Server) Stop() error {
	if s.cmd == nil {
		return nil
	}
	_, err := s.life.Write([]byte("stop\n"))
	if errors.Is(err, syscall.EPIPE) { // it has ended by itself
		err = nil
	}
	err = errors.Join(err, s.life.Close())
	select {
	case <-s.exited:
	case <-time.After(stopTimeout):
		err = errors.Join(err, fmt.Errorf("PostgreSQL does not stop; it is killed\n%s", s.log()), s.kill(),
			syscall.Kill(-s.cmd.Process.Pid, syscall.SIGKILL)) // its group, should it have no postmaster.pid yet
		<-s.exited
	}
	s.cmd = nil
	return err
}

// Kill kills the server's processes with SIGKILL, if it runs; Start recovers it.
func (s *Server) Kill() error {
	if s.cmd == nil {
		return nil
	}
	return errors.Join(s.kill(), s.Stop())
}

func (s *Server) kill() error {
	s.killed = true
	lines, err := s.pidFile()
	if err != nil {
		return err
	}
	postmaster, err := strconv.Atoi(lines[0])
	if err != nil {
		return fmt.Errorf("read postmaster.pid: %w", err)
	}
	// While it is stopped it neither starts others nor ends them in good order. Only Linux tells who they are; elsewhere they end by themselves
	// after what they are doing.
	if err := syscall.Kill(postmaster, syscall.SIGSTOP); err != nil {
		return err
	}
	children, _ := os.ReadFile(fmt.Sprintf("/proc/%d/task/%[1]d/children", postmaster))
	for field := range strings.FieldsSeq(string(children)) {
		if child, err := strconv.Atoi(field); err == nil {
			_ = syscall.Kill(child, syscall.SIGKILL) // it may have ended meanwhile
		}
	}
	return syscall.Kill(postmaster, syscall.SIGKILL)
}

// pidFile returns the lines of postmaster.pid, which has eight when the server is ready.
func (s *Server) pidFile() ([]string, error) {
	text, err := os.ReadFile(filepath.Join(s.data(), "postmaster.pid"))
	if err != nil {
		return nil, err
	}
	return strings.Split(string(text), "\n"), nil
}

// remove removes what the server has written. It must not run.
func (s *Server) remove() error {
	if s.killed { // the next start would have removed its shared memory; line 7 is the key and the number
		if lines, err := s.pidFile(); err == nil && len(lines) >= 7 {
			if memory := strings.Fields(lines[6]); len(memory) == 2 {
				_ = exec.Command("ipcrm", "-m", memory[1]).Run() //nolint:gosec,noctx // G204: a number; where there is no ipcrm, 56 bytes are left
			}
		}
	}
	return os.RemoveAll(s.folder)
}

// randomPort returns a port that nobody listens on, out of those that no system gives to outgoing connections.
func randomPort() int {
	const first, last = 15_000, 30_000
	for {
		port := first + rand.N(last-first)                             //nolint:gosec // G404: a port is no secret
		l, err := net.Listen("tcp", fmt.Sprintf("127.0.0.1:%d", port)) //nolint:noctx // it ends at once
		if err != nil {
			continue
		}
		_ = l.Close()
		return port
	}
}
