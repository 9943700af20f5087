package database

import (
	"context"
	"database/sql"
	"errors"
	"fmt"
	"io/fs"

	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/stdlib"
	"github.com/pressly/goose/v3"
	"github.com/pressly/goose/v3/lock"
)

func openPostgres(ctx context.Context, dsn string, migrations fs.FS) (*sql.DB, error) {
	config, err := pgx.ParseConfig(dsn)
	if err != nil {
		return nil, fmt.Errorf("database DSN: %w; want %s", err, wantDSN) // pgx takes the password out of what it quotes
	}
	where := fmt.Sprintf("%s at %s:%d", config.Database, config.Host, config.Port)
	// Whatever the server's or the user's defaults are: a commit that was answered is on the disk.
	config.RuntimeParams["synchronous_commit"] = "on"
	// A transaction whose process hangs must not hold its locks for ever.
	config.RuntimeParams["idle_in_transaction_session_timeout"] = "60000" // milliseconds
	db := stdlib.OpenDB(*config)
	pool(db)
	err = checkDurable(ctx, db)
	if err == nil {
		err = migratePostgres(ctx, db, migrations)
	}
	if err != nil {
		_ = db.Close() // the first error is the one to tell
		return nil, fmt.Errorf("open database %s: %w", where, err)
	}
	return db, nil
}

// checkDurable refuses a server that was told to lose data.
func checkDurable(ctx context.Context, db *sql.DB) error {
	var fsync string
	if err := db.QueryRowContext(ctx, "SHOW fsync").Scan(&fsync); err != nil {
		return err
	}
	if fsync != "on" {
		return errors.New("the server runs with fsync off, so that it loses what was committed when the power goes out; set fsync = on")
	}
	return nil
}

// migratePostgres migrates under a lock: several processes may start on the same database at once.
func migratePostgres(ctx context.Context, db *sql.DB, migrations fs.FS) error {
	locker, err := lock.NewPostgresSessionLocker()
	if err != nil {
		return fmt.Errorf("lock for migrations: %w", err)
	}
	return migrate(ctx, db, goose.DialectPostgres, "postgres", migrations, goose.WithSessionLocker(locker))
}
