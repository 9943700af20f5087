package audit

import (
	"context"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"math/rand/v2"
	"sync"
	"time"

	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"

	auditv1 "github.com/countersign-mesh/countersign/proto/gen/mesh/audit/v1"
)

// stream is one call of RecordDecisions.
type stream = grpc.BidiStreamingClient[auditv1.RecordDecisionsRequest, auditv1.RecordDecisionsResponse]

var (
	errSilent = errors.New("audit service acknowledged nothing for too long")
	errClosed = errors.New("audit service ended the stream")
)

// Run sends what is queued until ctx ends, over one stream that it opens again whenever it fails. It then sends what is left,
// for as long as WithFlushTimeout allows, and returns nil; what could not be sent is logged. Run is to be called once.
func (q *Queue) Run(ctx context.Context) error {
	// Streams outlive ctx by the time of the last flush.
	work, cancel := context.WithCancel(context.WithoutCancel(ctx))
	var flush sync.WaitGroup
	defer flush.Wait()
	defer cancel()
	flush.Go(func() { q.bound(ctx, work, cancel) })

	backoff := minBackoff
	for {
		before := q.Stats().Sent
		err := q.stream(ctx, work)
		stats := q.Stats()
		if err == nil || ctx.Err() != nil && q.empty() {
			return nil
		}
		if stats.Sent > before {
			backoff = minBackoff
		}
		q.failed(ctx, err, stats)
		if !wait(ctx, work, backoff/2+rand.N(backoff/2)) { //nolint:gosec // G404: jitter is no secret
			q.log.ErrorContext(ctx, "decisions were not stored before the end", "queued", q.Stats().Queued, "error", err)
			return nil
		}
		backoff = min(2*backoff, maxBackoff)
		if ctx.Err() != nil {
			backoff = minBackoff
		}
	}
}

// bound ends work when the last flush, which begins when ctx ends, takes too long.
func (q *Queue) bound(ctx, work context.Context, cancel func()) {
	select {
	case <-work.Done():
		return
	case <-ctx.Done():
	}
	select {
	case <-work.Done():
	case <-time.After(q.flushTimeout):
		cancel()
	}
}

// wait waits for d, less when ctx ends meanwhile. It reports false when work has ended.
func wait(ctx, work context.Context, d time.Duration) bool {
	timer := time.NewTimer(d)
	defer timer.Stop()
	done := ctx.Done()
	if ctx.Err() != nil {
		done = nil // already in the last flush: keep the pace
	}
	select {
	case <-timer.C:
	case <-done:
	case <-work.Done():
	}
	return work.Err() == nil
}

// failed notes why a stream ended, and makes everything that is not acknowledged due to be sent again. Every stream ends with
// its connection, which is renewed well before an SVID expires, so one end is nothing; the second in a row is a warning, and
// those that follow are for who looks for them.
func (q *Queue) failed(ctx context.Context, err error, before Stats) {
	q.mu.Lock()
	defer q.mu.Unlock()
	q.failures++
	level := slog.LevelDebug
	if q.failures == 2 {
		level = slog.LevelWarn
	}
	q.log.Log(ctx, level, "audit stream failed", "error", err, "queued", before.Queued, "lost", before.Lost)
	if status.Code(err) == codes.InvalidArgument {
		q.refused(ctx, err)
	}
	q.err = err
	q.sent = q.acked
}

// refused deals with a record that the audit service does not take, which would hold up all that come after it: those that
// await acknowledgement are sent again one by one, and when there was but one of them, its place is taken by a gap.
func (q *Queue) refused(ctx context.Context, err error) {
	if q.sent-q.acked != 1 {
		q.suspect = max(q.suspect, q.sent)
		return
	}
	e := q.slot(q.sent)
	if e.gap != nil {
		return
	}
	q.log.ErrorContext(ctx, "audit service refused a decision", "error", err, "decision_id", e.decision.ID.String())
	lost := gap{}
	lost.add(e.decision.Time)
	*e = entry{gap: &lost}
	q.lost++
}

