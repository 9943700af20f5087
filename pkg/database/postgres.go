package database

import (
	"context"
	"database/sql"
	"errors"
	"fmt"
	"io/fs"
	"net"
	"net/url"
	"strings"
	"time"

	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/stdlib"
	"github.com/pressly/goose/v3"
)

const (
	// connectTimeout bounds how long a server may take to accept a connection, unless the DSN says otherwise (connect_timeout, in seconds).
	connectTimeout = 5 * time.Second
	// keepAlive is after how long of silence a server is asked whether it is there still.
	keepAlive = 15 * time.Second
	// migrationLock is the advisory lock of the process that migrates. Its number means nothing; locks are apart in each database.
	migrationLock = 5_266_713_049
)

func openPostgres(ctx context.Context, dsn string, migrations fs.FS) (*sql.DB, error) {
	config, err := parsePostgres(dsn)
	if err != nil {
		return nil, err
	}
	// Whatever the server's, the user's or the DSN's settings are: a commit that was answered is on the disk.
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
		return nil, fmt.Errorf("open database %s: %w", place(config), err)
	}
	return db, nil
}

// openPostgresReadOnly opens a database for reading: a transaction in it that writes is refused by the server.
func openPostgresReadOnly(ctx context.Context, dsn string) (*sql.DB, error) {
	config, err := parsePostgres(dsn)
	if err != nil {
		return nil, err
	}
	config.RuntimeParams["default_transaction_read_only"] = "on"
	db := stdlib.OpenDB(*config)
	pool(db)
	if err := db.PingContext(ctx); err != nil {
		_ = db.Close() // the first error is the one to tell
		return nil, fmt.Errorf("open database %s: %w", place(config), err)
	}
	return db, nil
}

// parsePostgres takes a DSN apart. pgx's own errors quote it and blank what they take for the password; in a DSN whose password is not
// encoded as it has to be, a part of the password is taken for something else. So nothing of the DSN is quoted.
func parsePostgres(dsn string) (*pgx.ConnConfig, error) {
	errURL := errors.New("database DSN of kind postgres is not a URL: want " + wantDSN +
		", with the special characters of the user and the password percent-encoded (@ as %40, / as %2F)")
	if u, err := url.Parse(dsn); err != nil || u.Opaque != "" {
		return nil, errURL
	}
	config, err := pgx.ParseConfig(dsn)
	if err == nil && strings.Contains(config.Host+config.Database, "@") {
		return nil, errURL
	}
	if err != nil {
		_, reason, _ := strings.Cut(err.Error(), "`: ") // what follows the DSN
		return nil, fmt.Errorf("database DSN of kind postgres: %s; want %s", reason, wantDSN)
	}
	if config.ConnectTimeout == 0 {
		config.ConnectTimeout = connectTimeout
		// A server whose machine went away says nothing at all: only the kernel's questions find out.
		config.DialFunc = (&net.Dialer{Timeout: connectTimeout, KeepAlive: keepAlive}).DialContext
	}
	return config, nil
}

// place names a database for a person, without what is secret.
func place(config *pgx.ConnConfig) string {
	return fmt.Sprintf("%s at %s", config.Database, net.JoinHostPort(config.Host, fmt.Sprint(config.Port)))
}

// checkDurable refuses a server that was told to lose data.
func checkDurable(ctx context.Context, db *sql.DB) error {
	for setting, harm := range map[string]string{
		"fsync":            "so that it loses what was committed when the power goes out",
		"full_page_writes": "so that a page is damaged that is half written when the power goes out",
	} {
		var value string
		if err := db.QueryRowContext(ctx, "SELECT current_setting($1)", setting).Scan(&value); err != nil {
			return err
		}
		if value != "on" {
			return fmt.Errorf("the server runs with %s %s, %s; set %[1]s = on", setting, value, harm)
		}
	}
	return nil
}

// migratePostgres migrates under a lock: several processes may start on the same database at once. The lock is the server's, and gone with
// the connection of a process that dies.
func migratePostgres(ctx context.Context, db *sql.DB, migrations fs.FS) (err error) {
	conn, err := db.Conn(ctx)
	if err != nil {
		return err
	}
	defer func() { _ = conn.Close() }() // it goes back to the pool
	if _, err := conn.ExecContext(ctx, "SELECT pg_advisory_lock($1)", int64(migrationLock)); err != nil {
		return fmt.Errorf("wait for another process that migrates: %w", err)
	}
	defer func() {
		_, unlock := conn.ExecContext(context.WithoutCancel(ctx), "SELECT pg_advisory_unlock($1)", int64(migrationLock))
		err = errors.Join(err, unlock)
	}()
	return migrate(ctx, db, goose.DialectPostgres, "postgres", migrations)
}
