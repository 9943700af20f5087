package databasetest

import (
	"bytes"
	"context"
	"database/sql"
	"errors"
	"fmt"
	"io"
	"net"
	"os"
	"os/exec"
	"os/user"
	"path/filepath"
	"slices"
	"strconv"
	"syscall"
	"time"

	_ "github.com/jackc/pgx/v5/stdlib" // the driver "pgx"
)

const (
	// startTimeout bounds how long a server may take to start, after a crash above all, and stopTimeout how long to stop.
	startTimeout = 60 * time.Second
	stopTimeout  = 30 * time.Second
)

// Server is a PostgreSQL server on a free port of the loopback interface, with its data in a folder of its own. It is not safe for
// concurrent use. The zero value is not usable; see New.
type Server struct {
	bin, dir string
	port     int
	cmd      *exec.Cmd
	life     io.WriteCloser // the server ends when it is closed
	exited   chan error
}

// New makes a server's data folder in dir, which has to be there. The server does not run yet.
func New(dir string) (*Server, error) {
	bin, err := binaries()
	if err != nil {
		return nil, err
	}
	port, err := freePort()
	if err != nil {
		return nil, err
	}
	s := &Server{bin: bin, dir: filepath.Join(dir, "postgres"), port: port}
	if err := s.own(dir); err != nil {
		return nil, err
	}
	initdb := s.command(filepath.Join(bin, "initdb"), "--pgdata="+s.dir, "--auth=trust", "--username=postgres",
		"--encoding=UTF8", "--locale=C", "--no-sync", "--no-instructions")
	if out, err := initdb.CombinedOutput(); err != nil {
		return nil, fmt.Errorf("initdb: %w: %s", err, out)
	}
	return s, nil
}

// own makes the data folder and gives it to whom the server runs as.
func (s *Server) own(parent string) error {
	if err := os.Mkdir(s.dir, 0o700); err != nil {
		return err
	}
	credential, err := unprivileged()
	if err != nil || credential == nil {
		return err
	}
	// The folders above must be open for that user too.
	for at := parent; at != filepath.Dir(at); at = filepath.Dir(at) {
		info, err := os.Stat(at)
		if err != nil {
			return err
		}
		if info.Mode().Perm()&0o001 != 0 {
			continue
		}
		if err := os.Chmod(at, info.Mode().Perm()|0o011); err != nil {
			return err
		}
	}
	return os.Chown(s.dir, int(credential.Uid), int(credential.Gid))
}

