package database_test

import (
	"context"
	"database/sql"
	"database/sql/driver"
	"errors"
	"fmt"
	"io"
	"net"
	"syscall"
	"testing"

	"github.com/jackc/pgx/v5/pgconn"

	"github.com/countersign-mesh/countersign/pkg/database"
)

// saying is a database whose transactions begin and end with the errors that the test says.
type saying struct {
	begin  []error // one each time, then none
	commit error
}

func (s *saying) Connect(context.Context) (driver.Conn, error) { return s, nil }
func (s *saying) Driver() driver.Driver                        { return nil }
func (s *saying) Prepare(string) (driver.Stmt, error)          { return nil, errors.ErrUnsupported }
func (s *saying) Close() error                                 { return nil }
func (s *saying) Begin() (driver.Tx, error)                    { return nil, errors.ErrUnsupported }
func (s *saying) Commit() error                                { return s.commit }
func (s *saying) Rollback() error                              { return nil }
func (s *saying) BeginTx(context.Context, driver.TxOptions) (driver.Tx, error) {
	if len(s.begin) == 0 {
		return s, nil
	}
	err := s.begin[0]
	s.begin = s.begin[1:]
	return s, err
}

func says(severity, code string) error {
	return &pgconn.PgError{Severity: "übersetzt", SeverityUnlocalized: severity, Code: code}
}

func TestTheOutcomeOfACommitIsKnownWhenTheDatabaseRefusedIt(t *testing.T) {
	t.Parallel()
	tests := map[string]struct {
		err     error
		unknown bool
	}{
		"a constraint": {says("ERROR", "23503"), false},
		"a full disk, before the commit was written":   {says("ERROR", "53100"), false},
		"a transaction that idled too long":            {says("FATAL", "25P03"), false},
		"a server that stops":                          {says("FATAL", "57P01"), true},
		"a server that has crashed":                    {says("WARNING", "57P02"), true},
		"a write-ahead log that could not be written":  {says("PANIC", "58030"), true},
		"a server that says that it does not know":     {says("ERROR", "40003"), true},
		"a server that says so in another way":         {says("ERROR", "08007"), true},
		"a connection that ended":                      {io.ErrUnexpectedEOF, true},
		"a connection that was reset":                  {&net.OpError{Op: "read", Err: syscall.ECONNRESET}, true},
		"a driver that says nothing in particular":     {errors.New("no"), true},
		"a context that ended while it was on its way": {context.Canceled, true},
	}
	for name, tt := range tests {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			db := sql.OpenDB(&saying{commit: tt.err})
			defer func() { _ = db.Close() }()
			err := database.InTx(t.Context(), db, func(*sql.Tx) error { return nil })
			if !errors.Is(err, tt.err) || errors.Is(err, database.ErrOutcomeUnknown) != tt.unknown {
				t.Errorf("InTx = %v, want unknown %t", err, tt.unknown)
			}
		})
	}
}

func TestUnavailableIsWhatMayPass(t *testing.T) {
	t.Parallel()
	for err, want := range map[error]bool{
		says("FATAL", "57P03"):                      true, // cannot_connect_now
		says("FATAL", "53300"):                      true, // too_many_connections
		says("ERROR", "53100"):                      true, // disk_full
		says("ERROR", "58030"):                      true, // io_error
		says("ERROR", "40001"):                      true, // serialization_failure
		says("ERROR", "25006"):                      true, // read_only_sql_transaction
		says("ERROR", "23505"):                      false,
		says("FATAL", "28P01"):                      false, // invalid_password
		says("ERROR", ""):                           false,
		driver.ErrBadConn:                           true,
		io.ErrUnexpectedEOF:                         true,
		&net.OpError{Op: "dial", Err: io.EOF}:       true,
		context.Canceled:                            false,
		context.DeadlineExceeded:                    false,
		sql.ErrNoRows:                               false,
		fmt.Errorf("post: %w", driver.ErrBadConn):   true,
		fmt.Errorf("read: %w", context.Canceled):    false,
		errors.New("something of the caller's own"): false,
	} {
		if got := database.Unavailable(err); got != want {
			t.Errorf("Unavailable(%v) = %t", err, got)
		}
	}
	if database.Unavailable(nil) {
		t.Error("no error is unavailable")
	}
}

func TestConnectionsThatWereDeadAreNoFailure(t *testing.T) {
	t.Parallel()
	for name, tt := range map[string]struct {
		begin []error
		want  error
	}{
		"a pool of connections that the server cut": {[]error{io.ErrUnexpectedEOF, says("FATAL", "57P01"), &net.OpError{Op: "write", Err: syscall.EPIPE}}, nil},
		"a server that says no":                     {[]error{errConflictOfNames}, errConflictOfNames},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			db := sql.OpenDB(&saying{begin: tt.begin})
			defer func() { _ = db.Close() }()
			if err := database.InTx(t.Context(), db, func(*sql.Tx) error { return nil }); !errors.Is(err, tt.want) {
				t.Errorf("InTx = %v, want %v", err, tt.want)
			}
		})
	}
}

var errConflictOfNames = says("ERROR", "42601")
