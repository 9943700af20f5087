package database_test

import (
	"bytes"
	"context"
	"database/sql"
	"errors"
	"net"
	"net/url"
	"strings"
	"sync"
	"sync/atomic"
	"testing"

	"github.com/countersign-mesh/countersign/pkg/database"
	"github.com/countersign-mesh/countersign/pkg/database/databasetest"
)

// proxy is in between a pool and its server. What it does with a commit, and with the answer to it, is the test's to say.
type proxy struct {
	server string
	// onCommit is called when a commit arrives, before the server gets it, and onAnswer before its answer is passed on. Each returns whether the
	// connection goes on.
	onCommit, onAnswer atomic.Pointer[func() bool]
}

// through starts a proxy before the database at dsn and returns the DSN that leads through it.
func through(t *testing.T, dsn string) (*proxy, string) {
	t.Helper()
	u, err := url.Parse(dsn)
	if err != nil {
		t.Fatal(err)
	}
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	p := &proxy{server: u.Host}
	var wg sync.WaitGroup
	t.Cleanup(wg.Wait)
	t.Cleanup(func() { _ = l.Close() })
	wg.Go(func() {
		for {
			client, err := l.Accept()
			if err != nil {
				return
			}
			wg.Go(func() { p.serve(client) })
		}
	})
	u.Host = l.Addr().String()
	return p, u.String()
}

func (p *proxy) serve(client net.Conn) {
	defer func() { _ = client.Close() }()
	server, err := net.Dial("tcp", p.server)
	if err != nil {
		return
	}
	var committing atomic.Bool
	var wg sync.WaitGroup
	wg.Go(func() {
		pass(server, client, func(part []byte) bool {
			if !bytes.Contains(part, []byte("commit\x00")) {
				return true
			}
			committing.Store(true)
			return goesOn(&p.onCommit)
		})
	})
	pass(client, server, func([]byte) bool { return !committing.Swap(false) || goesOn(&p.onAnswer) })
	wg.Wait()
}

func goesOn(at *atomic.Pointer[func() bool]) bool {
	h := at.Load()
	return h == nil || (*h)()
}

// pass hands on what from says, until look does not let it. Then both sides are closed.
func pass(to, from net.Conn, look func(part []byte) bool) {
	defer func() { _, _ = to.Close(), from.Close() }()
	buffer := make([]byte, 64<<10)
	for {
		n, err := from.Read(buffer)
		if n > 0 && !look(buffer[:n]) {
			return
		}
		if _, failed := to.Write(buffer[:n]); err != nil || failed != nil {
			return
		}
	}
}

func count(t *testing.T, db *sql.DB) int {
	t.Helper()
	return text[int](t, db, "SELECT count(*) FROM notes")
}

// ATTACKS 64: the connection is cut between the commit and its answer. Whether it took place only a new connection can tell.
func TestACommitWithoutAnAnswerIsReportedAsUnknown(t *testing.T) {
	t.Parallel()
	dsn := databasetest.Postgres(t)
	direct := openDSN(t, dsn, schema(first))
	p, dsn := through(t, dsn)
	db := openDSN(t, dsn, schema(first))
	cut := new(func() bool { return false })

	p.onAnswer.Store(cut)
	err := database.InTx(t.Context(), db, insert(t.Context(), "written"))
	p.onAnswer.Store(nil)
	if !errors.Is(err, database.ErrOutcomeUnknown) || !database.Unavailable(err) {
		t.Errorf("the answer was lost: %v, want ErrOutcomeUnknown and unavailable", err)
	}
	if n := count(t, direct); n != 1 {
		t.Errorf("the server had committed, and there are %d notes", n)
	}

	p.onCommit.Store(cut)
	err = database.InTx(t.Context(), db, insert(t.Context(), "lost"))
	p.onCommit.Store(nil)
	if !errors.Is(err, database.ErrOutcomeUnknown) || !database.Unavailable(err) {
		t.Errorf("the commit was lost: %v, want ErrOutcomeUnknown and unavailable", err)
	}
	if n := count(t, direct); n != 1 {
		t.Errorf("the server has not got the commit, and there are %d notes", n)
	}
}

