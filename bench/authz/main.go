// Command authz measures what a decision of pkg/policy costs, beside the authorization of grpc-go, casbin and cedar-go, with the same rules. See
// docs/benchmarks-authz.md.
package main

import (
	"context"
	"errors"
	"flag"
	"fmt"
	"io"
	"os"
	"slices"
	"strconv"
	"strings"
	"time"
)

func main() {
	err := run(context.Background(), os.Args[1:], os.Stdout, os.Stderr)
	if err != nil && !errors.Is(err, flag.ErrHelp) {
		fmt.Fprintln(os.Stderr, "authz:", err)
		os.Exit(1)
	}
}

func run(ctx context.Context, args []string, out, errOut io.Writer) error {
	e, err := parseEffort(args, errOut)
	if err != nil {
		return err
	}
	inCall, err := serve(ctx)
	if err != nil {
		return fmt.Errorf("make a call: %w", err)
	}
	printHead(out, e)
	for _, c := range contests(inCall) {
		rows, err := c.measure(e)
		if err != nil {
			return err
		}
		if err := c.print(out, rows, e.budget); err != nil {
			return err
		}
	}
	return nil
}

// parseEffort reads the command line.
func parseEffort(args []string, errOut io.Writer) (effort, error) {
	var e effort
	flags := flag.NewFlagSet("authz", flag.ContinueOnError)
	flags.SetOutput(errOut)
	rules := flags.String("rules", "10,1000,100000", "how many rules, each a multiple of ten")
	flags.IntVar(&e.rounds, "rounds", 11, "of how many rounds each figure is the median")
	flags.DurationVar(&e.batch, "batch", 20*time.Millisecond, "how long each engine decides in a round, at least")
	flags.DurationVar(&e.budget, "budget", time.Minute, "how long one engine may take with rules of one number and shape")
	if err := flags.Parse(args); err != nil {
		return e, err
	}
	if e.rounds < 1 {
		return e, fmt.Errorf("-rounds %d: at least one is needed", e.rounds)
	}
	for text := range strings.SplitSeq(*rules, ",") {
		n, err := strconv.Atoi(text)
		if err != nil || n < peersPerMethod || n%peersPerMethod != 0 {
			return e, fmt.Errorf("-rules %q: %q is not a multiple of ten", *rules, text)
		}
		e.rules = append(e.rules, n)
	}
	slices.Sort(e.rules)
	return e, nil
}
