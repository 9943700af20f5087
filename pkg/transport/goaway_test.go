package transport_test

import (
	"context"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"

	"github.com/countersign-mesh/countersign/pkg/transport"
)

// callers make calls until ctx ends, one after another and each in its own manner, and returns how many there were and the first that failed.
func callers(ctx context.Context, conn *grpc.ClientConn, pause time.Duration) (calls int64, failed error) {
	var all sync.WaitGroup
	var count atomic.Int64
	var first atomic.Pointer[error]
	for _, long := range []time.Duration{0, 0, 20 * time.Millisecond, time.Second} {
		all.Go(func() {
			for ctx.Err() == nil {
				if err := wait(context.WithoutCancel(ctx), conn, long); err != nil {
					first.CompareAndSwap(nil, &err)
				}
				count.Add(1)
				pass(pause)
			}
		})
	}
	all.Wait()
	if err := first.Load(); err != nil {
		failed = *err
	}
	return count.Load(), failed
}

// TestCallersNeverNoticeAGoAway asks a connection to go away, or has its client leave it, while calls, a stream and large messages are on it. A caller that
// never tries again notices nothing: no call fails, those in flight end where they began, and none begins on the old connection after the new one is there.
func TestCallersNeverNoticeAGoAway(t *testing.T) {
	t.Parallel()
	for name, who := range ends() {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			w := newWorld(t)
			callersNeverNotice(t, w, who(w))
		})
	}
}

// ends are the two ends of a connection, each of which can begin its renewal.
func ends() map[string]func(w *world) *transport.Registry {
	return map[string]func(w *world) *transport.Registry{
		"the server asks for it":      func(w *world) *transport.Registry { return w.inbound },
		"the client leaves by itself": func(w *world) *transport.Registry { return w.outbound },
	}
}

func callersNeverNotice(t *testing.T, w *world, end *transport.Registry) {
	t.Helper()
	d := openDesk(t, w.inbound.Server(), true)
	conn := d.client(t, w.outbound.Client(w.id("/ledger")))
	conn.Connect()
	ctx, stop := context.WithCancel(t.Context())
	var calling sync.WaitGroup
	var calls int64
	var failed error
	calling.Go(func() { calls, failed = callers(ctx, conn, time.Millisecond) })
	const rounds = 10
	for range rounds {
		feeding, enough := context.WithCancel(t.Context())
		large := feed(feeding, t, conn, 1<<18)
		slow := begin(t, conn, 50*time.Millisecond)
		open := w.inbound.Conns()
		last := open[len(open)-1]
		end.GoAway()
		eventually(t, "there is another connection", func() bool { return newest(w.inbound).Seq > last.Seq })
		had := find(w.inbound, last.Seq).Calls
		if err := <-slow; err != nil {
			t.Errorf("a call in flight: %v", err)
		}
		if got := find(w.inbound, last.Seq).Calls; got != had || had == 0 {
			t.Errorf("the old connection had %d calls when the next one was there, and %d later", had, got)
		}
		select {
		case err := <-large:
			t.Errorf("a stream in flight: %v", err)
		default:
		}
		eventuallyEnds(t, large, enough)
	}
	stop()
	calling.Wait()
	if failed != nil {
		t.Errorf("of %d calls one failed: %v", calls, failed)
	}
	t.Logf("%d calls over %d connections", calls, rounds+1)
}

// eventuallyEnds ends a stream that is under way.
func eventuallyEnds(t *testing.T, stream <-chan error, end context.CancelFunc) {
	t.Helper()
	end()
	if err := <-stream; status.Code(err) != codes.Canceled {
		t.Errorf("the stream: %v", err)
	}
}

// newest returns the last connection of a registry, or none.
func newest(r *transport.Registry) transport.Conn {
	if all := r.Conns(); len(all) > 0 {
		return all[len(all)-1]
	}
	return transport.Conn{}
}

// find returns the connection with this number, or none.
func find(r *transport.Registry, seq uint64) transport.Conn {
	for _, c := range r.Conns() {
		if c.Seq == seq {
			return c
		}
	}
	return transport.Conn{}
}

// A connection that nobody uses ends when it is asked to go away, and the next call makes another.
func TestAnIdleConnectionGoesAway(t *testing.T) {
	t.Parallel()
	for name, who := range ends() {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			w := newWorld(t)
			conn := openDesk(t, w.inbound.Server(), true).client(t, w.outbound.Client(w.id("/ledger")))
			for range 10 {
				if err := wait(t.Context(), conn, 0); err != nil {
					t.Fatal(err)
				}
				seq := newest(w.inbound).Seq
				who(w).GoAway()
				eventually(t, "the connection ends", func() bool { return find(w.inbound, seq).Seq == 0 })
			}
		})
	}
}
