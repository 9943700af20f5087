package main

import (
	"errors"
	"fmt"
	"runtime"
	"slices"
	"time"
)

// contest is engines that are measured beside each other.
type contest struct {
	title   string
	engines []engine
	shapes  []shape
	columns []column
}

// column is what the engines are asked, and the answer that they are to have.
type column struct {
	name      string
	questions func(grants []grant) []question
	allowed   bool
}

// effort is how much is measured.
type effort struct {
	// rules are the numbers of rules, ascending.
	rules []int
	// rounds is of how many batches a figure is the median, and batch how long one is at least.
	rounds int
	batch  time.Duration
	// budget bounds what one engine may take for one row.
	budget time.Duration
}

// row is the figures of one engine with rules of one shape and number.
type row struct {
	engine string
	shape  shape
	rules  int
	load   time.Duration
	// over says that it would have taken more than the budget, so that there are no figures.
	over bool
	// figures are one a column.
	figures []figure
	// took is how long it took to have them.
	took time.Duration
}

// figure is what one decision takes.
type figure struct {
	// nanos is the median of the rounds.
	nanos, allocs float64
	// spread is how far apart the middle half of the rounds lies, as a share of the median.
	spread float64
}

// measure measures a contest, the smallest number of rules first.
func (c contest) measure(e effort) ([]row, error) {
	var rows []row
	for _, s := range c.shapes {
		var before []row
		for _, n := range e.rules {
			measured, err := c.sideBySide(s, n, e, before)
			if err != nil {
				return nil, fmt.Errorf("%s: %d rules, %s: %w", c.title, n, s, err)
			}
			rows = append(rows, measured...)
			before = measured
		}
	}
	return rows, nil
}

// contender is an engine that has its rules.
type contender struct {
	row
	decide decider
}

// sideBySide measures all engines with the same rules. before are their rows with fewer.
func (c contest) sideBySide(s shape, n int, e effort, before []row) ([]row, error) {
	grants := generate(s, n)
	contenders := make([]*contender, len(c.engines))
	for i, engine := range c.engines {
		contenders[i] = &contender{row: row{engine: engine.name, shape: s, rules: n}}
		if len(before) > 0 && before[i].exceeds(n, e.budget) {
			contenders[i].over = true
			continue
		}
		if err := contenders[i].loadFrom(engine, grants); err != nil {
			return nil, err
		}
	}
	for _, column := range c.columns {
		if err := column.measure(contenders, grants, e); err != nil {
			return nil, err
		}
	}
	rows := make([]row, len(contenders))
	for i, contender := range contenders {
		rows[i] = contender.row
	}
	return rows, nil
}

// exceeds reports whether n rules would take more than the budget: they take longer than fewer do, by as much as they are more. That is so of
// whoever comes near a budget, since loading and a decision that goes through the rules are at least linear.
func (r row) exceeds(n int, budget time.Duration) bool {
	return r.over || float64(r.took)*float64(n)/float64(r.rules) > float64(budget)
}

func (c *contender) loadFrom(e engine, grants []grant) error {
	if _, err := e.load(generate(c.shape, peersPerMethod)); err != nil { // what is made once a process is no part of it
		return fmt.Errorf("load %s: %w", e.name, err)
	}
	runtime.GC() // what others left is not to be paid for here
	start := time.Now()
	decide, err := e.load(grants)
	if err != nil {
		return fmt.Errorf("load %s: %w", e.name, err)
	}
	c.decide, c.load = decide, time.Since(start)
	c.took = c.load
	return nil
}

// measure adds the column to the contenders. Each round has a batch of each of them, so that whatever else the machine does hits all alike.
func (c column) measure(contenders []*contender, grants []grant, e effort) error {
	questions := c.questions(grants)
	batches := make([]*batch, len(contenders))
	for i, contender := range contenders {
		if contender.over {
			continue
		}
		batches[i] = &batch{allowed: c.allowed}
		for _, q := range questions {
			batches[i].decisions = append(batches[i].decisions, contender.decide(q))
		}
		if err := batches[i].calibrate(e.batch); err != nil {
			return fmt.Errorf("%s, %s: %w", contender.engine, c.name, err)
		}
	}
	for range e.rounds {
		for i, b := range batches {
			if b == nil {
				continue
			}
			if err := b.round(); err != nil {
				return fmt.Errorf("%s, %s: %w", contenders[i].engine, c.name, err)
			}
		}
	}
	for i, b := range batches {
		if b == nil {
			contenders[i].figures = append(contenders[i].figures, figure{})
			continue
		}
		contenders[i].figures = append(contenders[i].figures, b.figure())
		contenders[i].took += b.one * time.Duration(e.rounds)
	}
	return nil
}

// batch is decisions that are made one after another.
type batch struct {
	decisions []decision
	// allowed is what each of them is to say.
	allowed bool
	// size is how many are made in a round, next which is the next, and one about how long one takes.
	size, next int
	one        time.Duration
	allocs     float64
	nanos      []float64
}

var errWrong = errors.New("it decides otherwise")

// run makes some decisions.
func (b *batch) run(size int) error {
	for range size {
		allowed, err := b.decisions[b.next]()
		if err != nil {
			return err
		}
		if allowed != b.allowed {
			return errWrong
		}
		if b.next++; b.next == len(b.decisions) {
			b.next = 0
		}
	}
	return nil
}

// calibrate finds the size of a batch that takes as long as is wanted, and counts what a decision allocates.
func (b *batch) calibrate(wanted time.Duration) error {
	if err := b.run(1); err != nil { // what is made at the first decision is no part of the others
		return err
	}
	for b.size = 1; ; b.size *= 2 {
		var before, after runtime.MemStats
		runtime.ReadMemStats(&before)
		start := time.Now()
		if err := b.run(b.size); err != nil {
			return err
		}
		elapsed := time.Since(start)
		runtime.ReadMemStats(&after)
		b.one = elapsed / time.Duration(b.size)
		b.allocs = float64(after.Mallocs-before.Mallocs) / float64(b.size)
		if elapsed >= wanted {
			return nil
		}
	}
}

func (b *batch) round() error {
	start := time.Now()
	if err := b.run(b.size); err != nil {
		return err
	}
	b.nanos = append(b.nanos, float64(time.Since(start).Nanoseconds())/float64(b.size))
	return nil
}

func (b *batch) figure() figure {
	slices.Sort(b.nanos)
	n := len(b.nanos)
	median := (b.nanos[(n-1)/2] + b.nanos[n/2]) / 2
	return figure{nanos: median, allocs: b.allocs, spread: (b.nanos[n-1-n/4] - b.nanos[n/4]) / median}
}