// stream opens a stream and sends on it until it fails. It returns nil when ctx has ended and all is stored.
func (q *Queue) stream(ctx, work context.Context) error {
	streamCtx, cancel := context.WithCancelCause(work)
	defer cancel(nil)
	s, err := q.client.RecordDecisions(streamCtx)
	if err != nil {
		return fmt.Errorf("open audit stream: %w", err)
	}
	watchdog := time.AfterFunc(ackTimeout, func() { cancel(errSilent) })
	defer watchdog.Stop()
	watchdog.Stop()
	q.watch(watchdog)

	ended := make(chan error, 1)
	var receiver sync.WaitGroup
	defer receiver.Wait()
	defer cancel(nil)
	receiver.Go(func() { ended <- q.receive(s) })
	err = q.send(ctx, s, ended)
	if cause := context.Cause(streamCtx); errors.Is(cause, errSilent) {
		return cause
	}
	return err
}

// watch makes watchdog the one that acknowledgements keep quiet.
func (q *Queue) watch(watchdog *time.Timer) {
	q.mu.Lock()
	defer q.mu.Unlock()
	q.watchdog = watchdog
}

// receive takes acknowledgements until the stream ends, and returns why.
func (q *Queue) receive(s stream) error {
	for {
		response, err := s.Recv()
		if errors.Is(err, io.EOF) {
			return errClosed
		}
		if err != nil {
			return fmt.Errorf("audit stream: %w", err)
		}
		if err := q.acknowledge(response.GetStoredSequence()); err != nil {
			return err
		}
	}
}

// send sends batches until the stream ends, and returns why: nil when ctx has ended and all is stored.
func (q *Queue) send(ctx context.Context, s stream, ended <-chan error) error {
	timer := time.NewTimer(q.delay)
	defer timer.Stop()
	done, ticking, due := ctx.Done(), true, true // what waited for the stream has waited long enough
	for {
		for n := q.ready(due); n > 0; n = q.ready(due) {
			if err := s.Send(q.batchOf(n)); err != nil {
				return sendError(err, ended)
			}
		}
		due = ctx.Err() != nil
		if due && q.empty() {
			return finish(s, ended)
		}
		if !ticking && q.ready(true) > 0 {
			timer.Reset(q.delay)
			ticking = true
		}
		select {
		case <-q.wake:
		case <-q.progress:
		case <-timer.C:
			ticking, due = false, true
		case <-done:
			done, due = nil, true
		case err := <-ended:
			return err
		}
	}
}

// sendError returns why a stream ended: gRPC tells the sender only that it did (io.EOF), and the receiver the rest.
func sendError(err error, ended <-chan error) error {
	if errors.Is(err, io.EOF) {
		return <-ended
	}
	return fmt.Errorf("send records: %w", err)
}

// finish ends a stream on which all was acknowledged, and waits for the service to end it too, so that it sees an orderly end.
func finish(s stream, ended <-chan error) error {
	if err := s.CloseSend(); err != nil {
		return fmt.Errorf("close audit stream: %w", err)
	}
	<-ended //nolint:errcheck // however it ends, all is stored
	return nil
}

// ready returns how many records are to be sent now: full batches, and what there is when it is due.
func (q *Queue) ready(due bool) int {
	q.mu.Lock()
	defer q.mu.Unlock()
	waiting := int(q.last - q.sent)
	switch {
	case q.acked < q.suspect:
		if q.sent > q.acked {
			return 0
		}
		return min(waiting, 1)
	case due || waiting >= q.batch:
		return min(waiting, q.batch)
	default:
		return 0
	}
}

// batchOf takes the next n records, which are then awaiting acknowledgement.
func (q *Queue) batchOf(n int) *auditv1.RecordDecisionsRequest {
	q.mu.Lock()
	first := q.sent + 1
	q.mu.Unlock()
	request := &auditv1.RecordDecisionsRequest{RunId: q.runID, Records: make([]*auditv1.Record, n)}
	for i := range request.Records {
		sequence := first + int64(i)
		e := q.slot(sequence)
		if e.gap != nil && !e.gap.logged {
			q.log.Error("decisions were lost", "count", e.gap.count, "from", e.gap.start, "to", e.gap.end)
			e.gap.logged = true
		}
		request.Records[i] = e.record(sequence)
	}
	q.mu.Lock()
	defer q.mu.Unlock()
	if q.sent == q.acked {
		q.watchdog.Reset(ackTimeout)
	}
	q.sent += int64(n)
	return request
}

// empty reports whether everything is stored, lost decisions' gaps included.
func (q *Queue) empty() bool {
	q.mu.Lock()
	defer q.mu.Unlock()
	return q.last == q.acked && q.pending.count == 0
}
