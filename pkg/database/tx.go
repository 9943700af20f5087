package database

import (
	"context"
	"database/sql"
	"database/sql/driver"
	"errors"
	"fmt"
	"time"
)

// connector makes the connections of one pool, and carries the turn of its writers: the pool is a *sql.DB, which leads back
// to its connector's driver and to nothing else of ours.
type connector struct {
	driver.Connector
	turn chan struct{} // capacity 1; holding the one place is the turn
}

// Driver implements driver.Connector.
func (c *connector) Driver() driver.Driver {
	return &turnDriver{Driver: c.Connector.Driver(), turn: c.turn}
}

type turnDriver struct {
	driver.Driver
	turn chan struct{}
}

// InTx runs f in a serializable write transaction and commits it when f returns nil; when f fails or panics, or ctx ends before the
// commit, nothing of it remains. The error of f is returned as it is.
//
// On SQLite there is one writer at a time. Left alone, writers wait by sleeping and trying again, and under load an unlucky one
// waits for seconds. InTx lets the writers of a pool that Open returned queue instead, first come first served, and before they
// take a connection, so that readers find one free. f must not begin another transaction: it would wait for itself until ctx ends.
//
// On PostgreSQL transactions that got in each other's way are rolled back and run again, so f may run more than once: what it leaves
// behind outside of the transaction has to be of its last run alone.
//
// Once the commit is on its way, ctx has no say any more: InTx waits for the answer, for up to ten seconds, rather than not to know it.
// An error that wraps ErrOutcomeUnknown leaves open whether the transaction took place: after a failed fsync, or with the connection gone
// while the commit was on its way, nobody can know. Callers that must know ask again by an idempotency key. After any other error
// nothing of the transaction remains.
func InTx(ctx context.Context, db *sql.DB, f func(tx *sql.Tx) error) error {
	if d, ok := db.Driver().(*turnDriver); ok {
		select {
		case d.turn <- struct{}{}:
			defer func() { <-d.turn }()
		case <-ctx.Done():
			return fmt.Errorf("wait to write: %w", context.Cause(ctx))
		}
	}
	for conflicts := 0; ; conflicts++ {
		err := runTx(ctx, db, f)
		if !conflicted(err) || conflicts+1 == maxConflicts {
			return err
		}
		if err := backOff(ctx, conflicts); err != nil {
			return fmt.Errorf("wait to run the transaction again: %w", err)
		}
	}
}

// commitTimeout is how long the answer to a commit is waited for. A commit takes as long as the disk does.
const commitTimeout = 10 * time.Second

// runTx is one attempt. What runs in the transaction ends with ctx, and the transaction itself does until its commit is sent. Drivers that
// are interrupted after that, while the database goes on, know less than those that wait.
func runTx(ctx context.Context, db *sql.DB, f func(tx *sql.Tx) error) error {
	own, end := context.WithCancelCause(context.WithoutCancel(ctx))
	defer end(nil)
	stop := context.AfterFunc(ctx, func() { end(context.Cause(ctx)) })
	defer stop()
	tx, err := begin(own, db, &sql.TxOptions{Isolation: sql.LevelSerializable})
	if err != nil {
		return fmt.Errorf("begin transaction: %w", ended(ctx, err))
	}
	// Without effect after a commit. Its own error adds nothing: a connection that cannot roll back is dropped by the database's recovery.
	defer func() { _ = tx.Rollback() }()
	if err := f(tx); err != nil {
		return ended(ctx, err)
	}
	if ctx.Err() != nil || !stop() {
		return fmt.Errorf("transaction rolled back: %w", context.Cause(ctx))
	}
	timer := time.AfterFunc(commitTimeout, func() { end(errNoAnswer) })
	defer timer.Stop()
	if err := tx.Commit(); err != nil {
		if cause := context.Cause(own); cause != nil {
			err = fmt.Errorf("%w: %w", cause, err)
		}
		return uncommitted(err)
	}
	return nil
}

// begin begins a transaction. A server that was started again has left each idle connection dead, which shows when it is used: nothing was
// asked of the database yet, so the next one is tried until the pool makes a new one.
func begin(ctx context.Context, db *sql.DB, opts *sql.TxOptions) (tx *sql.Tx, err error) {
	for range maxConns + 1 {
		tx, err = db.BeginTx(ctx, opts)
		if err == nil || ctx.Err() != nil || !stale(err) {
			break
		}
	}
	return tx, err
}

// ended tells a transaction that was rolled back because ctx ended by its reason: database/sql sometimes says ErrTxDone, depending on
// who noticed first.
func ended(ctx context.Context, err error) error {
	if ctx.Err() != nil && (errors.Is(err, sql.ErrTxDone) || errors.Is(err, context.Canceled)) {
		return fmt.Errorf("transaction rolled back: %w", context.Cause(ctx))
	}
	return err
}

// InSnapshot runs f in a read transaction: all that f reads is of one moment, however many queries it takes. It neither waits
// for writers nor holds them up. f may be run in a database from OpenReadOnly too.
func InSnapshot(ctx context.Context, db *sql.DB, f func(tx *sql.Tx) error) error {
	tx, err := begin(ctx, db, &sql.TxOptions{ReadOnly: true, Isolation: sql.LevelRepeatableRead})
	if err != nil {
		return fmt.Errorf("begin snapshot: %w", ended(ctx, err))
	}
	defer func() { _ = tx.Rollback() }() // it has nothing to commit
	return ended(ctx, f(tx))
}
