package faults_test

import (
	"context"
	"fmt"
	"sync"
)

// callers are at the books at once in the attacks of this file.
const callers = 64

// attack lets many callers at the accounts of a group, and returns what is wrong with the effect.
type attack func(ctx context.Context, at *target) error

// target is the books as an attack sees them: one process after the other is asked, and the group is the attack's own.
type target struct {
	calls []caller
	group int
}

// attacks by name.
var attacks = map[string]attack{
	"many spend the same money":                                overdraft,
	"one holds what another spends":                            skew,
	"each spends what the next one would bring":                ring,
	"the same transfer from many":                              sameTransfer,
	"two contents under one ID":                                twoContents,
	"many capture a hold that many release":                    captureOrRelease,
	"two accounts pay each other more than they have":          crossing,
	"the same hold from many, of which there is money for one": sameHold,
}

// all sends operations at once and counts the answers.
func (at *target) all(ctx context.Context, operation func(i int) op) ([]answer, map[code]int, error) {
	answers, errs := make([]answer, callers), make([]error, callers)
	var wg sync.WaitGroup
	for i := range callers {
		wg.Go(func() { answers[i], errs[i] = at.calls[i%len(at.calls)](ctx, operation(i)) })
	}
	wg.Wait()
	counts := map[code]int{}
	for i, err := range errs {
		if err != nil {
			return nil, nil, err
		}
		counts[answers[i].Code]++
	}
	return answers, counts, nil
}

// post returns a transfer of the group.
func (at *target) post(id, from, to int, minor int64) op {
	o := op{Kind: post, Group: at.group, ID: id}
	o.Moves[from], o.Moves[to] = -minor, minor
	return o
}

func (at *target) reserve(id, whose int, minor int64) op {
	return op{Kind: reserve, Group: at.group, ID: id, Whose: whose, Minor: minor}
}

// deposit brings money, under an ID that no caller of an attack uses.
func (at *target) deposit(ctx context.Context, to int, minor int64) error {
	a, err := at.calls[0](ctx, at.post(1000+to, bank, to, minor))
	if err == nil && a.Code != done {
		err = fmt.Errorf("the deposit was answered %v", a.Code)
	}
	return err
}

// has checks an account's balance and what is held of it, in every process.
func (at *target) has(ctx context.Context, whose int, minor, held int64) error {
	for _, call := range at.calls {
		a, err := call(ctx, op{Kind: balance, Group: at.group, Whose: whose})
		if err != nil {
			return err
		}
		if a.Balance != minor || a.Held != held {
			return fmt.Errorf("account %d has %d and %d held; want %d and %d", whose, a.Balance, a.Held, minor, held)
		}
	}
	return nil
}

// want checks how many got which answer.
func want(counts, wanted map[code]int) error {
	for c, n := range wanted {
		if counts[c] != n {
			return fmt.Errorf("the answers were %v, want %v", counts, wanted)
		}
	}
	return nil
}

// first returns the first error.
func first(errs ...error) error {
	for _, err := range errs {
		if err != nil {
			return err
		}
	}
	return nil
}

func overdraft(ctx context.Context, at *target) error {
	if err := at.deposit(ctx, 0, 100); err != nil {
		return err
	}
	_, counts, err := at.all(ctx, func(i int) op { return at.post(1+i, 0, 1+i%3, 100) })
	return first(err, want(counts, map[code]int{done: 1, insufficient: callers - 1}), at.has(ctx, 0, 0, 0))
}

func skew(ctx context.Context, at *target) error {
	if err := at.deposit(ctx, 0, 100); err != nil {
		return err
	}
	answers, counts, err := at.all(ctx, func(i int) op {
		if i%4 < 2 { // each in both processes
			return at.post(1+i, 0, 1, 100)
		}
		return at.reserve(1+i, 0, 100)
	})
	if err := first(err, want(counts, map[code]int{done: 1, insufficient: callers - 1})); err != nil {
		return err
	}
	for i, a := range answers {
		if a.Code == done && i%4 < 2 {
			return at.has(ctx, 0, 0, 0)
		}
	}
	return at.has(ctx, 0, 100, 100)
}

