package mesh_test

import (
	"context"
	"fmt"
	"math/rand/v2"
	"strconv"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"
	"google.golang.org/protobuf/types/known/wrapperspb"

	"github.com/countersign-mesh/countersign/pkg/mesh"
)

// Whatever becomes of a call, its slot comes back. Not beside other tests: it leaves them little of the machine.
func TestEverySlotComesBack(t *testing.T) { //nolint:paralleltest // see above
	const places = 2
	metrics := prometheus.NewRegistry()
	w := newWorld(t, []string{"/good"}, mesh.WithMaxCalls(places), mesh.WithMaxStreams(places), mesh.WithMetrics(metrics), mesh.WithLeastDeadline(1))
	w.echo.accepted = func(ctx context.Context) {
		switch rand.IntN(4) {
		case 0:
			panic("in a handler")
		case 1, 2:
			<-ctx.Done() // until the caller goes, or its deadline passes
		}
	}
	const callers, each = 20, 500
	var calling sync.WaitGroup
	for range callers {
		c := w.caller(t, w.ca.SVID(t, "/good"))
		calling.Go(func() {
			for n := range each {
				ctx, cancel := context.WithTimeout(t.Context(), rand.N(20*time.Millisecond))
				if n%10 == 0 {
					time.AfterFunc(rand.N(time.Millisecond), cancel)
				}
				if n%2 == 0 {
					_ = say(ctx, c.conn)
				} else {
					_ = converse(ctx, c.conn)
				}
				cancel()
			}
			_ = c.conn.Close()
		})
	}
	calling.Wait()
	for _, kind := range []string{"unary", "stream"} {
		eventually(t, "slots come back", func() bool {
			return series(t, metrics, fmt.Sprintf("countersign_calls_in_flight{kind=%q}", kind)) == 0
		})
		if series(t, metrics, fmt.Sprintf("countersign_calls_refused_total{kind=%q,reason=\"full\"}", kind)) == 0 {
			t.Errorf("no %s was refused, so the slots were never all taken", kind)
		}
	}
	w.echo.accepted = nil
	c := w.caller(t, w.ca.SVID(t, "/good"))
	for i := range places {
		t.Cleanup(w.occupy(t, c, strconv.Itoa(i), call{method: unaryMethod, unary: waitUnary}))
		t.Cleanup(w.occupy(t, c, "s"+strconv.Itoa(i), call{method: bothMethod, serve: idle, use: sayAndReceive}))
	}
}

// ATTACKS 53: five times the load that a server can take. What it takes on it does as well as without the rest, and does all of it for somebody: it
// begins nothing that it does not finish. Not beside other tests: it compares times.
func TestFiveTimesTheLoad(t *testing.T) { //nolint:paralleltest // see above
	const (
		places = 4
		rounds = 6
		each   = 60 // calls that are done in a round
	)
	metrics := prometheus.NewRegistry()
	w := newWorld(t, []string{"/good", "/other"}, mesh.WithMaxCalls(places), mesh.WithMetrics(metrics))
	var inside, most, begun atomic.Int32
	w.echo.accepted = func(context.Context) {
		begun.Add(1)
		for n := inside.Add(1); ; {
			if now := most.Load(); n <= now || most.CompareAndSwap(now, n) {
				break
			}
		}
		defer inside.Add(-1)
		<-time.After(2 * time.Millisecond) // it waits for a disk, say
	}
	callers := make([]*caller, 5*places)
	for i := range callers {
		callers[i] = w.caller(t, w.ca.SVID(t, []string{"/good", "/good", "/good", "/other"}[i%4]))
		if err := say(t.Context(), callers[i].conn); err != nil { // connects
			t.Fatal(err)
		}
	}
	begun.Store(0)
	// In turns, so that whatever else the machine does falls on both alike.
	var alone, crowded turn
	for range rounds {
		alone.add(drive(t, callers[:places], each))
		crowded.add(drive(t, callers, each))
	}
	if alone.refused != 0 {
		t.Errorf("%d calls of no more than there are places were refused", alone.refused)
	}
	if crowded.refused == 0 || most.Load() > places {
		t.Errorf("of five times the load %d calls were refused, and %d were in handlers at once", crowded.refused, most.Load())
	}
	if done := alone.done + crowded.done; int(begun.Load()) != done {
		t.Errorf("%d calls were begun, and %d answered", begun.Load(), done)
	}
	goodput := alone.took.Seconds() / crowded.took.Seconds() * float64(crowded.done) / float64(alone.done)
	if goodput < 0.25 {
		t.Errorf("goodput under five times the load is %.2f of what it is without", goodput)
	}
	t.Logf("goodput %.2f of what it is without overload; %d calls done, %d refused; a refusal takes %.2f of the time of an answer",
		goodput, crowded.done, crowded.refused, crowded.refusing.Seconds()/float64(crowded.refused)/(crowded.answering.Seconds()/float64(crowded.done)))
}

// turn is what became of some calls.
type turn struct {
	done, refused             int
	took, answering, refusing time.Duration
}

func (a *turn) add(b turn) {
	a.done, a.refused, a.took = a.done+b.done, a.refused+b.refused, a.took+b.took
	a.answering, a.refusing = a.answering+b.answering, a.refusing+b.refusing
}

// drive has each caller make one call after another, whatever it is told, until so many are done.
func drive(t *testing.T, callers []*caller, enough int) turn {
	t.Helper()
	var (
		mu      sync.Mutex
		calling sync.WaitGroup
		all     turn
	)
	begin := time.Now()
	for _, c := range callers {
		calling.Go(func() {
			for more := true; more; {
				sent := time.Now()
				answer := new(wrapperspb.BytesValue)
				err := c.conn.Invoke(t.Context(), unaryMethod, small(), answer)
				took := time.Since(sent)
				mu.Lock()
				switch _, delay := explained(err); {
				case err == nil && string(answer.GetValue()) == "hello":
					all.done, all.answering = all.done+1, all.answering+took
				case status.Code(err) == codes.ResourceExhausted && delay > 0:
					all.refused, all.refusing = all.refused+1, all.refusing+took
				default:
					t.Errorf("a call ended with %q, %v", answer.GetValue(), err)
				}
				more = all.done < enough
				mu.Unlock()
			}
		})
	}
	calling.Wait()
	all.took = time.Since(begin)
	return all
}
