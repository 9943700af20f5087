// Command bench measures how many transfers a second the ledger's store takes, beside what the same database does by itself on the same disk.
// See docs/benchmarks-ledger.md.
package main

import (
	"context"
	"errors"
	"flag"
	"fmt"
	"io"
	"os"
	"os/signal"
	"slices"
	"strconv"
	"strings"
	"time"
)

func main() {
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt)
	defer stop()
	err := run(ctx, os.Args[1:], os.Stdout, os.Stderr)
	if err != nil && !errors.Is(err, flag.ErrHelp) {
		fmt.Fprintln(os.Stderr, "bench:", err)
		stop()
		os.Exit(1)
	}
}

// effort is how much is measured.
type effort struct {
	// clients are the numbers of clients at once, ascending.
	clients []int
	// rounds is of how many rounds a figure is the median, and turn how long each contest has in a round.
	rounds int
	turn   time.Duration
	// write is the file whose table is replaced; empty for none.
	write string
}

func run(ctx context.Context, args []string, out, errOut io.Writer) (err error) {
	e, err := parseEffort(args, errOut)
	if err != nil {
		return err
	}
	folder, err := os.MkdirTemp("", "countersign-bench-")
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, os.RemoveAll(folder)) }()
	r := report{effort: e}
	if r.fsync, err = syncLatency(folder); err != nil {
		return fmt.Errorf("measure fsync: %w", err)
	}
	kinds, closeKinds, err := openKinds(ctx, folder, e.clients)
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, closeKinds()) }()
	if r.rows, err = measure(ctx, kinds, e, errOut); err != nil {
		return err
	}
	r.kinds = kinds
	text := r.text()
	if _, err := io.WriteString(out, text); err != nil {
		return err
	}
	if e.write == "" {
		return nil
	}
	return replaceTable(e.write, text)
}

// parseEffort reads the command line.
func parseEffort(args []string, errOut io.Writer) (effort, error) {
	var e effort
	flags := flag.NewFlagSet("bench", flag.ContinueOnError)
	flags.SetOutput(errOut)
	clients := flags.String("clients", "1,16,128", "how many clients at once")
	flags.IntVar(&e.rounds, "rounds", 5, "of how many rounds each figure is the median")
	flags.DurationVar(&e.turn, "turn", 2*time.Second, "how long each contest has in a round")
	flags.StringVar(&e.write, "write", "", "the page whose table is replaced")
	if err := flags.Parse(args); err != nil {
		return e, err
	}
	if e.rounds < 1 || e.turn <= 0 {
		return e, fmt.Errorf("-rounds %d -turn %v: at least one round, and some time", e.rounds, e.turn)
	}
	for text := range strings.SplitSeq(*clients, ",") {
		n, err := strconv.Atoi(text)
		if err != nil || n < 1 || n > 150 {
			return e, fmt.Errorf("-clients %q: %q is not a number from 1 to 150", *clients, text)
		}
		e.clients = append(e.clients, n)
	}
	slices.Sort(e.clients)
	return e, nil
}
