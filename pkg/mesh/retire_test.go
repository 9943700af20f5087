package mesh_test

import (
	"context"
	"maps"
	"slices"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"

	"github.com/countersign-mesh/countersign/pkg/transport"
)

// ATTACKS 36, as it goes by default: shortly before a peer's SVID expires, the calls that are still open on the connection end with UNAVAILABLE, so
// that one whose SVID was renewed makes them again. This one's was not: it comes again and again, nothing of it is accepted after the expiry,
// and then it is refused.
func TestCallsEndShortlyBeforeTheSVIDOfTheirCallerExpires(t *testing.T) {
	t.Parallel()
	var accepted atomic.Int64 // when a handler got a message for the last time, in ns
	w := newWorld(t, doomedAndGood)
	w.echo.accepted = func(context.Context) { accepted.Store(time.Now().UnixNano()) }
	doomed, ends := w.startAll(t, 5*time.Second) // a tenth of that is left when they end
	expiry := doomed.id.svid.Certificates[0].NotAfter
	conns := w.conns.Conns()
	if len(conns) != 1 || !conns[0].Expires.Equal(expiry) {
		t.Fatalf("the connections are %+v, want one that expires at %v", conns, expiry)
	}
	retired := conns[0].Opened.Add(expiry.Sub(conns[0].Opened) / 10 * 9)
	ctx, stop := context.WithCancel(context.WithoutCancel(t.Context()))
	var using sync.WaitGroup
	defer using.Wait()
	defer stop()
	using.Go(func() { // calls until the end and beyond, on whatever connection it gets
		for ctx.Err() == nil {
			_ = say(ctx, doomed.conn)
			<-time.After(time.Millisecond)
		}
	})
	for _, name := range slices.Sorted(maps.Keys(ends)) {
		select {
		case over := <-ends[name]:
			if over.at.Before(retired) || over.fault != nil || status.Code(over.err) != codes.Unavailable {
				t.Errorf("%s ended %v after its time with %v; its handler found %v", name, over.at.Sub(retired), over.err, over.fault)
			}
		case <-time.After(time.Until(expiry) + 5*promise):
			t.Errorf("%s goes on", name)
		}
	}
	if n := w.conns.Stats().Renewed; n < 2 {
		t.Errorf("%d connections were renewed", n)
	}
	eventually(t, "the peer is refused", func() bool {
		return w.conns.Stats().Failures[transport.Failure{Direction: transport.Inbound, Reason: "validity"}] > 0 && len(w.conns.Conns()) == 0
	})
	if after := time.Unix(0, accepted.Load()).Sub(expiry); after > promise {
		t.Errorf("a message was accepted %v after the expiry", after)
	} else {
		t.Logf("the last message was accepted %v after the expiry", after)
	}
	if err := say(t.Context(), doomed.conn); err == nil {
		t.Error("a peer whose SVID has expired is back")
	}
}
