package main

import (
	"errors"
	"fmt"
	"os"
	"runtime"
	"strings"
	"time"
)

// report is what a run has measured.
type report struct {
	effort effort
	fsync  figure
	kinds  []*kind
	rows   []row
}

// rowsOfATransfer is how many rows a transfer between two writes: its own, two entries and two balances.
const rowsOfATransfer = 5

// text returns the report, in Markdown.
func (r report) text() string {
	var b strings.Builder
	fmt.Fprintf(&b, "%s, %s/%s, %d cores. 4 KiB written and fsynced: %s at the median, %s at the 99th percentile.\n",
		runtime.Version(), runtime.GOOS, runtime.GOARCH, runtime.NumCPU(), rounded(r.fsync.p50), rounded(r.fsync.p99))
	fmt.Fprintf(&b, "Each figure is the median of %d rounds, in each of which every contest has %v.\n", r.effort.rounds, r.effort.turn)
	for _, k := range r.kinds {
		if k.missing != nil {
			fmt.Fprintf(&b, "\n%s was not measured: %v.\n", k.name, k.missing)
			continue
		}
		fmt.Fprintf(&b, "\n### %s\n\n", k.name)
		r.table(&b, k.name)
	}
	return b.String()
}

func (r report) table(b *strings.Builder, kind string) {
	b.WriteString("| clients | transfers/s | p50 | p99 | single-row commits/s, one client | × that | single-row commits/s, as many clients | × that | batched rows/s | rows of transfers ÷ that |\n")
	b.WriteString("| ---: | ---: | ---: | ---: | ---: | ---: | ---: | ---: | ---: | ---: |\n")
	var one figure
	for _, row := range r.rows {
		if row.kind != kind {
			continue
		}
		if one.perSecond == 0 {
			one = row.commits // the fewest clients come first
		}
		t := row.transfers
		fmt.Fprintf(b, "| %d | %s | %s | %s | %s | %s | %s | %s | %s | %s |\n", row.clients, number(t.perSecond), rounded(t.p50), rounded(t.p99),
			number(one.perSecond), ratio(t.perSecond, one.perSecond), number(row.commits.perSecond), ratio(t.perSecond, row.commits.perSecond),
			number(row.inserts.perSecond), ratio(t.perSecond*rowsOfATransfer, row.inserts.perSecond))
	}
}

func ratio(a, b float64) string {
	if b == 0 {
		return "–"
	}
	return fmt.Sprintf("%.2f", a/b)
}

// number writes a whole number with its thousands apart.
func number(f float64) string {
	digits := fmt.Sprintf("%.0f", f)
	for i := len(digits) - 3; i > 0; i -= 3 {
		digits = digits[:i] + "," + digits[i:]
	}
	return digits
}

// rounded writes a duration with two or three digits.
func rounded(d time.Duration) string {
	for _, unit := range []time.Duration{time.Second, time.Millisecond, time.Microsecond} {
		if d >= 10*unit {
			return d.Round(unit / 10).String()
		}
		if d >= unit {
			return d.Round(unit / 100).String()
		}
	}
	return d.String()
}

// What is between these lines of a page is the program's.
const (
	tableBegin = "<!-- make bench-ledger writes what follows -->\n"
	tableEnd   = "<!-- make bench-ledger has written what is above -->\n"
)

// replaceTable puts a report in its place in a page.
func replaceTable(path, text string) error {
	page, err := os.ReadFile(path)
	if err != nil {
		return err
	}
	before, rest, begins := strings.Cut(string(page), tableBegin)
	_, after, ends := strings.Cut(rest, tableEnd)
	if !begins || !ends {
		return errors.New(path + " has no place for the report")
	}
	return os.WriteFile(path, []byte(before+tableBegin+"\n"+text+"\n"+tableEnd+after), 0o644) //nolint:gosec // G306: a page that everybody may read
}
