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
	"strings"
	"time"

	"github.com/jackc/pgx/v5/pgconn"
	"modernc.org/sqlite"
	sqlite3 "modernc.org/sqlite/lib"
)

// ErrOutcomeUnknown is wrapped by the error of a commit that may or may not have taken place.
var ErrOutcomeUnknown = errors.New("it is not known whether the transaction took place")

// uncommitted returns the error of a commit that failed, and whether that is the last word.
func uncommitted(ctx context.Context, err error) error {
	if errors.Is(err, sql.ErrTxDone) { // database/sql noticed that ctx had ended, and did not send the commit
		return ended(ctx, err)
	}
	if refusedCommit(err) {
		return fmt.Errorf("commit transaction: %w", err)
	}
	return fmt.Errorf("commit transaction: %w: %w", ErrOutcomeUnknown, err)
}

// refusedCommit reports whether the error of a commit is the database's word that it did not take place. Of an error of SQLite only that of
// a lock is: after all others a part of the transaction may be on the disk, and it is for the next one who opens the file to find out.
func refusedCommit(err error) bool {
	if failure, ok := errors.AsType[*pgconn.PgError](err); ok {
		// 40003 is statement_completion_unknown, and class 57 a server that stops (appendix A of the PostgreSQL manual).
		return failure.Code != "40003" && !strings.HasPrefix(failure.Code, "57")
	}
	if failure, ok := errors.AsType[*sqlite.Error](err); ok {
		return failure.Code()&0xff == sqlite3.SQLITE_BUSY
	}
	return false
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

// backOff waits before a transaction is run again, at random so that those that met do not meet again. It returns false when ctx ended.
func backOff(ctx context.Context, conflicts int) bool {
	most := min(leastBackoff<<min(conflicts, 10), mostBackoff)
	timer := time.NewTimer(rand.N(most)) //nolint:gosec // G404: jitter is no secret
	defer timer.Stop()
	select {
	case <-timer.C:
		return true
	case <-ctx.Done():
		return false
	}
}

// Unavailable reports whether an error means that the database does not serve at the moment: it cannot be reached, is starting or
// stopping, its disk is full or fails. The same request may succeed later. It is independent of whether the outcome is known.
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
		return false
	}
	if _, ok := errors.AsType[*pgconn.ConnectError](err); ok {
		return true
	}
	if _, ok := errors.AsType[*net.OpError](err); ok {
		return true
	}
	return errors.Is(err, driver.ErrBadConn) || errors.Is(err, io.ErrUnexpectedEOF) || errors.Is(err, io.EOF) || pgconn.SafeToRetry(err)
}
