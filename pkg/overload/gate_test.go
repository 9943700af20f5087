package overload_test

import (
	"context"
	"fmt"
	"testing"
	"testing/synctest"
	"time"

	"github.com/google/go-cmp/cmp"
	"golang.org/x/time/rate"

	"github.com/countersign-mesh/countersign/pkg/overload"
)

func TestCallsAndStreamsAreBoundedApart(t *testing.T) {
	t.Parallel()
	gate := newGate(t, overload.Limits{Calls: 4, Streams: 8})
	payments, gateway := from(t, "/payments"), from(t, "/gateway")
	calls := hold(t, 3, func(handler func() error) error { return call(payments, gate, handler) })
	wantRefused(t, "a fourth call of a peer that has three quarters", call(payments, gate, nothing), "share")
	others := hold(t, 1, func(handler func() error) error { return call(gateway, gate, handler) })
	wantRefused(t, "a fifth call", call(from(t, "/accounts"), gate, nothing), "full")
	wantRefused(t, "a fifth call, of a peer that has its share", call(payments, gate, nothing), "full")

	streams := hold(t, 6, func(handler func() error) error { return open(payments, gate, handler) })
	wantRefused(t, "a seventh stream of a peer", open(payments, gate, nothing), "share")
	if err := open(gateway, gate, nothing); err != nil {
		t.Errorf("a stream of another peer: %v", err)
	}
	want := overload.Status{Kinds: map[string]overload.KindStatus{
		"unary":    {InFlight: 4, Limit: 4, Refused: map[string]uint64{"full": 2, "share": 1, "rate": 0, "deadline": 0}},
		"stream":   {InFlight: 6, Limit: 8, Refused: map[string]uint64{"full": 0, "share": 1, "rate": 0, "deadline": 0}},
		"operator": {InFlight: 0, Limit: 64, Refused: map[string]uint64{"full": 0, "share": 0}},
		"watch":    {InFlight: 0, Limit: 512, Refused: map[string]uint64{"full": 0, "share": 0}},
	}}
	if diff := cmp.Diff(want, gate.Status()); diff != "" {
		t.Errorf("status (-want +got):\n%s", diff)
	}
	for _, h := range []*holders{calls, others, streams} {
		h.end()
	}
	if err := call(payments, gate, nothing); err != nil {
		t.Errorf("when the others have ended: %v", err)
	}
}

// ATTACKS 53: the deadline is asked before there is any effect, on slots and on the rate too.
func TestTooLittleDeadlineIsRefusedFirst(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		gate := newGate(t, overload.Limits{Calls: 1, Streams: 1, Rate: rate.NewLimiter(0, 1)})
		for _, test := range []struct {
			left time.Duration
			want string
		}{{-time.Second, "deadline"}, {0, "deadline"}, {overload.LeastDeadline - 1, "deadline"}} {
			ctx, cancel := context.WithDeadline(from(t, "/payments"), time.Now().Add(test.left))
			wantRefused(t, fmt.Sprintf("a call with %v left", test.left), call(ctx, gate, nothing), test.want)
			wantRefused(t, fmt.Sprintf("a stream with %v left", test.left), open(ctx, gate, nothing), test.want)
			info, _ := details(call(ctx, gate, nothing))
			if info.GetReason() != "DEADLINE_TOO_SHORT" {
				t.Errorf("the reason is %q", info.GetReason())
			}
			cancel()
		}
		ctx, cancel := context.WithTimeout(from(t, "/payments"), overload.LeastDeadline)
		defer cancel()
		if err := call(ctx, gate, nothing); err != nil { // what was refused before has not used the rate's one token up
			t.Errorf("a call with just enough: %v", err)
		}
		wantRefused(t, "one more", call(ctx, gate, nothing), "rate")
		unary := gate.Status().Kinds["unary"]
		if unary.Refused["deadline"] != 6 || unary.Refused["rate"] != 1 || unary.InFlight != 0 {
			t.Errorf("it stands at %+v", unary)
		}
	})
}

func TestNumbersThatMakeNoSenseAreRefused(t *testing.T) {
	t.Parallel()
	for _, limits := range []overload.Limits{{Calls: -1}, {Streams: -1}, {Calls: 1_000_001}} {
		if _, err := overload.New(limits); err == nil {
			t.Errorf("%+v is accepted", limits)
		}
	}
}
