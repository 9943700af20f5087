package faults_test

import (
	"context"
	"time"

	"github.com/countersign-mesh/countersign/pkg/database/databasetest"
)

// await waits until a condition holds, or ctx ends.
func await(ctx context.Context, condition func() bool) {
	tick := time.NewTicker(time.Millisecond)
	defer tick.Stop()
	for !condition() {
		select {
		case <-tick.C:
		case <-ctx.Done():
			return
		}
	}
}

// bounded waits for a condition that may not come about: a process may have died of the outage, and answer nothing.
func bounded(ctx context.Context, condition func() bool) {
	ctx, cancel := context.WithTimeout(ctx, 3*time.Second)
	defer cancel()
	await(ctx, condition)
}

// startPatiently starts a server that was killed: what it was doing ends by and by, and until then there is no place for another one.
func startPatiently(ctx context.Context, s *databasetest.Server) error {
	ctx, cancel := context.WithTimeout(ctx, openTimeout)
	defer cancel()
	var err error
	await(ctx, func() bool {
		err = s.Start(ctx)
		return err == nil
	})
	return err
}