// A caller whose time is up while the commit is on its way waits for the answer: it is better known than not.
func TestACommitOnItsWayIsNotCutShort(t *testing.T) {
	t.Parallel()
	dsn := databasetest.Postgres(t)
	p, through := through(t, dsn)
	db := openDSN(t, through, schema(first))
	for name, at := range map[string]*atomic.Pointer[func() bool]{"as it arrives": &p.onCommit, "before the answer": &p.onAnswer} {
		ctx, cancel := context.WithCancel(t.Context())
		at.Store(new(func() bool {
			cancel()
			// What would cut it short has time to do so.
			_ = text[int](t, openDSN(t, dsn, schema(first)), "SELECT 1 FROM pg_sleep(0.1)")
			return true
		}))
		err := database.InTx(ctx, db, insert(ctx, name))
		at.Store(nil)
		if err != nil {
			t.Errorf("its context ended %s: %v", name, err)
		}
		cancel()
	}
	if n := count(t, db); n != 2 {
		t.Errorf("%d notes, want 2", n)
	}
}

func TestACommitThatIsNeverAnsweredIsReportedAsUnknown(t *testing.T) {
	t.Parallel()
	dsn := databasetest.Postgres(t)
	p, dsn := through(t, dsn)
	db := openDSN(t, dsn, schema(first))
	silent := make(chan struct{})
	p.onAnswer.Store(new(func() bool { <-silent; return false }))
	defer close(silent)
	err := database.InTx(t.Context(), db, insert(t.Context(), "written"))
	if !errors.Is(err, database.ErrOutcomeUnknown) || !database.Unavailable(err) {
		t.Errorf("InTx = %v, want ErrOutcomeUnknown and unavailable", err)
	}
	wantText(t, err, "has not answered for 10s")
}

// What the server refused did not take place.
func TestACommitThatTheDatabaseRefusesIsKnown(t *testing.T) {
	t.Parallel()
	databasetest.Each(t, func(t *testing.T, dsn string) {
		db := openDSN(t, dsn, schema(first, second))
		err := database.InTx(t.Context(), db, func(tx *sql.Tx) error {
			_, err := tx.ExecContext(t.Context(), "INSERT INTO replies (note) VALUES (7)") // looked at when it is committed
			return errors.Join(err, insert(t.Context(), "x")(tx))
		})
		if err == nil || errors.Is(err, database.ErrOutcomeUnknown) && strings.HasPrefix(dsn, "postgres") {
			t.Errorf("InTx = %v, want what the database said, and nothing of an unknown outcome", err)
		}
		if n := count(t, db); n != 0 {
			t.Errorf("%d notes are there", n)
		}
	})
}

func TestATransactionThatPassedOverAFailureIsKnownNotToTakePlace(t *testing.T) {
	t.Parallel()
	db := openDSN(t, databasetest.Postgres(t), schema(first))
	err := database.InTx(t.Context(), db, func(tx *sql.Tx) error {
		err := insert(t.Context(), "x")(tx)
		_, _ = tx.ExecContext(t.Context(), "SELECT 1/0")
		return err
	})
	if err == nil || errors.Is(err, database.ErrOutcomeUnknown) {
		t.Errorf("InTx = %v, want an error and nothing of an unknown outcome", err)
	}
	if n := count(t, db); n != 0 {
		t.Errorf("%d notes are there", n)
	}
}

