// Package databasetest runs tests against every kind of database that package database opens, and starts PostgreSQL servers for them.
//
// The servers are of the machine's own PostgreSQL, as Debian's package "postgresql" installs it: initdb and postgres are looked for on
// PATH and in /usr/lib/postgresql. Where there is none, tests that need one are skipped, unless the environment variable CI is set: there
// they fail. Tests run by root start servers as the user postgres or nobody, because PostgreSQL refuses to be run by root.
package databasetest

import (
	"fmt"
	"os"
	"path/filepath"
	"sync"
	"sync/atomic"
	"testing"
)

// Main is a testing.M that stops the server of Each when the tests have ended. A package whose tests use Each or Postgres runs it from
// its TestMain, by itself or as goleak.VerifyTestMain(databasetest.Main{M: m}).
type Main struct{ M *testing.M }

// Run implements what goleak.VerifyTestMain runs.
func (m Main) Run() int {
	code := m.M.Run()
	if err := shared.stop(); err != nil {
		fmt.Fprintln(os.Stderr, "stop PostgreSQL:", err)
		return max(code, 1)
	}
	return code
}

// Each runs f as a parallel subtest for each kind of database, with the DSN of an empty one. PostgreSQL databases are of one server for
// all tests of the process.
func Each(t *testing.T, f func(t *testing.T, dsn string)) {
	t.Helper()
	t.Run("sqlite", func(t *testing.T) {
		t.Parallel()
		f(t, SQLite(t))
	})
	t.Run("postgres", func(t *testing.T) {
		t.Parallel()
		f(t, Postgres(t))
	})
}

// SQLite returns the DSN of a SQLite file that is not there yet.
func SQLite(t testing.TB) string {
	t.Helper()
	return "sqlite:" + filepath.Join(t.TempDir(), "test.db")
}

// Postgres returns the DSN of an empty database of the process's own server.
func Postgres(t testing.TB) string {
	t.Helper()
	s, err := shared.start(t)
	if err != nil {
		t.Fatal(err)
	}
	dsn, err := s.Create(t.Context(), fmt.Sprintf("test_%d", databases.Add(1)))
	if err != nil {
		t.Fatal(err)
	}
	return dsn
}

// StartServer starts a server of the test's own, which it may stop and start again; when the test ends it is stopped and its data removed.
// Each setting is one of postgresql.conf, such as fsync=off.
func StartServer(t testing.TB, settings ...string) *Server {
	t.Helper()
	need(t)
	s, err := New(t.Context(), settings...)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := s.Close(); err != nil {
			t.Error(err)
		}
	})
	return s
}

// need skips the test where there is no PostgreSQL.
func need(t testing.TB) {
	t.Helper()
	_, err := binaries()
	switch {
	case err == nil:
	case os.Getenv("CI") != "":
		t.Fatal(err)
	default:
		t.Skip("SKIP:", err)
	}
}

// databases numbers the databases of the process.
var databases atomic.Int64 //nolint:gochecknoglobals // of the process, as its server is

// shared is the one server of the process: starting one takes a second.
var shared process //nolint:gochecknoglobals // TestMain stops what the tests have started

type process struct {
	mu     sync.Mutex
	server *Server
}

func (p *process) start(t testing.TB) (*Server, error) {
	t.Helper()
	need(t)
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.server != nil {
		return p.server, nil
	}
	s, err := New(t.Context())
	if err != nil {
		return nil, err
	}
	p.server = s
	return s, nil
}

func (p *process) stop() error {
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.server == nil {
		return nil
	}
	return p.server.Close()
}