// command runs a program of PostgreSQL, which refuses to be run by root.
func (s *Server) command(name string, args ...string) *exec.Cmd {
	cmd := exec.Command(name, args...) //nolint:gosec,noctx // G204: a program of PostgreSQL; Stop ends it
	cmd.Dir = s.dir
	cmd.Env = append(os.Environ(), "LC_ALL=C")
	if credential, err := unprivileged(); err == nil && credential != nil {
		cmd.SysProcAttr = &syscall.SysProcAttr{Credential: credential}
	}
	return cmd
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

// supervise runs postgres until its standard input ends, so that no server outlives a test process that was killed. SIGINT is a fast
// shutdown.
const supervise = `"$@" </dev/null & pid=$!
trap 'kill -INT $pid' TERM
{ read -r _; kill -INT $pid; } <&3 2>/dev/null &
reader=$!
wait $pid; code=$?
while kill -0 $pid 2>/dev/null; do wait $pid; code=$?; done
kill $reader 2>/dev/null
exit $code`

// Start starts the server and waits until it answers.
func (s *Server) Start(ctx context.Context) error {
	if s.cmd != nil {
		return errors.New("the server runs already")
	}
	read, write, err := os.Pipe()
	if err != nil {
		return err
	}
	cmd := s.command("/bin/sh", "-c", supervise, "sh", filepath.Join(s.bin, "postgres"), "-D", s.dir,
		"-p", strconv.Itoa(s.port), "-c", "listen_addresses=127.0.0.1", "-c", "unix_socket_directories=", "-c", "max_connections=200",
		"-c", "shared_buffers=64MB", "-c", "logging_collector=off")
	cmd.ExtraFiles = []*os.File{read}
	log, err := os.OpenFile(s.dir+".log", os.O_CREATE|os.O_APPEND|os.O_WRONLY, 0o600)
	if err != nil {
		return errors.Join(err, read.Close(), write.Close())
	}
	cmd.Stdout, cmd.Stderr = log, log
	err = errors.Join(cmd.Start(), read.Close(), log.Close())
	if err != nil {
		return errors.Join(err, write.Close())
	}
	s.cmd, s.life, s.exited = cmd, write, make(chan error, 1)
	go func() { s.exited <- cmd.Wait() }()
	if err := s.ready(ctx); err != nil {
		return errors.Join(err, s.Stop())
	}
	return nil
}

// ready waits until the server answers.
func (s *Server) ready(ctx context.Context) error {
	ctx, cancel := context.WithTimeout(ctx, startTimeout)
	defer cancel()
	db, err := sql.Open("pgx", s.DSN("postgres"))
	if err != nil {
		return err
	}
	defer func() { _ = db.Close() }() // nothing was written
	tick := time.NewTicker(20 * time.Millisecond)
	defer tick.Stop()
	for {
		err := db.PingContext(ctx)
		if err == nil {
			return nil
		}
		select {
		case exit := <-s.exited:
			s.exited <- exit
			return fmt.Errorf("PostgreSQL did not start: %w\n%s", err, s.log())
		case <-ctx.Done():
			return fmt.Errorf("PostgreSQL does not answer: %w\n%s", err, s.log())
		case <-tick.C:
		}
	}
}

// log returns the end of what the server has written.
func (s *Server) log() []byte {
	text, err := os.ReadFile(s.dir + ".log")
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
	err := s.life.Close()
	select {
	case <-s.exited:
	case <-time.After(stopTimeout):
		err = errors.Join(err, errors.New("PostgreSQL does not stop; it is killed"), s.cmd.Process.Kill(), <-s.exited)
	}
	s.cmd = nil
	return err
}

// Kill kills the server with SIGKILL, if it runs, as a crash of the machine would; Start recovers it.
func (s *Server) Kill() error {
	if s.cmd == nil {
		return nil
	}
	pid, err := os.ReadFile(filepath.Join(s.dir, "postmaster.pid"))
	if err != nil {
		return err
	}
	line, _, _ := bytes.Cut(pid, []byte("\n"))
	postmaster, err := strconv.Atoi(string(line))
	if err != nil {
		return fmt.Errorf("read postmaster.pid: %w", err)
	}
	if err := syscall.Kill(postmaster, syscall.SIGKILL); err != nil {
		return err
	}
	return s.Stop()
}

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

// binaries returns the folder of initdb and postgres: that on PATH, or the newest one that Debian's packages have installed.
func binaries() (string, error) {
	if initdb, err := exec.LookPath("initdb"); err == nil {
		return filepath.Dir(initdb), nil
	}
	found, err := filepath.Glob("/usr/lib/postgresql/*/bin/initdb")
	if err != nil || len(found) == 0 {
		return "", errors.New("there is no PostgreSQL here (initdb is neither on PATH nor in /usr/lib/postgresql); install Debian's package postgresql")
	}
	version := func(path string) int {
		n, _ := strconv.Atoi(filepath.Base(filepath.Dir(filepath.Dir(path)))) // 0, the oldest, when it is no number
		return n
	}
	return filepath.Dir(slices.MaxFunc(found, func(a, b string) int { return version(a) - version(b) })), nil
}

func freePort() (int, error) {
	l, err := net.Listen("tcp", "127.0.0.1:0") //nolint:noctx // it ends at once
	if err != nil {
		return 0, err
	}
	return l.Addr().(*net.TCPAddr).Port, l.Close()
}
