package mesh_test

import (
	"maps"
	"slices"
	"testing"
	"time"

	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"
)

// ATTACKS 45: the policy takes a permission away, and nobody is revoked. Every stream that it allowed ends, in whatever state it is; unary
// calls in flight go on, as they were allowed when they were made; and so does the connection, on which the peer may still do something else.
func TestStreamsEndWithTheirPermission(t *testing.T) {
	t.Parallel()
	w := newWorld(t, doomedAndGood)
	good := w.caller(t, w.others.SVID(t, "/good"))
	doomed := w.caller(t, w.ca.SVID(t, "/doomed"))
	ends, err := w.tryStartAll(t.Context(), doomed)
	if err != nil {
		t.Fatal(err)
	}
	undisturbed := useAll(t, good)
	from := w.rules.replace(t, echoPolicy([]string{"/good"}))
	streams := maps.Clone(ends)
	maps.DeleteFunc(streams, func(name string, _ <-chan end) bool { return calls()[name].unary != nil })
	// One whose client reads nothing keeps its status waiting: the connection stays, so nothing ends the wait but the client.
	maps.DeleteFunc(streams, func(name string, _ <-chan end) bool { return calls()[name].unread })
	checkEnds(t, streams, from, []codes.Code{codes.PermissionDenied})
	undisturbed()
	if err := say(t.Context(), doomed.conn); status.Code(err) != codes.PermissionDenied {
		t.Errorf("the next call: %v", err)
	}
	for _, name := range slices.Sorted(maps.Keys(ends)) {
		if calls()[name].unary == nil {
			continue
		}
		select {
		case over := <-ends[name]:
			t.Errorf("%s ended: %v", name, over.err)
		case <-time.After(time.Millisecond):
		}
	}
	if n := len(w.conns.Cuts()); n != 0 {
		t.Errorf("%d connections were cut", n)
	}
}
