package audit

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"slices"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"go.uber.org/goleak"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"

	auditv1 "github.com/countersign-mesh/countersign/proto/gen/mesh/audit/v1"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

// start runs a queue that sends to s until stop is called, which waits for it.
func start(t *testing.T, s *service, opts ...Option) (q *Queue, stop func()) {
	t.Helper()
	q = NewQueue(s, append([]Option{WithLogger(slog.New(slog.DiscardHandler))}, opts...)...)
	ctx, cancel := context.WithCancel(t.Context())
	done := make(chan error, 1)
	running := q
	go func() { done <- running.Run(ctx) }()
	return q, func() {
		t.Helper()
		cancel()
		if err := <-done; err != nil {
			t.Errorf("Run: %v", err)
		}
	}
}

func decision(name string, allowed bool) Decision {
	return Decision{ID: NewID(), Time: time.Now(), Method: name, Allowed: allowed}
}

// pass lets time pass, in the bubble of a synctest.
func pass(d time.Duration) { time.Sleep(d) } //nolint:forbidigo // a bubble's time, which nobody waits for

// names returns "1" … "n".
func names(first, last int) []string {
	var out []string
	for i := first; i <= last; i++ {
		out = append(out, fmt.Sprint(i))
	}
	return out
}

func record(q *Queue, allowed bool, names ...string) {
	for _, name := range names {
		q.Record(decision(name, allowed))
	}
}

func want(t *testing.T, s *service, texts ...string) {
	t.Helper()
	if got := s.texts(); !slices.Equal(got, texts) {
		t.Errorf("stored %v, want %v", got, texts)
	}
}

func TestRecordsAreSentInOrderAndInBatches(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		s := &service{}
		q, stop := start(t, s, WithBatch(10, 100*time.Millisecond))
		synctest.Wait()
		record(q, true, names(1, 25)...)
		synctest.Wait()
		want(t, s, names(1, 20)...)
		pass(100 * time.Millisecond)
		synctest.Wait()
		want(t, s, names(1, 25)...)
		if got := q.Stats(); got != (Stats{Sent: 25}) {
			t.Errorf("stats %+v", got)
		}
		if sizes := s.sizes(); !slices.Equal(sizes, []int{10, 10, 5}) {
			t.Errorf("batches of %v, want 10, 10 and 5", sizes)
		}
		stop()
		if s.streams != 1 {
			t.Errorf("%d streams, want one", s.streams)
		}
	})
}

func TestARecordWaitsNoLongerThanTheDelay(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		s := &service{}
		q, stop := start(t, s)
		defer stop()
		for i := range 5 {
			pass(730 * time.Millisecond)
			record(q, true, fmt.Sprint(i+1))
			pass(defaultDelay)
			synctest.Wait()
			want(t, s, names(1, i+1)...)
		}
	})
}

func TestWhatWasNotAcknowledgedIsSentAgainAndStoredOnce(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		s := &service{cut: 2}
		q, stop := start(t, s, WithBatch(10, time.Second))
		record(q, true, names(1, 35)...)
		synctest.Wait()
		if got := q.Stats(); got.Queued != 25 || status.Code(got.Err) != codes.Unavailable {
			t.Errorf("after the cut: %+v, want 25 queued and UNAVAILABLE", got)
		}
		pass(minBackoff)
		synctest.Wait()
		want(t, s, names(1, 35)...)
		if sizes := s.sizes(); !slices.Equal(sizes, []int{10, 10, 10, 10, 5}) {
			t.Errorf("batches of %v: the second batch was not sent again", sizes)
		}
		if got := q.Stats(); got != (Stats{Sent: 35}) {
			t.Errorf("stats %+v", got)
		}
		stop()
	})
}

