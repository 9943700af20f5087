// Package verify proves a whole database of the books: that every transfer is the one that was posted, that no money appeared or vanished,
// and that all that is kept because it is handy, balances above all, follows from the entries and holds.
//
// It reads the database of a ledger that runs, or a copy, and writes nothing. All of it is of one moment. It sorts the books twice, in the
// database's temporary storage, and itself keeps one transfer or one account at a time.
//
// What it cannot find is a past that was rewritten in full, by somebody who drops the triggers, changes entries, balances and digests to fit
// and puts the triggers back: a digest has no key. The audit trail has a chain for that.
package verify

import (
	"context"
	"database/sql"
	"errors"
	"fmt"
	"math/big"
	"slices"
	"strings"
	"time"

	"github.com/countersign-mesh/countersign/pkg/database"
)

// verifier is one walk through the books.
type verifier struct {
	tx     *sql.Tx
	kind   string // sqlite or postgres, like the folder of the migrations
	empty  func(context.Context) (map[string]string, error)
	found  findings
	report Report
	sums   map[string]*big.Int
}

// Books checks the books in the database at a DSN. The report names up to places of each kind of fault. The error is of a check that could
// not be made, and says nothing about the books.
func Books(ctx context.Context, dsn string, places int) (Report, error) {
	return books(ctx, dsn, places, emptySchema)
}

func books(ctx context.Context, dsn string, places int, empty func(context.Context) (map[string]string, error)) (_ Report, err error) {
	db, err := database.OpenReadOnly(ctx, dsn)
	if err != nil {
		return Report{}, err
	}
	defer func() { err = errors.Join(err, db.Close()) }()
	v := &verifier{kind: "sqlite", empty: empty, sums: make(map[string]*big.Int)}
	v.found = findings{places: places, faults: make(map[Kind]*Fault)}
	if !strings.HasPrefix(dsn, "sqlite:") {
		v.kind = "postgres"
	}
	err = database.InSnapshot(ctx, db, func(tx *sql.Tx) error {
		v.tx = tx
		return v.all(ctx)
	})
	if err != nil {
		return Report{}, fmt.Errorf("verify the books: %w", err)
	}
	for currency, sum := range v.sums {
		v.report.Sums = append(v.report.Sums, Sum{currency, sum})
	}
	slices.SortFunc(v.report.Sums, func(a, b Sum) int { return strings.Compare(a.Currency, b.Currency) })
	v.report.Faults = v.found.list()
	v.report.Sound = len(v.report.Faults) == 0
	return v.report, nil
}

func (v *verifier) all(ctx context.Context) error {
	v.report.Time = time.Now().UTC()
	if err := v.version(ctx); err != nil {
		return err
	}
	for _, part := range []struct {
		name  string
		check func(context.Context) error
	}{
		{"the storage", v.storage},
		{"the schema", v.schema},
		{"the numbering", v.numbering},
		{"transfers", v.transfers},
		{"accounts", v.accounts},
		{"holds", v.holds},
	} {
		if err := v.part(ctx, part.name, part.check); err != nil {
			return err
		}
	}
	return nil
}

// part makes one check. What cannot be read in it is a fault, and the other checks go on; a database that is away, or a caller, is none.
func (v *verifier) part(ctx context.Context, name string, check func(context.Context) error) error {
	if _, err := v.tx.ExecContext(ctx, "SAVEPOINT part"); err != nil {
		return fmt.Errorf("check %s: %w", name, err)
	}
	err := check(ctx)
	if err == nil {
		_, err = v.tx.ExecContext(ctx, "RELEASE SAVEPOINT part")
		return err
	}
	if ctx.Err() != nil || database.Unavailable(err) {
		return fmt.Errorf("check %s: %w", name, err)
	}
	v.found.add(Unreadable, "%s: %v", name, err)
	_, err = v.tx.ExecContext(ctx, "ROLLBACK TO SAVEPOINT part")
	return err
}

// each runs a query and hands on its rows one by one.
func (v *verifier) each(ctx context.Context, query string, row func(scan func(...any) error) error) (err error) {
	rows, err := v.tx.QueryContext(ctx, query)
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, rows.Close()) }()
	for rows.Next() {
		if err := row(rows.Scan); err != nil {
			return err
		}
	}
	return rows.Err()
}