// ring: three accounts without money, each of which pays the next one. Each transfer would be good after the one before.
func ring(ctx context.Context, at *target) error {
	_, counts, err := at.all(ctx, func(i int) op { return at.post(1+i, i%bank, (i+1)%bank, 100) })
	return first(err, want(counts, map[code]int{insufficient: callers}), at.has(ctx, 0, 0, 0), at.has(ctx, 1, 0, 0), at.has(ctx, 2, 0, 0))
}

// crossing: of two accounts with 100 each, one pays 100 and 200 are paid back: the second is good only after the first, whoever sees what.
// In the end nobody is below zero and nothing is gained.
func crossing(ctx context.Context, at *target) error {
	if err := first(at.deposit(ctx, 0, 100), at.deposit(ctx, 1, 100)); err != nil {
		return err
	}
	answers, _, err := at.all(ctx, func(i int) op { return at.post(1+i, i/2%2, 1-i/2%2, 100+int64(i%3)*50) })
	if err != nil {
		return err
	}
	have := [2]int64{100, 100}
	for i, a := range answers {
		if a.Code != done && a.Code != insufficient {
			return fmt.Errorf("caller %d was answered %v", i, a.Code)
		}
		if a.Code == done {
			have[i/2%2] -= 100 + int64(i%3)*50
			have[1-i/2%2] += 100 + int64(i%3)*50
		}
	}
	if have[0] < 0 || have[1] < 0 {
		return fmt.Errorf("the accounts have %v by what was answered", have)
	}
	return first(at.has(ctx, 0, have[0], 0), at.has(ctx, 1, have[1], 0))
}

func sameTransfer(ctx context.Context, at *target) error {
	if err := at.deposit(ctx, 0, 100*callers); err != nil {
		return err
	}
	answers, counts, err := at.all(ctx, func(int) op { return at.post(1, 0, 1, 100) })
	if err := first(err, want(counts, map[code]int{done: callers})); err != nil {
		return err
	}
	for _, a := range answers {
		if a.Time != answers[0].Time {
			return fmt.Errorf("one transfer was posted at %d and at %d", a.Time, answers[0].Time)
		}
	}
	return first(at.has(ctx, 0, 100*(callers-1), 0), at.has(ctx, 1, 100, 0))
}

func sameHold(ctx context.Context, at *target) error {
	if err := at.deposit(ctx, 0, 100); err != nil {
		return err
	}
	_, counts, err := at.all(ctx, func(int) op { return at.reserve(1, 0, 100) })
	return first(err, want(counts, map[code]int{done: callers}), at.has(ctx, 0, 100, 100))
}

func twoContents(ctx context.Context, at *target) error {
	if err := at.deposit(ctx, 0, 100*callers); err != nil {
		return err
	}
	answers, counts, err := at.all(ctx, func(i int) op { return at.post(1, 0, 1+i/2%2, 100) })
	if err := first(err, want(counts, map[code]int{done: callers / 2, conflict: callers / 2})); err != nil {
		return err
	}
	winner := 1
	if answers[0].Code == conflict {
		winner = 2
	}
	return first(at.has(ctx, winner, 100, 0), at.has(ctx, 3-winner, 0, 0))
}

func captureOrRelease(ctx context.Context, at *target) error {
	if err := at.deposit(ctx, 0, 100); err != nil {
		return err
	}
	if _, err := at.calls[0](ctx, at.reserve(1, 0, 80)); err != nil {
		return err
	}
	answers, counts, err := at.all(ctx, func(i int) op {
		if i%4 < 2 {
			o := at.post(1+i, 0, 1, 70)
			o.Hold = 1
			return o
		}
		return op{Kind: release, Group: at.group, ID: 1}
	})
	if err != nil {
		return err
	}
	if counts[holdCaptured] > 0 {
		for i, a := range answers {
			if a.Code == done && i%4 >= 2 {
				return fmt.Errorf("a hold was both captured and released: %v", counts)
			}
		}
		return first(want(counts, map[code]int{done: 1, holdCaptured: callers - 1}), at.has(ctx, 0, 30, 0), at.has(ctx, 1, 70, 0))
	}
	return first(want(counts, map[code]int{done: callers / 2, holdReleased: callers / 2}), at.has(ctx, 0, 100, 0), at.has(ctx, 1, 0, 0))
}
