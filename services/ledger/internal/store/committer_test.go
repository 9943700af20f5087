package store

import (
	"context"
	"database/sql/driver"
	"errors"
	"fmt"
	"slices"
	"testing"
	"testing/synctest"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/countersign-mesh/countersign/pkg/database"
)

// disk stands for the database: each commit waits until the test lets it end.
type disk struct {
	batches [][]string
	commits chan error // each receive is the end of a commit
	written []string
}

func (d *disk) write(ctx context.Context, batch []*request) error {
	var ids []string
	for _, r := range batch {
		ids = append(ids, r.transfer)
	}
	d.batches = append(d.batches, ids)
	select {
	case err := <-d.commits:
		if err == nil {
			d.written = append(d.written, ids...)
		}
		return err
	case <-ctx.Done():
		return fmt.Errorf("commit: %w: %w", database.ErrOutcomeUnknown, context.Cause(ctx))
	}
}

// onDisk runs a test of a committer in a bubble with a clock of its own. The committer is closed when f returns.
func onDisk(t *testing.T, f func(t *testing.T, d *disk, c *committer)) {
	t.Helper()
	synctest.Test(t, func(t *testing.T) {
		d := &disk{commits: make(chan error)}
		c := newCommitter(d.write)
		f(t, d, c)
		c.close()
	})
}

// send lets a caller ask for something, and returns its answer to come.
func send(ctx context.Context, c *committer, id string) <-chan error {
	answer := make(chan error, 1)
	go func() { answer <- c.do(ctx, &request{transfer: id}) }()
	synctest.Wait()
	return answer
}

// mustWait checks that a caller has no answer yet.
func mustWait(t *testing.T, answers ...<-chan error) {
	t.Helper()
	synctest.Wait()
	for i, answer := range answers {
		if len(answer) > 0 {
			t.Errorf("caller %d has its answer too early: %v", i, <-answer)
		}
	}
}

// end ends the commit that is running.
func (d *disk) end(err error) {
	d.commits <- err
	synctest.Wait()
}

func TestWhatComesDuringACommitIsTheNextBatch(t *testing.T) {
	t.Parallel()
	onDisk(t, func(t *testing.T, d *disk, c *committer) {
		answers := []<-chan error{send(t.Context(), c, "a"), send(t.Context(), c, "b"), send(t.Context(), c, "c")}
		mustWait(t, answers...) // nobody is answered before the commit
		d.end(nil)
		if err := <-answers[0]; err != nil {
			t.Error(err)
		}
		mustWait(t, answers[1:]...)
		d.end(nil)
		if err := errors.Join(<-answers[1], <-answers[2]); err != nil {
			t.Error(err)
		}
		if diff := cmp.Diff([][]string{{"a"}, {"b", "c"}}, d.batches); diff != "" {
			t.Errorf("batches (-want +got):\n%s", diff)
		}
	})
}

func TestABatchIsBounded(t *testing.T) {
	t.Parallel()
	onDisk(t, func(t *testing.T, d *disk, c *committer) {
		answers := []<-chan error{send(t.Context(), c, "first")}
		for i := range batchSize + 1 {
			answers = append(answers, send(t.Context(), c, fmt.Sprint(i)))
		}
		for range 3 {
			d.end(nil)
		}
		for _, answer := range answers {
			if err := <-answer; err != nil {
				t.Error(err)
			}
		}
		var sizes []int
		for _, b := range d.batches {
			sizes = append(sizes, len(b))
		}
		if diff := cmp.Diff([]int{1, batchSize, 1}, sizes); diff != "" {
			t.Errorf("sizes of batches (-want +got):\n%s", diff)
		}
	})
}

// A caller that gives up before its request was taken up leaves nothing behind, and knows it.
func TestACallerThatLeavesTheQueueIsNotWritten(t *testing.T) {
	t.Parallel()
	onDisk(t, func(t *testing.T, d *disk, c *committer) {
		gaveUp := errors.New("gave up")
		ctx, cancel := context.WithCancelCause(t.Context())
		first, left, last := send(t.Context(), c, "first"), send(ctx, c, "left"), send(t.Context(), c, "last")
		cancel(gaveUp)
		if err := <-left; !errors.Is(err, gaveUp) || errors.Is(err, database.ErrOutcomeUnknown) {
			t.Errorf("the caller that left = %v; want the cause, and nothing unknown", err)
		}
		d.end(nil)
		d.end(nil)
		if err := errors.Join(<-first, <-last); err != nil {
			t.Error(err)
		}
		if diff := cmp.Diff([]string{"first", "last"}, d.written); diff != "" {
			t.Errorf("written (-want +got):\n%s", diff)
		}
	})
}

func TestABatchOfCallersThatLeftIsNone(t *testing.T) {
	t.Parallel()
	onDisk(t, func(t *testing.T, d *disk, c *committer) {
		ctx, cancel := context.WithCancel(t.Context())
		first, left := send(t.Context(), c, "first"), send(ctx, c, "left")
		cancel()
		if err := <-left; err == nil {
			t.Error("a caller that left was written")
		}
		d.end(nil)
		if err := <-first; err != nil || len(d.batches) != 1 {
			t.Errorf("first = %v, and %d batches; want one", err, len(d.batches))
		}
	})
}

