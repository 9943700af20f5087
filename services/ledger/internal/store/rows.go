package store

import (
	"database/sql"
	"errors"
)

// scanner is one row.
type scanner interface{ Scan(dest ...any) error }

// collect reads all rows and closes them. An error that ended the rows early is not lost: half a list is no list.
func collect[T any](rows *sql.Rows, scan func(scanner) (T, error)) (all []T, err error) {
	defer func() { err = errors.Join(err, rows.Close()) }()
	for rows.Next() {
		v, err := scan(rows)
		if err != nil {
			return nil, err
		}
		all = append(all, v)
	}
	return all, rows.Err()
}
