package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"slices"
	"sync"
	"time"
)

// figure is what was measured of one contest.
type figure struct {
	perSecond float64
	p50, p99  time.Duration
}

// row is what was measured of one kind of database with a number of clients.
type row struct {
	kind    string
	clients int
	// transfers are the ledger's; commits are single rows, by as many clients, and inserts rows in transactions of many, by one.
	transfers, commits, inserts figure
}

// contest is something that is done over and over, by clients at once.
type contest struct {
	do      func(context.Context) error
	clients int
	// each is how many things are done at once.
	each   int
	rounds []figure
}

// measure measures all kinds. In each round every contest has a turn, so that whatever else the machine does hits all alike.
func measure(ctx context.Context, kinds []*kind, e effort, progress io.Writer) ([]row, error) {
	var contests []*contest
	for _, k := range kinds {
		if k.missing != nil {
			continue
		}
		for _, n := range e.clients {
			contests = append(contests, &contest{do: k.transfer, clients: n, each: 1}, &contest{do: k.commit, clients: n, each: 1})
		}
		contests = append(contests, &contest{do: k.inserts, clients: 1, each: batch})
	}
	for round := range e.rounds {
		_, _ = fmt.Fprintf(progress, "round %d of %d\n", round+1, e.rounds) // nobody has to see it
		for _, c := range contests {
			f, err := c.turn(ctx, e.turn)
			if err != nil {
				return nil, err
			}
			c.rounds = append(c.rounds, f)
		}
	}
	var rows []row
	for _, k := range kinds {
		if k.missing != nil {
			continue
		}
		mine := contests[:2*len(e.clients)+1]
		contests = contests[len(mine):]
		for i, n := range e.clients {
			rows = append(rows, row{kind: k.name, clients: n, transfers: mine[2*i].median(), commits: mine[2*i+1].median(), inserts: mine[len(mine)-1].median()})
		}
	}
	return rows, nil
}

// turn has the clients work for a while.
func (c *contest) turn(ctx context.Context, long time.Duration) (figure, error) {
	start := time.Now()
	took := make([][]time.Duration, c.clients)
	errs := make([]error, c.clients)
	var wg sync.WaitGroup
	for i := range c.clients {
		wg.Go(func() {
			for begin := start; begin.Sub(start) < long; {
				if errs[i] = c.do(ctx); errs[i] != nil {
					return
				}
				now := time.Now()
				took[i] = append(took[i], now.Sub(begin))
				begin = now
			}
		})
	}
	wg.Wait()
	elapsed := time.Since(start)
	all := slices.Concat(took...)
	slices.Sort(all)
	if err := errors.Join(errs...); err != nil {
		return figure{}, err
	}
	return figure{perSecond: float64(len(all)*c.each) / elapsed.Seconds(), p50: quantile(all, 0.5), p99: quantile(all, 0.99)}, nil
}

// median returns the median of each part of the rounds' figures.
func (c *contest) median() figure {
	var rates []float64
	var p50, p99 []time.Duration
	for _, f := range c.rounds {
		rates, p50, p99 = append(rates, f.perSecond), append(p50, f.p50), append(p99, f.p99)
	}
	slices.Sort(rates)
	slices.Sort(p50)
	slices.Sort(p99)
	return figure{perSecond: quantile(rates, 0.5), p50: quantile(p50, 0.5), p99: quantile(p99, 0.5)}
}

// quantile returns the value of sorted below which a share of them lies.
func quantile[T any](sorted []T, share float64) (zero T) {
	if len(sorted) == 0 {
		return zero
	}
	return sorted[min(len(sorted)-1, int(float64(len(sorted))*share))]
}

// syncLatency measures how long the disk takes to keep 4 KiB more of a file.
func syncLatency(folder string) (f figure, err error) {
	const times = 200
	file, err := os.Create(filepath.Join(folder, "fsync"))
	if err != nil {
		return f, err
	}
	defer func() { err = errors.Join(err, file.Close()) }()
	page := make([]byte, 4096)
	var took []time.Duration
	begin := time.Now()
	for range times {
		start := time.Now()
		if _, err := file.Write(page); err != nil {
			return f, err
		}
		if err := file.Sync(); err != nil {
			return f, err
		}
		took = append(took, time.Since(start))
	}
	slices.Sort(took)
	return figure{perSecond: times / time.Since(begin).Seconds(), p50: quantile(took, 0.5), p99: quantile(took, 0.99)}, nil
}
