package revocation_test

import (
	"context"
	"errors"
	"log/slog"
	"sync"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"go.uber.org/goleak"

	"github.com/countersign-mesh/countersign/services/login/internal/revocation"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

var errAway = errors.New("the database is away")

// database has nothing revoked, and can be away for each of its two readings.
type database struct {
	mu           sync.Mutex
	last, listed error
}

func (d *database) be(last, listed error) {
	d.mu.Lock()
	defer d.mu.Unlock()
	d.last, d.listed = last, listed
}

func (d *database) Revocations(context.Context, int64, time.Time) ([]revocation.Revocation, int64, error) {
	d.mu.Lock()
	defer d.mu.Unlock()
	return nil, 0, d.listed
}

func (d *database) LastRevocation(context.Context) (int64, error) {
	d.mu.Lock()
	defer d.mu.Unlock()
	return 0, d.last
}

// lines counts those of a log.
type lines struct{ atomic.Int64 }

func (l *lines) Write(p []byte) (int, error) { l.Add(1); return len(p), nil }

// followed runs a feed with a watcher, who has been told the first time, until the test is over. It returns how the watch ends, and the log.
func followed(t *testing.T, d *database) (ended <-chan error, log *lines) {
	t.Helper()
	log = &lines{}
	feed := revocation.New(d, time.Now, slog.New(slog.NewTextHandler(log, nil)))
	ctx, stop := context.WithCancel(t.Context())
	var running sync.WaitGroup
	t.Cleanup(func() { stop(); running.Wait() })
	running.Go(func() {
		if err := feed.Run(ctx); err != nil {
			t.Error(err)
		}
	})
	end := make(chan error, 1)
	running.Go(func() { end <- feed.Follow(ctx, func([]revocation.Revocation) error { return nil }) })
	synctest.Wait()
	return end, log
}

// A watcher tells from silence that this process hangs. So there is none, as long as the database answers.
func TestAWatcherHearsEachSecondThatNothingIsNew(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		feed := revocation.New(&database{}, time.Now, slog.New(slog.DiscardHandler))
		ctx, stop := context.WithTimeout(t.Context(), 10*time.Second+time.Millisecond)
		defer stop()
		told := 0
		err := feed.Follow(ctx, func([]revocation.Revocation) error { told++; return nil })
		if !errors.Is(err, context.DeadlineExceeded) || told != 11 {
			t.Errorf("told %d times in ten seconds, %v", told, err)
		}
	})
}

// A watcher whose database is away hears of nothing any more. It has to know: another replica may still have its own way to the database.
func TestAWatchEndsWithItsDatabase(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		d := &database{}
		ended, _ := followed(t, d)
		d.be(errAway, errAway)
		select {
		case err := <-ended:
			if !errors.Is(err, errAway) {
				t.Errorf("the watch ends with %v", err)
			}
		case <-time.After(time.Second):
			t.Error("after a second the watch goes on")
		}
	})
}

func TestADatabaseThatIsAwayDoesNotFillTheLog(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		d := &database{}
		ended, log := followed(t, d)
		d.be(errAway, nil)
		for _, test := range []struct {
			after time.Duration
			lines int64
		}{{time.Second, 1}, {8 * time.Second, 1}, {2 * time.Second, 2}, {20 * time.Second, 4}} {
			<-time.After(test.after)
			synctest.Wait()
			if lines := log.Load(); lines != test.lines {
				t.Errorf("another %v on the log has %d lines, want %d", test.after, lines, test.lines)
			}
		}
		select {
		case err := <-ended:
			t.Errorf("the watch ended: %v", err)
		default:
		}
	})
}
