// Command mutations tells whether the tests of a package would notice a mistake in it. It makes one small mistake after the other in the package's
// files, runs the package's tests against each, and writes which of them were noticed.
//
//	go run ./docs/mutations -equivalent docs/mutations/policy.txt pkg/policy pattern.go decide.go > docs/policy-mutations.md
//
// No file of the package is touched: the go command is told to read another one in its place (go help build, -overlay). It is an error when
// a mistake goes unnoticed, unless the file of equivalents says why it is none.
package main

import (
	"bytes"
	"context"
	"errors"
	"flag"
	"fmt"
	"io"
	"os"
	"os/signal"
	"path/filepath"
	"runtime"
	"time"
)

func main() {
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt)
	err := run(ctx, os.Args[1:], os.Stdout, os.Stderr)
	stop()
	if err != nil {
		fmt.Fprintln(os.Stderr, "mutations:", err)
		os.Exit(1)
	}
}

func run(ctx context.Context, args []string, document, progress io.Writer) error {
	flags := flag.NewFlagSet("mutations", flag.ContinueOnError)
	flags.SetOutput(progress)
	equivalentsFile := flags.String("equivalent", "", "the `file` that says which changes are no mistakes, and why")
	limit := flags.Duration("limit", time.Minute, "how long the tests may take; longer is noticed too")
	jobs := flags.Int("jobs", runtime.NumCPU(), "how many changes are tried at once")
	testArgs := flags.String("args", "", "an argument for the test binary")
	if err := flags.Parse(args); err != nil {
		return err
	}
	if flags.NArg() < 2 {
		return errors.New("want the directory of a package and the names of its files")
	}
	dir := flags.Arg(0)
	var mutants []*mutant
	for _, name := range flags.Args()[1:] {
		found, err := mutantsOf(filepath.Join(dir, name))
		if err != nil {
			return err
		}
		mutants = append(mutants, found...)
	}
	equivalents, err := readEquivalents(*equivalentsFile)
	if err != nil {
		return err
	}
	t := tester{dir: dir, limit: *limit, arg: *testArgs, progress: progress}
	if err := t.all(ctx, mutants, *jobs); err != nil {
		return err
	}
	problem := judge(mutants, equivalents)
	var out bytes.Buffer
	writeDocument(&out, dir, mutants)
	if _, err := out.WriteTo(document); err != nil {
		return err
	}
	return problem
}
