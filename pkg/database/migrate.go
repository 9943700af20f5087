package database

import (
	"context"
	"database/sql"
	"errors"
	"fmt"
	"io/fs"
	"path"

	"github.com/pressly/goose/v3"
)

// migrate applies the migrations in a folder that the database lacks, each in a transaction of its own together with the note that it was
// applied.
func migrate(ctx context.Context, db *sql.DB, dialect goose.Dialect, folder string, migrations fs.FS, opts ...goose.ProviderOption) error {
	if _, err := fs.Stat(migrations, folder); err != nil {
		return fmt.Errorf("this program does not keep its state in a database of kind %s: %w", folder, err)
	}
	steps, err := fs.Sub(migrations, folder)
	if err != nil {
		return fmt.Errorf("read migrations: %w", err)
	}
	provider, err := goose.NewProvider(dialect, db, steps, append(opts,
		goose.WithDisableGlobalRegistry(true), // only what the caller passed, nothing registered from elsewhere
		goose.WithVerbose(false),              // goose would write to the process's log, which belongs to the program
	)...)
	if err != nil {
		return fmt.Errorf("read migrations: %w", err)
	}
	current, target, err := provider.GetVersions(ctx)
	if err != nil {
		return fmt.Errorf("read schema version: %w", err)
	}
	if current > target {
		return fmt.Errorf("%w: it is at version %d, this program knows up to %d; run the newer program, or restore the backup from before",
			ErrNewerSchema, current, target)
	}
	if _, err := provider.Up(ctx); err != nil {
		if partial, ok := errors.AsType[*goose.PartialError](err); ok {
			return fmt.Errorf("apply migration %s: %w", path.Base(partial.Failed.Source.Path), partial.Err)
		}
		return fmt.Errorf("apply migrations: %w", err)
	}
	return nil
}
