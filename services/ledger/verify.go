package main

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"

	"github.com/countersign-mesh/countersign/pkg/settings"
	"github.com/countersign-mesh/countersign/services/ledger/internal/verify"
)

var (
	// errUsage is of a command line that does not say what to do.
	errUsage = errors.New("wrong usage")
	// errFaults is of books that are not in order.
	errFaults = errors.New("the books are not in order")
)

// exitCode returns 2 for a command line that is wrong, and 1 for all else that fails.
func exitCode(err error) int {
	if errors.Is(err, errUsage) {
		return 2
	}
	return 1
}

const verifyHelp = `Checks all of the books in a database, and says what is wrong with them.

The database is only read. A ledger may run on it meanwhile: everything is looked at as of one moment. It may be a copy too; to a copy of a SQLite
file belongs the -wal file beside it, if there is one.

The exit code is 0 when the books are in order, 1 when they are not or could not be checked, and 2 when the command line is wrong.`

type verifyConfig struct {
	DSN    settings.DSN `default:"sqlite:ledger.db" placeholder:"DSN" help:"Where the books are: sqlite:PATH or postgres://…."`
	JSON   bool         `env:"-" help:"Write the report as JSON."`
	Places places       `default:"10" env:"-" placeholder:"N" help:"How many places of each kind of fault are named."`
}

// places is how many places of a kind of fault are named.
type places int

// Check reports what is wrong with the number.
func (p *places) Check() error {
	if *p < 1 || *p > 10_000 {
		return errors.New("want a number from 1 to 10000")
	}
	return nil
}

// runVerify is the command verify. Its error is errFaults when the report names faults.
func runVerify(ctx context.Context, args []string, out io.Writer) error {
	var cfg verifyConfig
	if err := settings.Parse("ledger verify", verifyHelp, args, out, &cfg); errors.Is(err, settings.ErrHelp) {
		return err
	} else if err != nil {
		return fmt.Errorf("%w: %w", errUsage, err)
	}
	report, err := verify.Books(ctx, string(cfg.DSN), int(cfg.Places))
	if err != nil {
		return err
	}
	if cfg.JSON {
		encoder := json.NewEncoder(out)
		encoder.SetIndent("", "  ")
		err = encoder.Encode(report)
	} else {
		err = report.Write(out)
	}
	if err != nil {
		return fmt.Errorf("write the report: %w", err)
	}
	if !report.Sound {
		return fmt.Errorf("%w: %d faults", errFaults, report.FaultCount())
	}
	return nil
}
