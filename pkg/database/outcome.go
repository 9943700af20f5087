package database

import (
	"context"
	"database/sql"
	"database/sql/driver"
	"errors"
	"fmt"
	"io"
	"math/rand/v2"
	"net"
	"time"

	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgconn"
	"modernc.org/sqlite"
	sqlite3 "modernc.org/sqlite/lib"
)

// ErrOutcomeUnknown is wrapped by the error of a commit that may or may not have taken place.
var ErrOutcomeUnknown = errors.New("it is not known whether the transaction took place")

// errNoAnswer is the error of a commit that took longer than commitTimeout.
var errNoAnswer = fmt.Errorf("the database has not answered for %v", commitTimeout)

// uncommitted returns the error of a commit that failed.
func uncommitted(err error) error {
	if refused(err) {
		return fmt.Errorf("commit transaction: %w", err)
	}
	return fmt.Errorf("commit transaction: %w: %w", ErrOutcomeUnknown, err)
}

// refused reports whether the error of a commit is the database's word that it did not take place.
//
// Of an error of SQLite only that of a lock is: after all others a part of the transaction may be on the disk, and it is for the next one
// who opens the file to find out.
//
// A PostgreSQL server answers with the severity ERROR when it rolled back instead. FATAL and PANIC are of a server, or of a session, that
// ends, perhaps after the commit was written (chapter 55.8 of the manual); but one that ends for having idled in the transaction
// had not yet read the commit.
func refused(err error) bool {
	if failure, ok := errors.AsType[*pgconn.PgError](err); ok {
		switch failure.Code { // appendix A of the manual
		case "40003", "08007": // statement_completion_unknown, transaction_resolution_unknown
			return false
		case "25P03": // idle_in_transaction_session_timeout
			return true
		}
		return failure.SeverityUnlocalized == "ERROR"
	}
	if failure, ok := errors.AsType[*sqlite.Error](err); ok {
		return failure.Code()&0xff == sqlite3.SQLITE_BUSY
	}
	// A statement of the transaction had failed, which its function passed over; or the commit never left this process.
	return errors.Is(err, pgx.ErrTxCommitRollback) || pgconn.SafeToRetry(err)
}

const (
	// maxConflicts bounds how often a transaction is run that gets in the way of others.
	maxConflicts = 50
	// The wait between two of these runs doubles from the least to the most.
	leastBackoff = time.Millisecond
	mostBackoff  = 50 * time.Millisecond
)

// conflicted reports whether PostgreSQL rolled a transaction back for the sake of another one (chapter 13.5 of its manual).
func conflicted(err error) bool {
	failure, ok := errors.AsType[*pgconn.PgError](err)
	return ok && (failure.Code == "40001" || failure.Code == "40P01") // serialization_failure, deadlock_detected
}

// backOff waits before a transaction is run again, at random so that those that met do not meet again. It returns the cause when ctx ends.
func backOff(ctx context.Context, conflicts int) error {
	most := min(leastBackoff<<min(conflicts, 10), mostBackoff)
	timer := time.NewTimer(rand.N(most)) //nolint:gosec // G404: jitter is no secret
	defer timer.Stop()
	select {
	case <-timer.C:
		return nil
	case <-ctx.Done():
		return context.Cause(ctx)
	}
}

// Unavailable reports whether an error means that the database does not serve at the moment: it cannot be reached, is starting or
// stopping, does not accept writes, its disk is full or fails. The same request may succeed later. It is independent of whether the outcome
// is known. That the caller's own context ended is no fault of the database.
func Unavailable(err error) bool {
	if failure, ok := errors.AsType[*sqlite.Error](err); ok {
		switch failure.Code() & 0xff { // the primary result code is in the low byte
		case sqlite3.SQLITE_FULL, sqlite3.SQLITE_IOERR, sqlite3.SQLITE_BUSY, sqlite3.SQLITE_LOCKED, sqlite3.SQLITE_CANTOPEN, sqlite3.SQLITE_READONLY:
			return true
		}
		return false
	}
	if failure, ok := errors.AsType[*pgconn.PgError](err); ok {
		// Connection exceptions, conflicts that did not end, insufficient resources such as a full disk, operator intervention, system errors.
		switch failure.Code[:min(2, len(failure.Code))] {
		case "08", "40", "53", "57", "58":
			return true
		}
		switch failure.Code {
		case "25006", // read_only_sql_transaction: the server became a standby
			"25P03", "25P04": // idle_in_transaction_session_timeout, transaction_timeout: this process was stopped for a while
			return true
		}
		return false
	}
	if _, ok := errors.AsType[*pgconn.ConnectError](err); ok || errors.Is(err, errNoAnswer) {
		return true
	}
	if errors.Is(err, context.Canceled) || errors.Is(err, context.DeadlineExceeded) {
		return false
	}
	return disconnected(err)
}

// disconnected reports whether the connection to the server was lost, or was found to be.
func disconnected(err error) bool {
	if _, ok := errors.AsType[*net.OpError](err); ok {
		return true
	}
	for _, end := range []error{driver.ErrBadConn, sql.ErrConnDone, pgconn.ErrConnClosed, io.EOF, io.ErrUnexpectedEOF, net.ErrClosed} {
		if errors.Is(err, end) {
			return true
		}
	}
	return pgconn.SafeToRetry(err)
}

// stale reports whether an error of a first statement is of a connection that had been lost before, not of a server that cannot be reached
// anew. A server that stops says so to every connection; it is read when that is used next.
func stale(err error) bool {
	if _, ok := errors.AsType[*pgconn.ConnectError](err); ok {
		return false
	}
	if failure, ok := errors.AsType[*pgconn.PgError](err); ok {
		return failure.SeverityUnlocalized == "FATAL"
	}
	return disconnected(err)
}
