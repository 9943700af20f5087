package faults_test

import (
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"slices"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"golang.org/x/sync/errgroup"

	"github.com/countersign-mesh/countersign/pkg/database/databasetest"
)

// payers pay at once in the tests of this file.
const payers = 16

// payer pays one cent after the other into an account of its own, from one that it shares with two others, and keeps what was acknowledged.
type payer struct {
	group, to    int
	acknowledged atomic.Int64

	mu    sync.Mutex
	times []int64 // of posting, by ID from 1
}

func newPayers() []*payer {
	all := make([]*payer, payers)
	for i := range all {
		all[i] = &payer{group: i / bank, to: i % bank}
	}
	return all
}

// transfer is the payer's n-th.
func (p *payer) transfer(n int) op {
	o := op{Kind: post, Group: p.group, ID: n*bank + p.to}
	o.Moves[bank], o.Moves[p.to] = -1, 1
	return o
}

// pay posts the next transfer.
func (p *payer) pay(ctx context.Context, call caller) error {
	a, err := call(ctx, p.transfer(len(p.times)+1))
	if err != nil {
		return err
	}
	if a.Code != done {
		return fmt.Errorf("a transfer was answered %v: %s", a.Code, a.Text)
	}
	p.mu.Lock()
	p.times = append(p.times, a.Time)
	p.mu.Unlock()
	p.acknowledged.Add(1)
	return nil
}

// verify makes sure that what was acknowledged before is in the books, and that a transfer that is sent again is what it was.
func (p *payer) verify(ctx context.Context, call caller) error {
	before := p.acknowledged.Load()
	a, err := call(ctx, op{Kind: balance, Group: p.group, Whose: p.to})
	if err != nil {
		return err
	}
	// One more may be on its way, whose answer was lost.
	if after := p.acknowledged.Load(); a.Balance < before || a.Balance > after+1 {
		return fmt.Errorf("%d to %d transfers were acknowledged, and the balance is %d", before, after, a.Balance)
	}
	if before == 0 {
		return nil
	}
	n := 1 + rand.IntN(int(before))
	a, err = call(ctx, p.transfer(n))
	p.mu.Lock()
	defer p.mu.Unlock()
	if err == nil && (a.Code != done || a.Time != p.times[n-1]) {
		err = fmt.Errorf("a transfer that was posted at %d is %v at %d: %s", p.times[n-1], a.Code, a.Time, a.Text)
	}
	return err
}

// ATTACKS 61: kill -9 at random: entries sum to zero, nothing acknowledged is lost, nothing is applied twice, also between commit and reply.
func TestNothingIsLostOrDoneTwiceOverAKill(t *testing.T) {
	t.Parallel()
	databasetest.Each(t, func(t *testing.T, dsn string) {
		p := newProcess(t, dsn, "")
		restarts, err := killOften(t, p, scaled(20, 200))
		if err != nil {
			t.Fatal(err)
		}
		slices.Sort(restarts)
		t.Logf("%d kills; from the start of a process until it served: median %v, worst %v", len(restarts),
			restarts[len(restarts)/2].Round(time.Millisecond), restarts[len(restarts)-1].Round(time.Millisecond))
	})
}

// killOften lets the payers pay while the process is killed so many times, and checks after each time and in the end. It returns how long each
// new process took until it served.
func killOften(t *testing.T, p *process, kills int) ([]time.Duration, error) {
	t.Helper()
	all := newPayers()
	running, ctx := errgroup.WithContext(t.Context())
	var stopped atomic.Bool
	var answers atomic.Int64
	for _, one := range all {
		running.Go(func() error {
			for !stopped.Load() {
				if err := one.pay(ctx, p.call); err != nil {
					return err
				}
				answers.Add(1)
			}
			return nil
		})
	}
	var restarts []time.Duration
	for n := range kills {
		dies := 0
		if n%2 == 0 {
			dies = 1 + rand.IntN(100)
		}
		enough := rand.Int64N(200)
		await(ctx, func() bool { return answers.Load() > enough })
		p.kill(t)
		restarts = append(restarts, p.start(t, dies))
		answers.Store(0)
		if dies > 0 { // by itself, after a commit and before its answer
			await(ctx, p.alive.ended)
			p.kill(t)
			restarts = append(restarts, p.start(t, 0))
		}
		for _, one := range all {
			if err := one.verify(ctx, p.call); err != nil {
				stopped.Store(true)
				return restarts, fmt.Errorf("after kill %d: %w", n, errors.Join(err, running.Wait()))
			}
		}
	}
	stopped.Store(true)
	if err := running.Wait(); err != nil {
		return restarts, err
	}
	return restarts, settled(t, p.call, all)
}

// settled checks that the books have what the payers know of, once.
func settled(t *testing.T, call caller, all []*payer) error {
	t.Helper()
	var total int64
	for _, one := range all {
		count := one.acknowledged.Load()
		total += count
		a, err := call(t.Context(), op{Kind: balance, Group: one.group, Whose: one.to})
		if err != nil {
			return err
		}
		if a.Balance != count {
			return fmt.Errorf("%d transfers were acknowledged, and the balance is %d", count, a.Balance)
		}
	}
	if a := mustBeInOrder(t, call); a.Sums.Transfers != total || a.Sums.Entries != 2*total {
		return fmt.Errorf("%d transfers and %d entries are in the books, and %d transfers were acknowledged", a.Sums.Transfers, a.Sums.Entries, total)
	}
	t.Logf("%d transfers", total)
	return nil
}
