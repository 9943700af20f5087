package main

import (
	"bytes"
	"fmt"
	"io"
	"runtime"
	"runtime/debug"
	"slices"
	"strconv"
	"strings"
	"text/tabwriter"
	"time"
)

// printHead says what is measured, and on what.
func printHead(out io.Writer, e effort) {
	fmt.Fprintf(out, "%s, %s/%s, %d cores\n", runtime.Version(), runtime.GOOS, runtime.GOARCH, runtime.NumCPU())
	if info, ok := debug.ReadBuildInfo(); ok {
		for _, module := range []string{"google.golang.org/grpc", "github.com/casbin/casbin/v2", "github.com/cedar-policy/cedar-go"} {
			i := slices.IndexFunc(info.Deps, func(m *debug.Module) bool { return m.Path == module })
			if i >= 0 {
				fmt.Fprintf(out, "%s %s\n", module, info.Deps[i].Version)
			}
		}
	}
	fmt.Fprintf(out, "Each figure is the median of %d rounds of at least %v, in which the engines take turns.\n", e.rounds, e.batch)
}

// print prints the rows of a contest. The last column of each group says how many times as long as ours it takes.
func (c contest) print(out io.Writer, rows []row, budget time.Duration) error {
	fmt.Fprintf(out, "\n%s\n\n", c.title)
	var table bytes.Buffer
	w := tabwriter.NewWriter(&table, 0, 0, 2, ' ', tabwriter.AlignRight)
	head := []string{"rules", "shape", "engine", "load"}
	for _, column := range c.columns {
		head = append(head, column.name+": ns", "allocs", "× ours")
	}
	printLine(w, head)
	for i, r := range rows {
		if i > 0 && (rows[i-1].rules != r.rules || rows[i-1].shape != r.shape) {
			printLine(w, make([]string, len(head)))
		}
		cells := []string{number(float64(r.rules)), string(r.shape), r.engine}
		if r.over {
			printLine(w, append(cells, fmt.Sprintf("over %v", budget)))
			continue
		}
		cells = append(cells, rounded(r.load))
		for j, f := range r.figures {
			cells = append(cells, number(f.nanos), number(f.allocs), times(f, rows, r, j))
		}
		printLine(w, cells)
	}
	if err := w.Flush(); err != nil {
		return err
	}
	for line := range strings.Lines(table.String()) {
		fmt.Fprintln(out, strings.TrimRight(line, " \n")) // a line between two groups is empty cells
	}
	printSpread(out, rows)
	return nil
}

func printLine(w io.Writer, cells []string) {
	fmt.Fprintf(w, "%s\t\n", strings.Join(cells, "\t"))
}

// times says how a figure compares with ours for the same rules and questions.
func times(f figure, rows []row, r row, column int) string {
	i := slices.IndexFunc(rows, func(o row) bool { return o.engine == ours && o.rules == r.rules && o.shape == r.shape })
	if i < 0 || rows[i].over {
		return "–"
	}
	return number(f.nanos / rows[i].figures[column].nanos)
}

// printSpread says how far the figures can be trusted.
func printSpread(out io.Writer, rows []row) {
	var spreads []float64
	for _, r := range rows {
		for _, f := range r.figures {
			spreads = append(spreads, f.spread)
		}
	}
	slices.Sort(spreads)
	if len(spreads) > 0 {
		fmt.Fprintf(out, "\nThe middle half of the rounds of a figure lies within %.0f %% of it at the median, %.0f %% at worst.\n",
			100*spreads[len(spreads)/2], 100*spreads[len(spreads)-1])
	}
}

// rounded writes a duration with two or three digits.
func rounded(d time.Duration) string {
	switch {
	case d > time.Second:
		return d.Round(10 * time.Millisecond).String()
	case d > time.Millisecond:
		return d.Round(10 * time.Microsecond).String()
	}
	return d.Round(time.Microsecond).String()
}

// number writes a number with its thousands apart, and a small one with two digits.
func number(f float64) string {
	if f < 9.95 {
		return strconv.FormatFloat(f, 'g', 2, 64)
	}
	digits := strconv.FormatFloat(f, 'f', 0, 64)
	for i := len(digits) - 3; i > 0; i -= 3 {
		digits = digits[:i] + "," + digits[i:]
	}
	return digits
}
