package database

import (
	"context"
	"database/sql"
	"database/sql/driver"
	"errors"
	"fmt"
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
	var err error
	for conflicts := 0; conflicts < maxConflicts; conflicts++ {
		if err = runTx(ctx, db, f); !conflicted(err) || !backOff(ctx, conflicts) {
			break
		}
	}
	return err
}

// runTx is one attempt.
func runTx(ctx context.Context, db *sql.DB, f func(tx *sql.Tx) error) error {
	tx, err := db.BeginTx(ctx, &sql.TxOptions{Isolation: sql.LevelSerializable})
	if err != nil {
		return fmt.Errorf("begin transaction: %w", err)
	}
	// Without effect after a commit. Its own error adds nothing: a connection that cannot roll back is dropped by the database's recovery.
	defer func() { _ = tx.Rollback() }()
	if err := f(tx); err != nil {
		return ended(ctx, err)
	}
	if err := ctx.Err(); err != nil {
		return fmt.Errorf("transaction rolled back: %w", context.Cause(ctx))
	}
	if err := tx.Commit(); err != nil {
		return uncommitted(ctx, err)
	}
	return nil
}

// ended tells a transaction that was rolled back because ctx ended by its reason: database/sql sometimes says ErrTxDone, depending on
// who noticed first.
func ended(ctx context.Context, err error) error {
	if errors.Is(err, sql.ErrTxDone) && ctx.Err() != nil {
		return fmt.Errorf("transaction rolled back: %w", context.Cause(ctx))
	}
	return err
}

// InSnapshot runs f in a read transaction: all that f reads is of one moment, however many queries it takes. It neither waits
// for writers nor holds them up.
func InSnapshot(ctx context.Context, db *sql.DB, f func(tx *sql.Tx) error) error {
	tx, err := db.BeginTx(ctx, &sql.TxOptions{ReadOnly: true, Isolation: sql.LevelRepeatableRead})
	if err != nil {
		return fmt.Errorf("begin snapshot: %w", err)
	}
	defer func() { _ = tx.Rollback() }() // it has nothing to commit
	return f(tx)
}
