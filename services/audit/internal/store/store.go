// Package store keeps the audit trail in SQLite. It is append-only: what was stored is never changed, and has one place in
// the one order of everything.
package store

import (
	"context"
	"database/sql"
	"embed"
	"errors"
	"fmt"
	"io/fs"
	"sync"
	"time"

	"github.com/countersign-mesh/countersign/pkg/database"
	auditv1 "github.com/countersign-mesh/countersign/proto/gen/mesh/audit/v1"
)

// ErrInvalid is returned by Append for records that no server would send in this form.
var ErrInvalid = errors.New("records cannot be stored")

//go:embed migrations
var files embed.FS

// Migrations returns the schema that New expects, for database.Open.
func Migrations() (fs.FS, error) { return fs.Sub(files, "migrations") }

// Store is the audit trail. It is safe for concurrent use. The zero value is not usable; see New.
type Store struct {
	db *sql.DB

	mu sync.Mutex
	// head is the position of the last record that is stored, changed is closed at the next one.
	head    int64
	changed chan struct{}
}

// New returns the trail that is kept in db, which was opened with Migrations.
func New(ctx context.Context, db *sql.DB) (*Store, error) {
	s := &Store{db: db, changed: make(chan struct{})}
	err := db.QueryRowContext(ctx, "SELECT coalesce(max(position), 0) FROM records").Scan(&s.head)
	if err != nil {
		return nil, fmt.Errorf("find the end of the audit trail: %w", err)
	}
	return s, nil
}

// Head returns the position of the last record, and a channel that is closed when there are more.
func (s *Store) Head() (position int64, changed <-chan struct{}) {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.head, s.changed
}

// advance makes a position known that was committed, and with it all before it: positions are given in the order of commits.
func (s *Store) advance(position int64) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if position > s.head {
		s.head = position
		close(s.changed)
		s.changed = make(chan struct{})
	}
}

// Append stores records of one run of a server's process, all or none, and returns the sequence up to which that run is
// stored. Records that are stored already are left as they are. Where a run goes on with a later sequence than the next one,
// a gap is stored for what is missing: it was lost on the way, or this trail is younger than the run.
//
// The server is the one that serverID names, whatever the records say. An error that is not ErrInvalid may be gone on the next try.
func (s *Store) Append(ctx context.Context, serverID, runID string, records []*auditv1.Record) (int64, error) {
	rows, err := newRows(serverID, runID, records)
	if err != nil {
		return 0, err
	}
	var head, stored int64
	err = database.InTx(ctx, s.db, func(tx *sql.Tx) error {
		last, err := lastSequence(ctx, tx, serverID, runID)
		if err != nil {
			return err
		}
		head, err = insert(ctx, tx, missing(rows, last))
		stored = max(last, rows[len(rows)-1].sequence)
		return err
	})
	if err != nil {
		return 0, fmt.Errorf("store records: %w", err)
	}
	s.advance(head)
	return stored, nil
}

func lastSequence(ctx context.Context, tx *sql.Tx, serverID, runID string) (int64, error) {
	const query = "SELECT coalesce(max(sequence), 0) FROM records WHERE server_id = ? AND run_id = ?"
	var last int64
	if err := tx.QueryRowContext(ctx, query, serverID, runID).Scan(&last); err != nil {
		return 0, fmt.Errorf("find the run's last record: %w", err)
	}
	return last, nil
}

// missing returns those of rows that come after last, and first a gap for those that did not come.
func missing(rows []row, last int64) []row {
	for len(rows) > 0 && rows[0].sequence <= last {
		rows = rows[1:]
	}
	if len(rows) == 0 || rows[0].sequence == last+1 {
		return rows
	}
	return append([]row{rows[0].gapBefore(last)}, rows...)
}

// insert stores rows and returns the position of the last one, 0 when there are none.
func insert(ctx context.Context, tx *sql.Tx, rows []row) (int64, error) {
	if len(rows) == 0 {
		return 0, nil
	}
	stmt, err := tx.PrepareContext(ctx, insertRow)
	if err != nil {
		return 0, fmt.Errorf("prepare: %w", err)
	}
	defer func() { _ = stmt.Close() }() // ends with the transaction anyway
	now := time.Now().UnixMicro()
	var position int64
	for i := range rows {
		result, err := stmt.ExecContext(ctx, rows[i].values(now)...)
		if err != nil {
			return 0, fmt.Errorf("insert record %d: %w", rows[i].sequence, err)
		}
		if position, err = result.LastInsertId(); err != nil {
			return 0, fmt.Errorf("position of record %d: %w", rows[i].sequence, err)
		}
	}
	return position, nil
}