// ATTACKS 64: a server that is away is reported as that, and the first call after it came back finds it: idle connections are all dead then.
func TestAServerThatIsAwayIsUnavailableUntilItIsBack(t *testing.T) {
	t.Parallel()
	for name, away := range map[string]func(*databasetest.Server) error{"stopped": (*databasetest.Server).Stop, "killed": (*databasetest.Server).Kill} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			s := databasetest.StartServer(t)
			db := openDSN(t, s.DSN("postgres"), schema(first))
			fill(t, db)
			if err := away(s); err != nil {
				t.Fatal(err)
			}
			for name, err := range map[string]error{
				"InTx":       database.InTx(t.Context(), db, insert(t.Context(), "x")),
				"InSnapshot": database.InSnapshot(t.Context(), db, func(*sql.Tx) error { return nil }),
			} {
				if !database.Unavailable(err) || errors.Is(err, database.ErrOutcomeUnknown) {
					t.Errorf("%s = %v, want unavailable and no outcome that is unknown", name, err)
				}
			}
			if _, err := database.Open(t.Context(), s.DSN("postgres"), schema(first)); !database.Unavailable(err) {
				t.Errorf("Open = %v, want unavailable", err)
			}
			if err := s.Start(t.Context()); err != nil {
				t.Fatal(err)
			}
			if err := database.InTx(t.Context(), db, insert(t.Context(), "x")); err != nil {
				t.Errorf("the server is back: %v", err)
			}
			fill(t, db)
			if err := errors.Join(away(s), s.Start(t.Context())); err != nil {
				t.Fatal(err)
			}
			if err := database.InTx(t.Context(), db, insert(t.Context(), "x")); err != nil {
				t.Errorf("the server was away for a moment: %v", err)
			}
		})
	}
}

// fill lets the pool have all the connections that it may.
func fill(t *testing.T, db *sql.DB) {
	t.Helper()
	conns := make([]*sql.Conn, 8)
	for i := range conns {
		var err error
		if conns[i], err = db.Conn(t.Context()); err != nil {
			t.Fatal(err)
		}
	}
	for _, conn := range conns {
		if err := conn.Close(); err != nil {
			t.Fatal(err)
		}
	}
}

func TestAServerThatGoesAwayInATransactionLeavesNothingOfIt(t *testing.T) {
	t.Parallel()
	s := databasetest.StartServer(t)
	db := openDSN(t, s.DSN("postgres"), schema(first))
	err := database.InTx(t.Context(), db, func(tx *sql.Tx) error {
		if err := insert(t.Context(), "x")(tx); err != nil {
			return err
		}
		return s.Stop()
	})
	if err == nil || !database.Unavailable(err) {
		t.Errorf("InTx = %v, want unavailable", err)
	}
	if err := s.Start(t.Context()); err != nil {
		t.Fatal(err)
	}
	if n := count(t, openDSN(t, s.DSN("postgres"), schema(first))); n != 0 {
		t.Errorf("%d notes are there", n)
	}
}

// ATTACKS 64: a full disk, which SQLite meets here as a bound on the size of the file.
func TestAFullDiskIsUnavailableAndLeavesTheDatabaseInOrder(t *testing.T) {
	t.Parallel()
	db := openDSN(t, databasetest.SQLite(t), schema(first))
	db.SetMaxOpenConns(1) // the bound is the connection's
	exec(t, db, "INSERT INTO notes (text) VALUES ('before')")
	_ = text[int](t, db, "PRAGMA max_page_count = 10")
	err := database.InTx(t.Context(), db, insert(t.Context(), strings.Repeat("x", 1<<20)))
	if !database.Unavailable(err) || errors.Is(err, database.ErrOutcomeUnknown) {
		t.Errorf("InTx = %v, want unavailable", err)
	}
	_ = text[int](t, db, "PRAGMA max_page_count = 1000")
	if err := database.InTx(t.Context(), db, insert(t.Context(), strings.Repeat("x", 1<<20))); err != nil {
		t.Errorf("there is room again: %v", err)
	}
	if n := count(t, db); n != 2 {
		t.Errorf("%d notes, want 2", n)
	}
}
