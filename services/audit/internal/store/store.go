// Package store keeps the audit trail in SQLite. It is append-only: what was stored is never changed, and has one place in
// the one order of everything. Each record is linked to the one before it by a hash, see package audit/chain.
package store

import (
	"context"
	"database/sql"
	"errors"
	"fmt"
	"sync"

	"google.golang.org/protobuf/types/known/timestamppb"

	"github.com/countersign-mesh/countersign/pkg/audit/chain"
	"github.com/countersign-mesh/countersign/pkg/audit/trail"
	"github.com/countersign-mesh/countersign/pkg/database"
	auditv1 "github.com/countersign-mesh/countersign/proto/gen/mesh/audit/v1"
)

// ErrInvalid is returned by Append for records that no server would send in this form.
var ErrInvalid = errors.New("records cannot be stored")

// ErrDamaged is returned by New and Append when the end of the trail is not as it was left. Nothing is appended to it then, since that
// would cover up what was done to it.
var ErrDamaged = errors.New("the end of the audit trail was tampered with; see countersign audit verify --db, and move the file away to start a new trail")

// Store is the audit trail. It is safe for concurrent use. The zero value is not usable; see New.
type Store struct {
	db *sql.DB
	// sealed is the end of the records from before there was a chain, which have no hash; the first one with a hash follows it.
	sealed chain.Head

	mu sync.Mutex
	// head is the position of the last record that is stored, changed is closed at the next one.
	head    int64
	changed chan struct{}
}

// New returns the trail that is kept in db, which was opened with the migrations of package audit/trail.
func New(ctx context.Context, db *sql.DB) (*Store, error) {
	s := &Store{db: db, changed: make(chan struct{})}
	err := database.InSnapshot(ctx, db, func(tx *sql.Tx) error {
		var err error
		if s.sealed, err = seal(ctx, tx); err != nil {
			return err
		}
		end, err := s.end(ctx, tx)
		s.head = end.Position
		return err
	})
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
	fresh, err := newRecords(serverID, runID, records)
	if err != nil {
		return 0, err
	}
	var stored int64
	var head chain.Head
	err = database.InTx(ctx, s.db, func(tx *sql.Tx) error {
		last, err := lastSequence(ctx, tx, serverID, runID)
		if err != nil {
			return err
		}
		stored = max(last, fresh[len(fresh)-1].GetSequence())
		if head, err = s.end(ctx, tx); err != nil {
			return err
		}
		head, err = insert(ctx, tx, head, missing(fresh, last))
		return err
	})
	if err != nil {
		return 0, fmt.Errorf("store records: %w", err)
	}
	s.advance(head.Position)
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

// missing returns those of records that come after last, and first a gap for those that did not come.
func missing(records []*auditv1.StoredRecord, last int64) []*auditv1.StoredRecord {
	for len(records) > 0 && records[0].GetSequence() <= last {
		records = records[1:]
	}
	if len(records) == 0 || records[0].GetSequence() == last+1 {
		return records
	}
	return append([]*auditv1.StoredRecord{gapBefore(records[0], last)}, records...)
}

// insert stores records behind the one that head is of, and returns the head that they make.
func insert(ctx context.Context, tx *sql.Tx, head chain.Head, records []*auditv1.StoredRecord) (chain.Head, error) {
	if len(records) == 0 {
		return head, nil
	}
	stmt, err := tx.PrepareContext(ctx, trail.Insert)
	if err != nil {
		return head, fmt.Errorf("prepare: %w", err)
	}
	defer func() { _ = stmt.Close() }() // ends with the transaction anyway
	now := trail.Time(timestamppb.Now())
	for _, r := range records {
		head.Position++
		r.Position, r.StoreTime = head.Position, now
		hash := chain.Next(head.Hash, r)
		r.Hash, head.Hash = hash[:], hash
		if _, err := stmt.ExecContext(ctx, trail.Values(r)...); err != nil {
			return head, fmt.Errorf("insert record %d: %w", r.GetSequence(), err)
		}
	}
	return head, nil
}
