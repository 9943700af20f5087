package overload_test

import (
	"context"
	"errors"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"golang.org/x/time/rate"
	"google.golang.org/grpc"

	"github.com/countersign-mesh/countersign/pkg/overload"
)

// However calls come and end, there are never more in their handlers than the limits say, and all slots come back.
func TestTheBoundsHoldAndEverySlotComesBack(t *testing.T) {
	t.Parallel()
	gate := newGate(t, overload.Limits{Calls: 8, Streams: 8})
	var inside, most [4]atomic.Int32
	var all, mostOfAll, refused atomic.Int32
	ctxs := []context.Context{from(t, "/peer-0"), from(t, "/peer-1"), from(t, "/peer-2"), from(t, "/peer-3")}
	var callers sync.WaitGroup
	for caller := range 32 {
		callers.Go(func() {
			peer := caller % 4
			for n := range 1000 {
				err := endSomehow(n, func(handler func() error) error {
					return call(ctxs[peer], gate, func() error {
						defer inside[peer].Add(-1)
						defer all.Add(-1)
						raise(&most[peer], inside[peer].Add(1))
						raise(&mostOfAll, all.Add(1))
						return handler()
					})
				})
				if overload.ReasonOf(err) != "" {
					refused.Add(1)
				}
			}
		})
	}
	callers.Wait()
	if mostOfAll.Load() > 8 {
		t.Errorf("%d calls were in handlers at once", mostOfAll.Load())
	}
	for peer := range most {
		if n := most[peer].Load(); n > 6 {
			t.Errorf("%d calls of peer %d were in handlers at once", n, peer)
		}
	}
	if refused.Load() == 0 {
		t.Error("nothing was refused, so this shows nothing")
	}
	if n := gate.Status().Kinds["unary"].InFlight; n != 0 {
		t.Errorf("%d slots did not come back", n)
	}
	calls := hold(t, 6, func(handler func() error) error { return call(ctxs[0], gate, handler) })
	calls.end()
}

func raise(most *atomic.Int32, n int32) {
	for {
		now := most.Load()
		if n <= now || most.CompareAndSwap(now, n) {
			return
		}
	}
}

// endSomehow has a handler end in one of the ways that there are.
func endSomehow(n int, enter func(handler func() error) error) (err error) {
	defer func() {
		if p := recover(); p != nil {
			err = errors.New("panicked")
		}
	}()
	return enter(func() error {
		switch n % 4 {
		case 0:
			panic("in a handler")
		case 1:
			return errors.New("failed")
		case 2:
			return context.Canceled
		default:
			<-time.After(time.Microsecond)
			return nil
		}
	})
}

func TestOperatorsHaveSlotsOfTheirOwn(t *testing.T) {
	t.Parallel()
	gate := newGate(t, overload.Limits{Calls: 1, Streams: 1, Rate: rate.NewLimiter(0, 1)})
	health := new(string)
	gate.Reserve(health)
	ctx, cancel := context.WithTimeout(from(t, "/operator"), time.Millisecond)
	defer cancel()
	check := func(handler func() error) error {
		_, err := gate.Unary()(ctx, nil, &grpc.UnaryServerInfo{Server: health}, func(context.Context, any) (any, error) { return nil, handler() })
		return err
	}
	watch := func(handler func() error) error {
		return gate.Stream()(health, stream{ctx: ctx}, streamInfo, func(any, grpc.ServerStream) error { return handler() }) //nolint:contextcheck // it is the stream's
	}
	busy := hold(t, 1, func(handler func() error) error { return call(from(t, "/payments"), gate, handler) })
	defer busy.end()
	wantRefused(t, "a call to the full server", call(from(t, "/operator"), gate, nothing), "full")
	for range 3 { // more than the rate lets through, with less than the least deadline
		if err := errors.Join(check(nothing), watch(nothing)); err != nil {
			t.Errorf("health of a full server: %v", err)
		}
	}
	watches := hold(t, 48, watch)
	defer watches.end()
	wantRefused(t, "a 49th watch of one peer", watch(nothing), "share")
}

// A watch that each client holds open takes nothing of the operator's slots, though its service has those, and nothing of other streams.
func TestAWatchThatEachClientHoldsHasSlotsOfItsOwn(t *testing.T) {
	t.Parallel()
	gate := newGate(t, overload.Limits{Calls: 1, Streams: 1, Rate: rate.NewLimiter(0, 1)})
	health := new(string)
	gate.Reserve(health)
	gate.ReserveWatch("/test/Watch")
	ctx, cancel := context.WithTimeout(from(t, "/payments"), time.Millisecond)
	defer cancel()
	enter := func(ctx context.Context, method string) func(handler func() error) error {
		return func(handler func() error) error {
			return gate.Stream()(health, stream{ctx: ctx}, &grpc.StreamServerInfo{FullMethod: method}, func(any, grpc.ServerStream) error { return handler() }) //nolint:contextcheck // it is the stream's
		}
	}
	watches := hold(t, 384, enter(ctx, "/test/Watch")) // more than the rate lets through, with less than the least deadline
	defer watches.end()
	wantRefused(t, "a 385th watch of one peer", enter(ctx, "/test/Watch")(nothing), "share")
	others := hold(t, 128, enter(from(t, "/gateway"), "/test/Watch"))
	defer others.end()
	wantRefused(t, "a watch of a third peer", enter(from(t, "/accounts"), "/test/Watch")(nothing), "full")
	if err := errors.Join(enter(from(t, "/operator"), "/test/List")(nothing), open(from(t, "/payments"), gate, nothing)); err != nil {
		t.Errorf("other streams: %v", err)
	}
	want := overload.KindStatus{InFlight: 512, Limit: 512, Refused: map[string]uint64{"full": 1, "share": 1}}
	if diff := cmp.Diff(want, gate.Status().Kinds["watch"]); diff != "" {
		t.Errorf("status (-want +got):\n%s", diff)
	}
}

func TestEachPeersShareIsItsOwnWhereverItCallsFrom(t *testing.T) {
	t.Parallel()
	gate := newGate(t, overload.Limits{Calls: 4})
	first := hold(t, 3, func(handler func() error) error { return call(from(t, "/payments"), gate, handler) })
	defer first.end()
	wantRefused(t, "the same peer on another connection", call(from(t, "/payments"), gate, nothing), "share")
	if err := call(from(t, "/payments-2"), gate, nothing); err != nil {
		t.Errorf("another peer: %v", err)
	}
}