// A caller that gives up while its commit is on the way is told that nobody knows, and the commit goes on: it is for others too.
func TestACallerThatLeavesACommitDoesNotKnow(t *testing.T) {
	t.Parallel()
	onDisk(t, func(t *testing.T, d *disk, c *committer) {
		first := send(t.Context(), c, "first")
		ctx, cancel := context.WithTimeout(t.Context(), time.Second)
		defer cancel()
		impatient, patient := send(ctx, c, "impatient"), send(t.Context(), c, "patient")
		d.end(nil)
		time.Sleep(2 * time.Second) //nolint:forbidigo // in the bubble's time
		if err := <-impatient; !errors.Is(err, database.ErrOutcomeUnknown) || !errors.Is(err, context.DeadlineExceeded) {
			t.Errorf("the impatient caller = %v; want an unknown outcome because of the deadline", err)
		}
		d.end(nil)
		if err := errors.Join(<-first, <-patient); err != nil {
			t.Error(err)
		}
		if !slices.Contains(d.written, "impatient") {
			t.Error("the commit ended with one of its callers")
		}
	})
}

func TestACommitIsBounded(t *testing.T) {
	t.Parallel()
	onDisk(t, func(t *testing.T, d *disk, c *committer) {
		answer := send(t.Context(), c, "a")
		time.Sleep(commitTimeout + time.Second) //nolint:forbidigo // in the bubble's time
		if err := <-answer; !errors.Is(err, database.ErrOutcomeUnknown) {
			t.Errorf("a commit that did not end = %v, want an unknown outcome", err)
		}
		next := send(t.Context(), c, "b")
		d.end(nil)
		if err := <-next; err != nil {
			t.Errorf("the next one = %v", err)
		}
	})
}

// What a transaction's error means for those who shared it.
func TestTheErrorOfABatch(t *testing.T) {
	t.Parallel()
	poison := errors.New("constraint failed")
	unknown := fmt.Errorf("commit: %w", database.ErrOutcomeUnknown)
	tests := map[string]struct {
		ends    []error // of the transactions after the first one, in which nothing else is
		want    map[string]error
		batches [][]string
	}{
		"an unknown outcome is that of all":       {[]error{unknown}, map[string]error{"a": unknown, "b": unknown, "c": unknown}, [][]string{{"a", "b", "c"}}},
		"a database that is away is that for all": {[]error{driver.ErrBadConn}, map[string]error{"a": driver.ErrBadConn, "b": driver.ErrBadConn, "c": driver.ErrBadConn}, [][]string{{"a", "b", "c"}}},
		"what one request causes is its own":      {[]error{poison, nil, poison, nil}, map[string]error{"a": nil, "b": poison, "c": nil}, [][]string{{"a", "b", "c"}, {"a"}, {"b"}, {"c"}}},
		"one by one each has an outcome":          {[]error{poison, unknown, driver.ErrBadConn, nil}, map[string]error{"a": unknown, "b": driver.ErrBadConn, "c": nil}, [][]string{{"a", "b", "c"}, {"a"}, {"b"}, {"c"}}},
	}
	for name, tt := range tests {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			onDisk(t, func(t *testing.T, d *disk, c *committer) {
				first := send(t.Context(), c, "first")
				answers := make(map[string]<-chan error)
				for _, id := range []string{"a", "b", "c"} {
					answers[id] = send(t.Context(), c, id)
				}
				d.end(nil)
				for _, err := range tt.ends {
					d.end(err)
				}
				if err := <-first; err != nil {
					t.Error(err)
				}
				for id, want := range tt.want {
					if err := <-answers[id]; !errors.Is(err, want) {
						t.Errorf("%s = %v, want %v", id, err, want)
					}
				}
				if diff := cmp.Diff(tt.batches, d.batches[1:]); diff != "" {
					t.Errorf("batches (-want +got):\n%s", diff)
				}
			})
		})
	}
}

func TestCloseWaitsForTheCommitAndTakesNoMore(t *testing.T) {
	t.Parallel()
	onDisk(t, func(t *testing.T, d *disk, c *committer) {
		running, waiting := send(t.Context(), c, "running"), send(t.Context(), c, "waiting")
		closed := make(chan struct{})
		go func() { c.close(); close(closed) }()
		mustWait(t, running, waiting)
		select {
		case <-closed:
			t.Error("closed during a commit")
		default:
		}
		d.end(nil)
		select { // which of the two the committer saw first, the request or the end, is left to chance
		case err := <-waiting:
			if !errors.Is(err, ErrClosed) {
				t.Errorf("the waiting caller = %v, want ErrClosed", err)
			}
		case d.commits <- nil:
			if err := <-waiting; err != nil {
				t.Error(err)
			}
		}
		<-closed
		if err := <-running; err != nil {
			t.Errorf("the running commit = %v", err)
		}
		if err := <-send(t.Context(), c, "late"); !errors.Is(err, ErrClosed) {
			t.Errorf("a late caller = %v, want ErrClosed", err)
		}
	})
}

func TestWhoFindsTheQueueFullWaitsInFrontOfIt(t *testing.T) {
	t.Parallel()
	onDisk(t, func(t *testing.T, d *disk, c *committer) {
		answers := []<-chan error{send(t.Context(), c, "running")}
		for i := range queueLength {
			answers = append(answers, send(t.Context(), c, fmt.Sprint(i)))
		}
		ctx, cancel := context.WithTimeout(t.Context(), time.Second)
		defer cancel()
		outside := send(ctx, c, "outside")
		time.Sleep(2 * time.Second) //nolint:forbidigo // in the bubble's time
		if err := <-outside; !errors.Is(err, context.DeadlineExceeded) || errors.Is(err, database.ErrOutcomeUnknown) {
			t.Errorf("who waited in front of the queue = %v; want its deadline, and nothing unknown", err)
		}
		for range 1 + queueLength/batchSize {
			d.end(nil)
		}
		for _, answer := range answers {
			if err := <-answer; err != nil {
				t.Fatal(err)
			}
		}
		if slices.Contains(d.written, "outside") {
			t.Error("it was written all the same")
		}
	})
}
