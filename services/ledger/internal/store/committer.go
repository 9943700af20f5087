package store

import (
	"context"
	"errors"
	"fmt"
	"sync"
	"sync/atomic"
	"time"

	"github.com/countersign-mesh/countersign/pkg/database"
	"github.com/countersign-mesh/countersign/services/ledger/internal/ledger"
)

const (
	// queueLength bounds how many requests wait; who comes then waits in front of the queue.
	queueLength = 1024
	// batchSize bounds how many requests share a commit, and so how long the first of them waits for the last.
	batchSize = 256
	// commitTimeout bounds a commit and whatever is waited for on its way. Nobody's deadline but this one ends it: it is for many callers.
	commitTimeout = 10 * time.Second
)

// ErrClosed is returned for a request that was not written because the books were closed.
var ErrClosed = errors.New("the books are closed")

// request is one change to the books.
type request struct {
	// What of the books it concerns. A hold's account comes with the hold.
	transfer, hold string
	accounts       []string
	// apply does it. It may be called again, when the transaction is run again.
	apply func(d *ledger.Draft, now time.Time) error
	err   error
	// done is closed when err and what apply left behind are final. Until then they belong to the committer.
	done chan struct{}
	// taken is set by the committer when it takes the request up, or by the caller when it goes away before: by one of them.
	taken atomic.Bool
}

// take reports whether it is for the one who asks to decide what becomes of the request.
func (r *request) take() bool { return r.taken.CompareAndSwap(false, true) }

// committer writes the requests of all callers from one goroutine. What comes while a commit is on its way to the disk is the next batch: with
// one caller each commit has one request, and the more callers there are, the more share one. Nothing waits for a batch to fill.
type committer struct {
	queue chan *request
	once  sync.Once // of stop
	stop  chan struct{}
	ended chan struct{}
	// write applies requests in one transaction, and leaves in each what became of it. Its error is that of the transaction.
	write func(context.Context, []*request) error
}

func newCommitter(write func(context.Context, []*request) error) *committer {
	c := &committer{queue: make(chan *request, queueLength), stop: make(chan struct{}), ended: make(chan struct{}), write: write}
	go c.run()
	return c
}

// close ends the committer and waits for it. Requests that it has not taken up are not written.
func (c *committer) close() {
	c.once.Do(func() { close(c.stop) })
	<-c.ended
}

// do returns when the request is on the disk, or when it is sure that it will not be; an error that wraps database.ErrOutcomeUnknown says that
// neither is known.
func (c *committer) do(ctx context.Context, r *request) error {
	r.done = make(chan struct{})
	select {
	case c.queue <- r:
	case <-c.ended:
		return ErrClosed
	case <-ctx.Done():
		return fmt.Errorf("wait to write: %w", context.Cause(ctx))
	}
	select {
	case <-r.done:
		return r.err
	case <-c.ended:
		if r.take() {
			return ErrClosed
		}
		<-r.done // it was in the last batch
		return r.err
	case <-ctx.Done():
		if r.take() {
			return fmt.Errorf("wait to write: %w", context.Cause(ctx))
		}
	}
	select {
	case <-r.done:
		return r.err
	default: // the commit goes on without the caller
		return fmt.Errorf("wait for the commit: %w: %w", database.ErrOutcomeUnknown, context.Cause(ctx))
	}
}

func (c *committer) run() {
	defer close(c.ended)
	batch := make([]*request, 0, batchSize)
	for {
		select {
		case <-c.stop:
			return
		case r := <-c.queue:
			batch = c.collect(batch[:0], r)
			c.commit(batch)
			clear(batch) // what was answered is not kept
		}
	}
}

// collect takes up a request and all that wait behind it, as far as they have room in the batch. Those whose callers have gone are dropped.
func (c *committer) collect(batch []*request, next *request) []*request {
	for {
		if next.take() {
			batch = append(batch, next)
		}
		if len(batch) == batchSize {
			return batch
		}
		select {
		case next = <-c.queue:
		default:
			return batch
		}
	}
}

// commit writes a batch and answers its callers.
func (c *committer) commit(batch []*request) {
	ctx, cancel := context.WithTimeout(context.Background(), commitTimeout)
	defer cancel()
	if len(batch) == 0 {
		return
	}
	err := c.write(ctx, batch)
	if len(batch) > 1 && ofOne(ctx, err) {
		// Something in the batch is more than the database takes. The others shall not suffer from it.
		for _, r := range batch {
			r.answer(c.write(ctx, []*request{r}))
		}
		return
	}
	for _, r := range batch {
		r.answer(err)
	}
}

// ofOne reports whether a transaction may have failed because of one of its requests: nothing of it was written, and the database serves.
func ofOne(ctx context.Context, err error) bool {
	return err != nil && ctx.Err() == nil && !errors.Is(err, database.ErrOutcomeUnknown) && !database.Unavailable(err)
}

// answer lets the caller go on. err is the transaction's, which goes before what the rules said.
func (r *request) answer(err error) {
	if err != nil {
		r.err = err
	}
	close(r.done)
}