func TestAServiceThatIsDownIsTriedEverMoreSeldom(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		s := &service{down: true}
		q, stop := start(t, s)
		record(q, true, "1")
		pass(10 * time.Minute)
		tried := 0
		s.set(func() { tried, s.down = s.streams, false })
		if tried < 120 || tried > 260 {
			t.Errorf("tried %d times in 10 min, want one in 2.5 to 5 s", tried)
		}
		pass(maxBackoff)
		synctest.Wait()
		want(t, s, "1")
		stop()
	})
}

func TestAServiceThatFallsSilentIsLeft(t *testing.T) {
	t.Parallel()
	for name, silence := range map[string]*service{"does not acknowledge": {mute: true}, "does not read": {stalled: true}} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			synctest.Test(t, func(t *testing.T) {
				q, stop := start(t, silence)
				record(q, true, "1", "2")
				pass(ackTimeout + time.Millisecond)
				synctest.Wait()
				if err := q.Stats().Err; !errors.Is(err, errSilent) {
					t.Errorf("error %v, want %v", err, errSilent)
				}
				silence.set(func() { silence.mute, silence.stalled = false, false })
				pass(time.Second)
				synctest.Wait()
				want(t, silence, "1", "2")
				pass(2 * ackTimeout) // nothing is awaited: silence is in order
				if err := q.Stats().Err; err != nil {
					t.Errorf("idle stream failed: %v", err)
				}
				stop()
			})
		})
	}
}

func TestTheLastFlushSendsWhatIsLeft(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		s := &service{}
		q, stop := start(t, s, WithBatch(10, time.Hour))
		synctest.Wait()
		record(q, true, names(1, 25)...)
		stop()
		want(t, s, names(1, 25)...)
	})
}

func TestTheLastFlushOutlivesAFailure(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		s := &service{down: true}
		q, stop := start(t, s)
		record(q, true, "1")
		pass(time.Minute) // the pace is down to one try in 5 s
		go func() {
			pass(time.Second)
			s.set(func() { s.down = false })
		}()
		stop()
		want(t, s, "1")
	})
}

func TestTheLastFlushIsBounded(t *testing.T) {
	t.Parallel()
	for name, s := range map[string]*service{"down": {down: true}, "mute": {mute: true}, "stalled": {stalled: true}} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			synctest.Test(t, func(t *testing.T) {
				q, stop := start(t, s)
				record(q, true, "1")
				synctest.Wait()
				begin := time.Now()
				stop()
				if took := time.Since(begin); took != defaultFlushTimeout {
					t.Errorf("took %v, want %v", took, defaultFlushTimeout)
				}
				if got := q.Stats(); got.Queued != 1 || got.Sent != 0 {
					t.Errorf("stats %+v, want the record still queued", got)
				}
			})
		})
	}
}

func TestARefusedRecordDoesNotHoldUpTheOthers(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		s := &service{refuse: func(r *auditv1.Record) bool { return text(r) == "7" || text(r) == "12" }}
		q, stop := start(t, s, WithBatch(10, time.Second))
		record(q, true, names(1, 20)...)
		pass(time.Minute)
		record(q, true, names(21, 30)...)
		synctest.Wait()
		want(t, s, slices.Concat(names(1, 6), []string{"lost 1"}, names(8, 11), []string{"lost 1"}, names(13, 30))...)
		if got := q.Stats(); got != (Stats{Sent: 30, Lost: 2}) {
			t.Errorf("stats %+v", got)
		}
		if sizes := s.sizes(); sizes[len(sizes)-1] != 10 {
			t.Errorf("batches of %v: the last should be whole again", sizes)
		}
		stop()
	})
}

func TestAnAcknowledgementOfWhatWasNotSentIsNotBelieved(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		s := &service{overstate: 5}
		q, stop := start(t, s)
		record(q, true, "1")
		pass(defaultDelay)
		synctest.Wait()
		got := q.Stats()
		if got.Err == nil || !strings.Contains(got.Err.Error(), "acknowledged record 6; only 1 were sent") || got.Queued != 1 {
			t.Errorf("stats %+v", got)
		}
		s.set(func() { s.overstate = 0 })
		stop()
		want(t, s, "1")
	})
}
