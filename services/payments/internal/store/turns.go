package store

import (
	"context"
	"fmt"
	"hash/maphash"
	"slices"
)

// turns lets transactions of this process that change payments of the same account queue before they begin. Left alone they meet in the
// database, which lets one through and has all others run again.
type turns struct {
	seed   maphash.Seed
	places [256]chan struct{} // a place with a token in it is taken
}

func newTurns() *turns {
	t := &turns{seed: maphash.MakeSeed()}
	for i := range t.places {
		t.places[i] = make(chan struct{}, 1)
	}
	return t
}

// take waits for the turns of accounts and returns how to leave them.
func (t *turns) take(ctx context.Context, accounts []string) (leave func(), err error) {
	var at []uint64
	for _, account := range accounts {
		at = append(at, maphash.String(t.seed, account)%uint64(len(t.places)))
	}
	slices.Sort(at) // in one order everywhere, so that nobody waits for somebody who waits for them
	at = slices.Compact(at)
	taken := 0
	leave = func() {
		for _, place := range at[:taken] {
			<-t.places[place]
		}
	}
	for _, place := range at {
		select {
		case t.places[place] <- struct{}{}:
			taken++
		case <-ctx.Done():
			leave()
			return nil, fmt.Errorf("wait to write: %w", context.Cause(ctx))
		}
	}
	return leave, nil
}
